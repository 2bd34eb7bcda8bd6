"""Stage 1 written out: every step's rates, the averages of the weights, the records and the best epoch."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastlt import TrainConfig, recipe, train
from fastlt.checkpoints import native
from fastlt.data.loaders.loader import eval_loader, train_loader
from fastlt.data.registry import open_data
from fastlt.data.sampler import LongTailSampler
from fastlt.data.transforms.augmentation import augmentation, eval_transform
from fastlt.data.transforms.preprocess import Preprocess
from fastlt.losses import batch_loss
from fastlt.metrics import shot_accuracy
from fastlt.models import Network, create_model

EPOCHS, BATCH = 4, 16
# Two steps an epoch: the first epoch warms up, to the cosine over four epochs
RATES = [0.1 * share for share in (0.5, 1.0, *(0.5 * (1 + np.cos(np.pi * epoch / 4)) for epoch in (1, 1, 2, 2, 3, 3)))]


@pytest.fixture
def config(five_classes: Callable[[int], Path], tmp_path: Path) -> TrainConfig:
    """Five classes of 20 to 4 images, 40 in all."""
    root = five_classes(5)
    # Unequal classes: their mean is not that of images
    for label, folder in enumerate(sorted((root / "val").iterdir())):
        for file in sorted(folder.iterdir())[label + 1 :]:
            file.unlink()
    return dataclasses.replace(
        recipe("glyphs_lt"),
        dataset="folder",
        data_root=root,
        epochs=EPOCHS,
        batch_size=BATCH,
        lr=0.1,
        backbone_lr=0.03,
        warmup_epochs=1,
        weight_decay=0.01,
        label_smoothing=0.1,
        color_jitter=0.3,
        seed=5,
        precision="fp32",
        device="cpu",
        loader="pillow",
        num_threads=1,
        out=tmp_path / "run",
    )


def follow(average: Network, model: Network, decay: float, step: int) -> None:
    """Move the averages of floating-point tensors after a step, from 1."""
    kept = min(decay, (1 + step) / (10 + step))
    for one, other in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        one.copy_(kept * one + (1 - kept) * other if one.is_floating_point() else other)


def logits_of(model: Network, x: torch.Tensor, loss: str) -> torch.Tensor:
    """Logits, or the cosines of LDAM."""
    return F.normalize(model.features(x)) @ F.normalize(model.fc.weight).T if loss == "ldam" else model(x)


@pytest.mark.parametrize(
    ("loss", "ema", "pieces"),
    [("cross_entropy", 0.0, 1), ("cross_entropy", 0.9, 1), ("cross_entropy", 0.0, 2), ("ldam", 0.0, 1)],
)
def test_stage_1_step_by_step(config: TrainConfig, loss: str, ema: float, pieces: int) -> None:
    config = dataclasses.replace(config, loss=loss, ema=ema, accumulate=pieces)
    run = train(config)
    got, _ = native.load(run.checkpoint("last"))
    best, metadata = native.load(run.checkpoint("best"))
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]

    splits = open_data(config)
    sampler = LongTailSampler(splits["train"].labels, batch_size=BATCH, seed=5, num_epochs=EPOCHS, num_classes=5)
    preprocess = Preprocess(config.mean, config.std)
    with eval_loader(
        splits["val"], eval_transform(config), batch_size=15, indices=np.arange(15), backend="pillow", num_threads=1
    ) as images:
        (val,) = [preprocess(batch.images) for batch in images]
    torch.manual_seed(5)
    model = create_model(config.backbone, 5, config.image_size).to(memory_format=torch.channels_last)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1 - 0.9 ** (1 / pieces)  # as far over the pieces of a batch as over the whole
    if loss == "ldam":
        nn.init.zeros_(model.fc.bias.requires_grad_(False))
    average = copy.deepcopy(model)
    backbone = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    # PyTorch's own order of operations: a network of rectifiers makes much of a last bit
    head = [p for p in model.fc.parameters() if p.requires_grad]
    groups = [{"params": backbone, "share": 0.3}, {"params": head, "share": 1.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)
    counts = torch.from_numpy(splits["train"].class_counts)
    losses, hits, states = [], [], []
    with train_loader(
        splits["train"], sampler, augmentation(config), num_steps=8, backend="pillow", num_threads=1
    ) as images:
        for step, batch in enumerate(images):
            x = preprocess(batch.images, batch.jitter, batch.order)
            model.train()
            optimizer.zero_grad()
            mean, right = 0.0, 0
            for inputs, labels in zip(x.chunk(pieces), batch.labels.chunk(pieces), strict=True):
                logits, done = logits_of(model, inputs, loss), step // 2 / EPOCHS
                part = batch_loss(loss, logits, labels, counts, epoch_fraction=done, label_smoothing=0.1) / pieces
                part.backward()
                mean += part.item()
                right += int((logits.argmax(1) == labels).sum())
            for group in optimizer.param_groups:
                group["lr"] = RATES[step] * group["share"]
            optimizer.step()
            with torch.no_grad():
                follow(average, model, ema, step + 1)
            losses.append(mean)
            hits.append(right)
            if step % 2:
                network = average if ema else model
                with torch.no_grad():
                    predictions = logits_of(network.eval(), val, loss).argmax(1).numpy()
                accuracy = shot_accuracy(predictions, splits["val"].labels, splits["train"].class_counts)
                states.append((accuracy, {key: value.clone() for key, value in network.state_dict().items()}))

    for key, value in model.state_dict().items():
        torch.testing.assert_close(got[f"model.{key}"], value, rtol=1e-3, atol=1e-4)
    for name, parameter in ((name, p) for name, p in model.named_parameters() if p.requires_grad):
        buffer = optimizer.state[parameter]["momentum_buffer"]
        torch.testing.assert_close(got[f"momentum.{name}"], buffer, rtol=1e-3, atol=1e-4)
    assert len(records) == EPOCHS
    for epoch, (record, (accuracy, _)) in enumerate(zip(records, states, strict=True)):
        assert (record["epoch"], record["step"]) == (epoch + 1, 2 * epoch + 2)
        assert record["learning_rate"] == pytest.approx(RATES[2 * epoch + 1])
        assert record["loss"] == pytest.approx(np.mean(losses[2 * epoch : 2 * epoch + 2]), rel=1e-4)
        assert record["train_accuracy"] == pytest.approx(100 * sum(hits[2 * epoch : 2 * epoch + 2]) / (2 * BATCH))
        expected = {key: None if value is None else 100 * value for key, value in vars(accuracy).items()}
        assert record["val"] == pytest.approx(expected)
    values = [accuracy.all for accuracy, _ in states]
    first = values.index(max(values))
    assert (metadata["epoch"], metadata["val_all"]) == (first + 1, pytest.approx(100 * values[first]))
    if loss == "ldam":  # kept as the linear head that decides alike
        states[first][1]["fc.weight"] = F.normalize(states[first][1]["fc.weight"])
    for key, value in states[first][1].items():
        torch.testing.assert_close(best[key], value, rtol=1e-3, atol=1e-4)
