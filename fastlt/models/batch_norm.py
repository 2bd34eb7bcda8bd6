"""Batch norm for the blocks: plain, fused with the operations that follow, or ghost (over groups of images)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..ops.reference import move_statistics

# Shapes: B batch, C channels, H, W image size, G groups.


class Branches(NamedTuple):
    """The images that a block starts from, once for each of its branches, so that their gradients arrive apart."""

    main: Tensor
    shortcut: Tensor


def branches(x: Tensor | Branches) -> Branches:
    """Return images [B, C, H, W] as a block's two branches take them."""
    return x if isinstance(x, Branches) else Branches(x, x)


def norm_relu(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise and rectify images [B, C, H, W]."""
    if isinstance(norm, FusedBatchNorm2d) and norm.training:
        return norm.fused(x, None, relu=True).main
    return F.relu(norm(x), inplace=True)


def norm_join(norm: nn.Module, x: Tensor, shortcut: Tensor) -> Tensor | Branches:
    """Normalise images [B, C, H, W], add the shortcut, and rectify."""
    if isinstance(norm, FusedBatchNorm2d) and norm.training:
        return norm.fused(x, shortcut, relu=True)
    return F.relu(norm(x) + shortcut, inplace=True)


class FusedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training pass is `ops.batch_norm_relu`, which adds the residual and rectifies as well.

    In evaluation and in its state dict it equals `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W] alone."""
        return self.fused(x, None, relu=False).main if self.training else super().forward(x)

    def fused(self, x: Tensor, residual: Tensor | None, *, relu: bool) -> Branches:
        """Normalise [B, C, H, W] by the batch's moments, add the residual, rectify, and move the running statistics."""
        mean, variance, momentum = statistics(self)
        return Branches(
            *ops.batch_norm_relu(
                x,
                self.weight,
                self.bias,
                residual=residual,
                running=(mean, variance),
                momentum=momentum,
                relu=relu,
                eps=self.eps,
            )[:2]
        )


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over consecutive groups of images (Hoffer et al., Train longer, generalize better, 2017).

    In evaluation and in its state dict it equals `nn.BatchNorm2d`. Its running statistics move once per batch, towards
    the mean of the groups' means and of their unbiased variances.

    Args:
        num_features: Number of channels, C.
        group: Images per group; must divide every training batch.
    """

    def __init__(self, num_features: int, group: int) -> None:
        super().__init__(num_features)
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W].

        Raises:
            ValueError: The group does not divide the batch.
        """
        if not self.training:
            return super().forward(x)
        batch, channels, height, width = x.shape
        if batch % self.group:
            raise ValueError(
                f"--bn-group: got {self.group}; expected a divisor of a batch of {batch} images; choose another"
            )
        # [G, B / G * H * W, C]: no copy of a channels_last input
        grouped = x.permute(0, 2, 3, 1).reshape(batch // self.group, -1, channels)
        grouped = grouped.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(grouped, dim=1, correction=0)
        with torch.no_grad():
            move_statistics(*statistics(self), mean.mean(0), variance.mean(0), grouped.shape[1])
        scale = self.weight * torch.rsqrt(variance + self.eps)  # [G, C]
        out = grouped * scale[:, None] + (self.bias - mean * scale)[:, None]
        return out.to(x.dtype).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, float]:
    """Count a batch, and return the running mean and variance [C] with the share of the way that they move."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    return norm.running_mean, norm.running_var, norm.momentum


def use_ghost_batch_norm(model: nn.Module, group: int) -> None:
    """Replace every `nn.BatchNorm2d` inside a network, in place; weights and state-dict keys stay the same."""
    replace_batch_norm(model, lambda num_features: GhostBatchNorm2d(num_features, group))


def use_fused_batch_norm(model: nn.Module) -> None:
    """Replace every `nn.BatchNorm2d` inside a network, in place; weights and state-dict keys stay the same."""
    replace_batch_norm(model, FusedBatchNorm2d)


def replace_batch_norm(model: nn.Module, make: Callable[[int], nn.BatchNorm2d]) -> None:
    """Replace every plain `nn.BatchNorm2d` by the module that `make` returns for it; keep parameters and buffers."""
    for name, module in model.named_children():
        if type(module) is nn.BatchNorm2d:
            other = make(module.num_features)
            other.eps, other.momentum, other.training = module.eps, module.momentum, module.training
            other.weight, other.bias = module.weight, module.bias
            other.running_mean, other.running_var = module.running_mean, module.running_var
            other.num_batches_tracked = module.num_batches_tracked
            setattr(model, name, other)
        else:
            replace_batch_norm(module, make)


def soften_momentum(model: nn.Module, pieces: int) -> None:
    """Make the running statistics move as far in `pieces` updates as otherwise in one."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
            module.momentum = 1 - (1 - module.momentum) ** (1 / pieces)
