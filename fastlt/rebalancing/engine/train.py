"""Train many linear classifiers at once on cached features: a grid of settings is one batched product a step."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import ops
from ...config import RebalanceConfig
from ...data.sampler import LongTailSampler
from ...features.arrays import Features, as_tensor
from ...losses import loss_terms
from ...metrics import shot_accuracy
from ...models import LinearHead
from ...recipes.stage2 import LR_PER_IMAGE
from ...runtime.device import autocast, on_device, resolve_precision
from ...runtime.machine import free_bytes
from ...schedule import cosine
from ..problem import Problem, Rebalanced
from .defaults import MOMENTUM, default_epochs, default_weight_decay

# Shapes: S seeds, K settings (learning rate x weight decay) a seed, B batch, C classes, D feature width.

RESIDENT_SHARE = 0.5  # of the free memory that training features may take to stay on the device
VIEWS_STREAM = 0x76696577  # keys the choice of views apart from every other draw


class Stack(Protocol):
    """S x K classifiers of one kind, as one module."""

    def parameters(self) -> Sequence[Tensor]:
        """Return what is trained, each with leading dimensions [S, K]."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """Map features [S, B, D] to logits [S, K, B, C]."""
        ...

    def project(self) -> None:
        """Bring the parameters back to where they may be, after a step."""
        ...

    def head(self, seed: int, setting: int) -> LinearHead:
        """Return one classifier as a linear head."""
        ...


LossTerms = Callable[[Tensor, Tensor, float], Tensor]
"""(logits [S, K, B, C], labels [S, 1, B], share of the epochs done) -> mean losses [S, K]."""


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """How a stack is trained; `settings` are (learning rate, weight decay) pairs."""

    sampling: str
    samples_per_class: int
    batch_size: int
    epochs: int
    protocol: str
    seeds: tuple[int, ...]
    settings: tuple[tuple[float, float], ...]

    @classmethod
    def of(
        cls,
        method: str,
        problem: Problem,
        config: RebalanceConfig,
        *,
        sampling: str = "class_balanced",
    ) -> HeadTraining:
        """Return the paper's training of a method, with what the settings change."""
        num_samples = len(problem.train[0])
        batch_size = min(config.batch_size or problem.stage1.get("batch_size", 512), num_samples)
        balanced = sampling == "class_balanced"
        dataset = problem.stage1.get("dataset", "")
        return cls(
            sampling=sampling,
            samples_per_class=min(4, batch_size) if balanced and config.protocol == "released" else 1,
            batch_size=batch_size,
            epochs=config.epochs or default_epochs(method, dataset),
            protocol=config.protocol,
            seeds=(config.seed,),
            settings=tuple(
                itertools.product(
                    config.lr or (LR_PER_IMAGE * batch_size,),
                    config.weight_decay or (default_weight_decay(dataset),),
                )
            ),
        )


class FeatureBatches:
    """Gives batches of training features: from the device where they fit, else row by row from their files.

    Each image of a batch is one of its views, drawn anew in every step.

    Args:
        views: The training features, one element a view.
        device: Where the batches go.
    """

    def __init__(self, views: Sequence[Features], device: torch.device) -> None:
        self.views, self.device = views, device
        self.labels = torch.from_numpy(views[0].labels).to(device)
        needed = sum(view.features.nbytes for view in views)
        resident = needed <= RESIDENT_SHARE * free_bytes(device)
        self.tensors = [as_tensor(view.features).to(device) for view in views] if resident else None

    def take(self, ids: NDArray[np.int64], key: tuple[int, int]) -> Tensor:
        """Return the features of samples `ids` [B], float32 [B, D]; `key` (seed, step) decides their views."""
        if len(self.views) == 1:
            return self.rows(0, ids)
        generator = np.random.Generator(np.random.Philox(key=[key[0], (VIEWS_STREAM << 32) + key[1]]))
        chosen = generator.integers(len(self.views), size=len(ids))
        out = torch.empty(len(ids), self.views[0].num_features, device=self.device)
        for view in np.unique(chosen):
            places = np.flatnonzero(chosen == view)
            out[on_device(torch.from_numpy(places), self.device)] = self.rows(int(view), ids[places])
        return out

    def rows(self, view: int, ids: NDArray[np.int64]) -> Tensor:
        """Return rows of one view, float32."""
        if self.tensors is None:
            return self.views[view].rows(ids, self.device)
        return self.tensors[view][on_device(torch.from_numpy(ids), self.device)].float()


def train_heads(
    stack: Stack, views: Sequence[Features], recipe: HeadTraining, terms: LossTerms, device: torch.device
) -> None:
    """Train all classifiers of a stack at once by SGD with momentum, weight decay on everything, cosine rates.

    One backward pass of the summed mean losses gives each classifier its own gradient, as they share nothing but the
    features; the order is that of `LongTailSampler` under each seed.

    Raises:
        ValueError: The loss of every classifier is no longer finite.
    """
    feed = FeatureBatches(views, device)
    num_classes = stack.head(0, 0).num_classes
    samplers = [
        LongTailSampler(
            views[0].labels,
            sampling=recipe.sampling,
            batch_size=recipe.batch_size,
            samples_per_class=recipe.samples_per_class,
            seed=seed,
            num_classes=num_classes,
            num_epochs=recipe.epochs,
        )
        for seed in recipe.seeds
    ]
    steps_per_epoch = len(samplers[0])
    parameters = stack.parameters()
    momenta = [torch.zeros_like(parameter) for parameter in parameters]
    grid = torch.tensor(recipe.settings, dtype=torch.float32, device=device)  # [K, 2]
    # Products in bf16 on a GPU; on a CPU features are fp32 and stay so
    precision = resolve_precision("auto", device) if device.type == "cuda" else "fp32"
    losses = torch.zeros(())
    for step in range(recipe.epochs * steps_per_epoch):
        epoch = step // steps_per_epoch
        ids = [sampler.batch(step) for sampler in samplers]
        x = torch.stack([feed.take(each, (seed, step)) for each, seed in zip(ids, recipe.seeds, strict=True)])
        y = feed.labels[on_device(torch.from_numpy(np.stack(ids)), device)][:, None]
        with autocast(device, precision):
            logits = stack.logits(x)
        losses = terms(logits.float(), y, epoch / recipe.epochs)
        gradients = torch.autograd.grad(losses.sum(), list(parameters))
        with torch.no_grad():
            rate, decay = cosine(epoch, recipe.epochs, recipe.protocol) * grid[:, 0], grid[:, 1]
            for parameter, gradient, momentum in zip(parameters, gradients, momenta, strict=True):
                shape = (1, -1, *[1] * (parameter.ndim - 2))
                momentum.mul_(MOMENTUM).add_(gradient).add_(decay.view(shape) * parameter)
                parameter.sub_(rate.view(shape) * momentum)
            stack.project()
    if not torch.isfinite(losses).any():
        rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(rate for rate, _ in recipe.settings))
        raise ValueError(f"--lr: the loss is not finite at learning rate {rates}; lower it")


def candidates(stack: Stack, recipe: HeadTraining) -> Iterator[tuple[tuple[float, float], LinearHead]]:
    """Yield ((learning rate, weight decay), head) of the first seed's classifiers that are finite."""
    for index, setting in enumerate(recipe.settings):
        head = stack.head(0, index)
        if all(torch.isfinite(parameter).all() for parameter in head.parameters()):
            yield setting, head


def choose(
    stack: Stack, recipe: HeadTraining, problem: Problem, config: RebalanceConfig, **params: float
) -> Rebalanced:
    """Return the classifier that is the best on the selection split, the first of equals."""
    trained = list(candidates(stack, recipe))
    if not trained:
        raise ValueError("--lr: no classifier is finite after training; lower it")
    if len(recipe.settings) == 1:
        return Rebalanced(head=trained[0][1], params=params, selected_on=None)
    (lr, decay), head = max(trained, key=lambda each: selection_accuracy(each[1], problem, config.select_by))
    return Rebalanced(head=head, params={**params, "lr": lr, "weight_decay": decay}, selected_on=problem.selected_on)


@torch.inference_mode()
def selection_accuracy(head: LinearHead, problem: Problem, select_by: str) -> float:
    """Return the accuracy on the selection split by which settings are chosen.

    Raises:
        ValueError: The group that decides has no images.
    """
    features, labels = problem.selection_tensors()
    ranks = ops.label_rank(
        features, head.weight.detach(), labels, bias=None if head.bias is None else head.bias.detach()
    )
    # A right answer's prediction is its label; what a wrong one's is does not matter
    predictions = torch.where(ranks == 0, labels, (labels + 1) % max(head.num_classes, 2))
    value: float | None = getattr(
        shot_accuracy(predictions.cpu().numpy(), problem.selection.labels, problem.class_counts), select_by
    )
    if value is None or math.isnan(value):
        raise ValueError(
            f"--select-by: got {select_by}, a group without images in {problem.selected_on}; choose class_mean or all"
        )
    return value


def check_features(views: Iterable[Features], head: LinearHead, num_classes: int) -> None:
    """Raise a ValueError unless the training features fit the head and every class has some."""
    for view in views:
        if view.num_features != head.num_features:
            raise ValueError(
                f"features: got width {view.num_features}; the classifier takes {head.num_features}: they come from "
                "another network"
            )
        counts = np.bincount(view.labels, minlength=num_classes)
        if len(counts) > num_classes:
            raise ValueError(f"labels: got class {len(counts) - 1}; expected 0 to {num_classes - 1}")
        if (counts == 0).any():
            raise ValueError(
                f"features: class {int(np.argmin(counts))} has no training images; expected at least one a class"
            )


def terms(loss: str, problem: Problem, *, label_smoothing: float = 0.0) -> LossTerms:
    """Return a loss of this problem's classes, as the engine calls it."""
    counts = torch.from_numpy(problem.class_counts).to(problem.device)

    def call(logits: Tensor, labels: Tensor, share: float) -> Tensor:
        return loss_terms(loss, logits, labels, counts, epoch_fraction=share, label_smoothing=label_smoothing)

    return call


cross_entropy = functools.partial(terms, "cross_entropy")


def single(config: RebalanceConfig) -> RebalanceConfig:
    """Return the settings if they leave nothing to choose.

    Raises:
        ValueError: There are several learning rates or weight decays, and no split to choose on.
    """
    for name, values in (("lr", config.lr), ("weight_decay", config.weight_decay)):
        if len(values) > 1:
            raise ValueError(f"{name}: got {len(values)} values; without a split to choose on give one")
    return config
