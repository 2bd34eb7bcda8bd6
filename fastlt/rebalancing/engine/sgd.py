"""How heads are trained: what a method starts from, the settings of a training, and a step of SGD on all heads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...config import RebalanceConfig
from ...data.sampler import LongTailSampler
from ...losses import batch_loss, check_own_loss
from ...models import LinearHead
from ...recipes.stage2 import LR_PER_IMAGE, Stage2, stage2
from ...runtime.device import autocast, resolve_precision
from ...schedule import cosine
from ..problem import Problem
from .grids import HeadGrid

# Shapes: K settings (learning rate x weight decay), B batch, C classes.

MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """What a method trains by SGD: the heads it starts from, and where it departs from cRT's training."""

    start: Callable[[LinearHead, RebalanceConfig, int], HeadGrid]
    """(joint head, settings, K) -> the heads before the first step."""
    uses_loss: bool = False
    """Whether `config.loss` applies; else it is cross entropy."""
    uses_label_smoothing: bool = False
    """Whether `config.label_smoothing` applies; else there is none."""
    epochs: Callable[[Stage2], int] = lambda paper: paper.crt_epochs
    """The default number of epochs, as in the paper."""
    default_lr: Callable[[Problem], float] | None = None
    """The default learning rate; None: the paper's, in proportion to the batch."""


class Setting(NamedTuple):
    """The settings in which the heads of a grid differ."""

    lr: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """The settings of one training of a grid of heads."""

    sampling: str
    samples_per_class: int
    batch_size: int
    epochs: int
    protocol: str
    seed: int
    settings: tuple[Setting, ...]
    """K settings, one for each head."""
    loss: str = "cross_entropy"
    label_smoothing: float | None = None
    """None for a method without label smoothing."""

    @classmethod
    def of(cls, method: Retraining, problem: Problem, config: RebalanceConfig) -> HeadTraining:
        """Return the paper's training of a method, as changed by the settings.

        With a loss other than cross entropy the draws are instance-balanced: the loss does the balancing.
        """
        batch_size = min(config.batch_size or problem.batch_size, int(problem.class_counts.sum()))
        paper = stage2(problem.dataset)
        rates = config.lr or (method.default_lr(problem) if method.default_lr else LR_PER_IMAGE * batch_size,)
        decays = config.weight_decay or (paper.weight_decay,)
        loss = config.loss if method.uses_loss else "cross_entropy"
        balanced = loss == "cross_entropy"
        check_own_loss(loss, torch.from_numpy(problem.class_counts).to(problem.device))
        return cls(
            sampling="class_balanced" if balanced else "instance_balanced",
            samples_per_class=min(4, batch_size) if balanced and config.protocol == "released" else 1,
            batch_size=batch_size,
            epochs=config.epochs or method.epochs(paper),
            protocol=config.protocol,
            seed=config.seed,
            settings=tuple(itertools.starmap(Setting, itertools.product(rates, decays))),
            loss=loss,
            label_smoothing=config.label_smoothing if method.uses_label_smoothing else None,
        )

    def sampler(self, labels: ArrayLike, num_classes: int) -> LongTailSampler:
        """Return the order of the training images."""
        return LongTailSampler(
            labels,
            sampling=self.sampling,
            batch_size=self.batch_size,
            samples_per_class=self.samples_per_class,
            seed=self.seed,
            num_classes=num_classes,
            num_epochs=self.epochs,
            rank=0,  # every process of a training that asks for this does all of it
            world_size=1,
        )

    def losses(self, logits: Tensor, labels: Tensor, class_counts: Tensor, epoch: int) -> Tensor:
        """Return every head's mean loss [K] of logits [K, B, C] and labels [B] in an epoch."""
        return batch_loss(
            self.loss,
            logits.float(),
            labels,
            class_counts,
            epoch_fraction=epoch / self.epochs,
            label_smoothing=self.label_smoothing or 0.0,
        )

    def check_losses(self, losses: Tensor) -> None:
        """Raise a ValueError if no head's loss [K] is finite."""
        if not torch.isfinite(losses).any():
            rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(setting.lr for setting in self.settings))
            raise ValueError(
                f"--lr: got {rates}, at which the loss is {losses[0].item()}; expected a rate that converges; lower it"
            )


class GridSGD:
    """SGD with momentum, weight decay on everything and cosine rates, for all heads of a grid at once.

    One backward pass of the summed mean losses gives each head its own gradient, as heads share only the features.
    """

    def __init__(self, grid: HeadGrid, training: HeadTraining) -> None:
        self.grid, self.training = grid, training
        self.parameters: Sequence[Tensor] = grid.parameters()
        self.momenta = [torch.zeros_like(parameter) for parameter in self.parameters]
        settings = torch.tensor(training.settings, dtype=torch.float32, device=self.parameters[0].device)  # [K, 2]
        self.rates, self.decays = settings.unbind(1)
        # Products in bf16 on a GPU; on a CPU features are fp32 and stay so
        self.precision = resolve_precision("auto", settings.device) if settings.device.type == "cuda" else "fp32"

    def learn(self, features: Tensor, labels: Tensor, class_counts: Tensor, epoch: int) -> Tensor:
        """Take a step on features [B, D] and labels [B], and return every head's loss [K] before it."""
        with autocast(features.device, self.precision):
            logits = self.grid.logits(features)
        losses = self.training.losses(logits, labels, class_counts, epoch)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.step(epoch)
        return losses

    @torch.no_grad()
    def step(self, epoch: int) -> None:
        """Update the heads by their gradients, and clear the gradients."""
        share = cosine(epoch, self.training.epochs, self.training.protocol)
        for parameter, momentum in zip(self.parameters, self.momenta, strict=True):
            assert parameter.grad is not None
            shape = (-1, *[1] * (parameter.ndim - 1))
            momentum.mul_(MOMENTUM).add_(parameter.grad).add_(self.decays.view(shape) * parameter)
            parameter.sub_((share * self.rates).view(shape) * momentum)
            parameter.grad = None
        self.grid.project()
