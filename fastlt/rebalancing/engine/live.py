"""Stage 2 on live images: the classifier is trained on new augmented views, batch by batch, through the backbone."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config import RebalanceConfig
from ...data.transforms.preprocess import Preprocess
from ...features.store import FeatureStore
from ...models import LinearHead, Network
from ...recipes.stage2 import LR_PER_IMAGE
from ...runtime.device import autocast, resolve_precision
from ...runtime.log import log
from ...schedule import cosine
from ..problem import Problem, Rebalanced
from .batch_norm import batch_norms, fresh_model, len_train, training_images
from .defaults import MOMENTUM, default_epochs, default_rate, default_weight_decay
from .stacks import scaled
from .train import selection_accuracy

# Shapes: B batch, C classes, D feature width.

LIVE_METHODS = ("crt", "lws", "los")


class ClassScales(nn.Module):
    """LWS: a frozen linear head and one learned scale a class, logit_j = s_j (w_j x + b_j)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self.register_buffer("weight", head.weight.detach().clone())
        self.register_buffer("bias", None if head.bias is None else head.bias.detach().clone())
        self.scale = nn.Parameter(torch.ones(head.num_classes, device=head.weight.device))

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, D] to logits [B, C]."""
        return F.linear(features, self.weight, self.bias) * self.scale

    def folded(self) -> LinearHead:
        """Return the linear head that gives the same logits."""
        return scaled(self.weight, self.bias, self.scale)


@dataclasses.dataclass(kw_only=True)
class Candidate:
    """One classifier in training: its module, its optimizer and its settings."""

    module: LinearHead | ClassScales
    optimizer: torch.optim.SGD
    lr: float
    weight_decay: float

    def head(self) -> LinearHead:
        """Return the classifier as a linear head."""
        if isinstance(self.module, ClassScales):
            return self.module.folded()
        bias = self.module.bias
        return LinearHead(self.module.weight.detach().clone(), None if bias is None else bias.detach().clone())


def fit_live(store: FeatureStore, config: RebalanceConfig) -> tuple[dict[str, Rebalanced], FeatureStore]:
    """Train a classifier on images that pass the backbone anew each epoch, in class-balanced order.

    Under the paper's protocol BatchNorm stays in eval mode. Under the released code's its running statistics drift to
    class-balanced images, with its weights fixed; the drifted network is then the one that is scored and written. With
    `fine_tune` the last stage, or all of the network, is trained besides (the paper's ablation), BatchNorm there in
    train mode.

    Args:
        store: The run's features.
        config: Method and settings; several learning rates or weight decays are trained side by side.

    Returns:
        ({method: the classifier}, the store of the network that it belongs to).

    Raises:
        ValueError: The method has no live form, or settings exclude each other.
    """
    train = store.run.config
    batch_size = config.batch_size or train.batch_size
    steps_per_epoch = max(1, len_train(store) // batch_size)
    epochs = config.epochs or default_epochs(config.method, train.dataset)
    model = fresh_model(store)
    parts = trained_parts(model, config.fine_tune)
    trunk = [parameter for part in parts for parameter in part.parameters()]
    if config.lr:
        rates = config.lr
    elif config.method == "los":
        rates = (default_rate(store.split("train"), model.fc.num_classes, store.device),)
    else:
        rates = (LR_PER_IMAGE * batch_size,)
    decays = config.weight_decay or (default_weight_decay(train.dataset),)
    candidates = make_candidates(model, trunk, config, rates, decays)
    set_modes(model, parts, drift=config.protocol == "released")
    preprocess = Preprocess(train.mean, train.std).to(store.device)
    precision = resolve_precision(train.precision, store.device)
    smoothing = config.label_smoothing if config.method == "los" else 0.0
    images = training_images(store, config, num_steps=epochs * steps_per_epoch, batch_size=batch_size)
    log.info(
        "%s on live images: %d epochs of %d steps of %d images", config.method, epochs, steps_per_epoch, batch_size
    )
    with contextlib.closing(images):
        for step, batch in enumerate(images):
            share = cosine(step // steps_per_epoch, epochs, config.protocol)
            with torch.set_grad_enabled(bool(trunk)), autocast(store.device, precision):
                features = model.features(preprocess(batch.images, batch.jitter, batch.order))
            losses = []
            for each in candidates:
                for group in each.optimizer.param_groups:
                    group["lr"] = each.lr * share
                loss = F.cross_entropy(each.module(features.float()), batch.labels, label_smoothing=smoothing)
                loss.backward()  # type: ignore[no-untyped-call]
                each.optimizer.step()
                each.optimizer.zero_grad(set_to_none=True)
                losses.append(loss.detach())
            if (step + 1) % steps_per_epoch == 0:
                report(step // steps_per_epoch + 1, epochs, losses, candidates)
    model.eval()
    moved = store.under(model.state_dict(), config.method)
    return {config.method: choose(candidates, moved, config)}, moved


def check_live(config: RebalanceConfig) -> None:
    """Refuse what has no live form."""
    if config.method not in LIVE_METHODS:
        raise ValueError(
            f"--features: got live with --method {config.method}; live images train {', '.join(LIVE_METHODS)} only: "
            "choose one of them, or --features cached"
        )
    if config.loss != "cross_entropy":
        raise ValueError(f"--loss: got {config.loss} with --features live; it needs --features cached")
    if config.reestimate_batch_norm and config.protocol == "released":
        raise ValueError(
            "--reestimate-batch-norm: got it with --protocol released, in which the statistics drift by themselves; "
            "drop it, or choose --protocol paper"
        )
    grid = max(len(config.lr), 1) * max(len(config.weight_decay), 1)
    if grid > 1 and config.fine_tune != "classifier":
        raise ValueError(
            f"--fine-tune: got {config.fine_tune} with {grid} pairs of --lr and --weight-decay; each pair would need "
            "a network of its own: give one"
        )
    if grid > 1 and config.select_on == "folds":
        raise ValueError(
            f"--select-on: got folds with {grid} pairs of --lr and --weight-decay and --features live; choose val, or "
            "--features cached"
        )


def make_candidates(
    model: Network,
    trunk: list[nn.Parameter],
    config: RebalanceConfig,
    rates: tuple[float, ...],
    decays: tuple[float, ...],
) -> list[Candidate]:
    """Return one classifier for every pair of learning rate and weight decay, all from the same start."""
    found = []
    device = model.fc.weight.device
    for lr, decay in itertools.product(rates, decays):
        module: LinearHead | ClassScales
        if config.method == "lws":
            module = ClassScales(model.fc)
        elif config.method == "los":
            weight = torch.zeros(model.fc.num_classes, model.fc.num_features, device=device)
            module = LinearHead(weight, torch.zeros(len(weight), device=device))
        else:
            generator = torch.Generator().manual_seed(config.seed)
            module = LinearHead.initialised(model.fc.num_classes, model.fc.num_features, generator=generator).to(device)
        optimizer = torch.optim.SGD([*module.parameters(), *trunk], lr=lr, momentum=MOMENTUM, weight_decay=decay)
        found.append(Candidate(module=module, optimizer=optimizer, lr=lr, weight_decay=decay))
    return found


def trained_parts(model: Network, fine_tune: str) -> list[nn.Module]:
    """Return the modules of the backbone that are trained: none, the last stage and what follows it, or all."""
    if fine_tune == "classifier":
        return []
    stages = model.stages()
    if fine_tune == "all":
        return stages
    if len(stages) == 1:
        raise ValueError(
            "--fine-tune: got last_block, but this network names no stages (layer4, stages, blocks or layers); "
            "choose all or classifier"
        )
    return stages[-1:]


def set_modes(model: Network, parts: list[nn.Module], *, drift: bool) -> None:
    """Put everything in eval mode, but for the parts trained and, if they are to drift, BatchNorm's statistics."""
    model.eval()
    model.requires_grad_(False)
    for part in parts:
        part.train()
        part.requires_grad_(True)
    for layer in batch_norms(model) if drift else ():
        layer.train()


def report(epoch: int, epochs: int, losses: list[Tensor], candidates: list[Candidate]) -> None:
    """Log an epoch's last loss; a run that diverged ends here."""
    for loss, each in zip(torch.stack(losses).tolist(), candidates, strict=True):
        if not math.isfinite(loss):
            raise ValueError(f"--lr: the loss is {loss} by epoch {epoch} with learning rate {each.lr:g}; lower --lr")
        log.info("epoch %d/%d: loss %.3f at learning rate %g", epoch, epochs, loss, each.lr)


def choose(candidates: list[Candidate], store: FeatureStore, config: RebalanceConfig) -> Rebalanced:
    """Return the candidate that is the best on the selection split, the first of equals."""
    params = {"smoothing": config.label_smoothing} if config.method == "los" else {}
    if len(candidates) == 1:
        return Rebalanced(head=candidates[0].head(), params=params, selected_on=None)
    where = config.selection_split
    problem = Problem(
        head=store.head,
        train=(),
        selection=store.split(where),
        selected_on=where,
        class_counts=np.asarray(store.run.data["class_counts"], dtype=np.int64),
        device=store.device,
    )
    best = max(candidates, key=lambda each: selection_accuracy(each.head(), problem, config.select_by))
    params |= {"lr": best.lr, "weight_decay": best.weight_decay}
    return Rebalanced(head=best.head(), params=params, selected_on=where)
