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
from ...losses import batch_loss, check_own_loss, log_counts
from ...models import LinearHead
from ...ops.backend import has_kernels
from ...ops.linear import sgd_step
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

    def losses(
        self,
        grid: HeadGrid,
        inputs: Tensor,
        labels: Tensor,
        class_counts: Tensor,
        done: Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return every head's mean loss [K].

        Args:
            grid: The heads.
            inputs: What their trained part sees (`HeadGrid.inputs`): of the batch, or of all images.
            labels: [B].
            class_counts: [C].
            done: Share of the epochs done, [].
            rows: Rows of `inputs` that are the batch, [B]; None for all.
        """
        smoothing = self.label_smoothing or 0.0
        is_fused = self.loss in ("cross_entropy", "balanced_softmax") and has_kernels(inputs)
        if is_fused and not inputs.requires_grad:  # as it does where the backbone is trained as well
            offset = log_counts(class_counts) if self.loss == "balanced_softmax" else None
            return grid.cross_entropy(inputs, labels, rows=rows, offset=offset, label_smoothing=smoothing)
        logits = grid.logits(inputs if rows is None else inputs[rows]).float()
        return batch_loss(self.loss, logits, labels, class_counts, epoch_fraction=done, label_smoothing=smoothing)

    def check_losses(self, losses: Tensor) -> None:
        """Raise a ValueError if no head's loss [K] is finite."""
        if not torch.isfinite(losses).any():
            rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(setting.lr for setting in self.settings))
            raise ValueError(
                f"--lr: got {rates}, at which the loss is {losses[0].item()}; expected a rate that converges; lower it"
            )


class GridSGD:
    """SGD with momentum, weight decay on everything and cosine rates, for all heads of a grid at once.

    One backward pass of all mean losses gives each head its own gradient, as heads share only the features. All that
    changes from step to step is in tensors that stay where they are, so that a step can be replayed.

    Args:
        grid: The heads.
        training: Their settings.
        class_counts: Training images of every class, [C], on the device.
        exact: Whether to multiply in fp32 on a GPU too.
    """

    def __init__(self, grid: HeadGrid, training: HeadTraining, class_counts: Tensor, *, exact: bool = False) -> None:
        self.grid, self.training, self.class_counts = grid, training, class_counts
        parameters = grid.parameters()
        self.device = parameters[0].device
        # Products in bf16 on a GPU; on a CPU features are fp32 and stay so
        is_gpu = self.device.type == "cuda"
        self.precision = resolve_precision("auto", self.device) if is_gpu and not exact else "fp32"
        if self.precision == "bf16":
            grid.multiply_in(torch.bfloat16)
        self.velocities = [torch.zeros_like(parameter) for parameter in parameters]
        settings = torch.tensor(training.settings, dtype=torch.float32, device=self.device)  # [K, 2]
        self.rates, self.decays = settings.T.contiguous()
        self.share, self.done = (torch.zeros((), device=self.device) for _ in range(2))

    def begin(self, epoch: int) -> None:
        """Set the share of the learning rates, and that of the epochs done, of an epoch."""
        self.share.fill_(cosine(epoch, self.training.epochs, self.training.protocol))
        self.done.fill_(epoch / self.training.epochs)

    def inputs(self, features: Tensor) -> Tensor:
        """Map features [B, D] to what the trained part of the heads sees."""
        with autocast(self.device, self.precision):  # a caller's may be on
            return self.grid.inputs(features)

    def learn(self, inputs: Tensor, labels: Tensor, rows: Tensor | None = None) -> Tensor:
        """Take a step, and return every head's loss [K] before it; arguments as for `HeadTraining.losses`."""
        with autocast(self.device, self.precision):
            losses = self.training.losses(self.grid, inputs, labels, self.class_counts, self.done, rows)
        self.step(torch.autograd.grad(losses.sum(), self.grid.leaves()))
        return losses.detach()

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Update the heads by the gradients of their `leaves`."""
        parameters, leaves = self.grid.parameters(), self.grid.leaves()
        for parameter, velocity, leaf, gradient in zip(parameters, self.velocities, leaves, gradients, strict=True):
            sgd_step(
                parameter,
                velocity,
                gradient,
                rates=self.rates,
                decays=self.decays,
                share=self.share,
                momentum=MOMENTUM,
                copy=None if leaf is parameter else leaf,
            )
        self.grid.project()
