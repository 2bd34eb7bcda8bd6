"""PROTOCOL of the released code: in stage 2 BatchNorm's statistics drift, its weights do not; one step by hand."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastlt import RebalanceConfig, Run, rebalance, recipe
from fastlt.checkpoints import native
from fastlt.data.loaders.loader import train_loader
from fastlt.data.registry import open_data
from fastlt.data.sampler import LongTailSampler
from fastlt.data.transforms.augmentation import augmentation
from fastlt.data.transforms.preprocess import Preprocess
from fastlt.features.store import FeatureStore
from fastlt.models import LinearHead, Network, create_model

BATCH, LR, DECAY = 16, 0.2 * 16 / 512, 5e-4
SEED = 3  # of stage 2; stage 1's is another


@pytest.fixture
def run(five_classes: Callable[[int], Path], tmp_path: Path) -> Run:
    """A network that only looks trained, on five classes of 20 to 4 images: two steps an epoch."""
    root = five_classes(2)
    config = dataclasses.replace(
        recipe("glyphs_lt"),
        dataset="folder",
        data_root=root,
        batch_size=BATCH,
        color_jitter=0.3,
        precision="fp32",
        loader="pillow",
        num_threads=1,
        out=tmp_path / "run",
    )
    splits = open_data(config)
    run = Run.create(config, splits)
    torch.manual_seed(0)
    model = create_model(config.backbone, 5)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.8, 1.2)
        norm.num_batches_tracked.fill_(100)
    nn.init.normal_(model.fc.bias)
    native.save(run.checkpoint("best"), model.state_dict(), {})
    return run


def stage1_model(run: Run) -> Network:
    model = create_model(run.config.backbone, 5)
    tensors, _ = native.load(run.checkpoint("best"))
    native.load_into(model, tensors, source=run.path)
    return model.requires_grad_(False)


def batches(run: Run, samples_per_class: int, steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Network input and labels of stage 2's steps."""
    dataset = open_data(run.config)["train"]
    sampler = LongTailSampler(
        dataset.labels, sampling="class_balanced", batch_size=BATCH, seed=SEED, samples_per_class=samples_per_class
    )
    preprocess = Preprocess(run.config.mean, run.config.std)
    with train_loader(
        dataset, sampler, augmentation(run.config), num_steps=steps, backend="pillow", num_threads=1
    ) as images:
        return [(preprocess(batch.images, batch.jitter, batch.order), batch.labels) for batch in images]


def stage2(run: Run, method: str, protocol: str, epochs: int) -> dict[str, torch.Tensor]:
    config = RebalanceConfig(
        method=method,
        features="live",
        protocol=protocol,
        epochs=epochs,
        seed=SEED,
        temperature=False,
        device="cpu",
        loader="pillow",
        num_threads=1,
    )
    rebalance(run, config)
    tensors, _ = native.load(run.method(method) / "model.safetensors")
    return tensors


def base_rate(run: Run, method: str) -> float:
    """The learning rate by default: by the batch, or over-smoothing's by the curvature of its loss at zero."""
    if method != "los":
        return LR
    x = torch.from_numpy(FeatureStore(run, device=torch.device("cpu"), loader="pillow").split("train").features)
    return 5 / torch.linalg.eigvalsh(x.T.double() @ x.double() / len(x))[-1].item()


def by_hand(run: Run, method: str, protocol: str, shares: tuple[float, ...]) -> dict[str, torch.Tensor]:
    """Stage 2 written out: an epoch of two steps for every share of the rate; momentum 0.9, decay on everything."""
    rate = base_rate(run, method)
    model = stage1_model(run)
    model.eval()
    samples_per_class = 1
    if protocol == "released":
        model.train()  # this network has no dropout: BatchNorm is all that this concerns
        samples_per_class = 4
    weight, bias = model.fc.weight.detach().clone(), model.fc.bias.detach().clone()
    if method == "crt":
        fresh = LinearHead.initialised(5, model.num_features, generator=torch.Generator().manual_seed(SEED))
        parameters = [fresh.weight.detach().clone(), fresh.bias.detach().clone()]
    elif method == "los":
        parameters = [torch.zeros_like(weight), torch.zeros_like(bias)]
    else:
        parameters = [torch.ones(5)]
    velocity = [torch.zeros_like(p) for p in parameters]
    for step, (x, y) in enumerate(batches(run, samples_per_class, 2 * len(shares))):
        with torch.no_grad():
            features = model.features(x)
        leaves = [p.clone().requires_grad_() for p in parameters]
        logits = (features @ weight.T + bias) * leaves[0] if method == "lws" else features @ leaves[0].T + leaves[1]
        loss = F.cross_entropy(logits, y, label_smoothing=0.98 if method == "los" else 0.0)
        gradients = torch.autograd.grad(loss, leaves)
        for index, gradient in enumerate(gradients):
            velocity[index] = 0.9 * velocity[index] + gradient + DECAY * parameters[index]
            parameters[index] = parameters[index] - rate * shares[step // 2] * velocity[index]
    if method == "lws":
        weight, bias = weight * parameters[0][:, None], bias * parameters[0]
    else:
        weight, bias = parameters
    return {**model.state_dict(), "fc.weight": weight, "fc.bias": bias}


@pytest.mark.parametrize("method", ["crt", "lws", "los"])
@pytest.mark.parametrize(
    ("protocol", "shares"),
    # cosine over T = 3 epochs: cos(pi t / 3) = 1, .5, -.5, -1; the released code begins at t = 1
    [("paper", (1.0, 0.75, 0.25)), ("released", (0.75, 0.25, 0.0))],
)
def test_stage_2_is_what_the_protocol_says(run: Run, method: str, protocol: str, shares: tuple[float, ...]) -> None:
    got = stage2(run, method, protocol, epochs=3)
    expected = by_hand(run, method, protocol, shares)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, atol=1e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
    before, _ = native.load(run.checkpoint("best"))
    statistics = [key for key in before if "running_" in key]
    drifted = [key for key in statistics if not torch.equal(before[key], got[key])]
    assert drifted == (statistics if protocol == "released" else [])


def test_reestimated_statistics_are_the_mean_of_class_balanced_batches(run: Run) -> None:
    settings = {"seed": SEED, "temperature": False, "device": "cpu", "num_threads": 1}
    rebalance(run, RebalanceConfig(tau="0", reestimate_batch_norm=True, **settings))
    tensors, _ = native.load(run.method("tau") / "model.safetensors")
    model = stage1_model(run)
    inputs: list[torch.Tensor] = []
    model.bn1.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    model.train()
    with torch.no_grad():
        for x, _ in batches(run, 1, 2):
            model.features(x)
    assert isinstance(model.bn1, nn.BatchNorm2d)
    mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variance = torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
    torch.testing.assert_close(tensors["bn1.running_mean"], mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tensors["bn1.running_var"], variance, atol=1e-5, rtol=1e-4)
    assert np.isfinite(tensors["layer1.0.bn1.running_var"].numpy()).all()
