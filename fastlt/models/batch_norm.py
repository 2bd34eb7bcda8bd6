"""Ghost batch norm: statistics of groups of images, as if each group were on a GPU of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Shapes: B batch, C channels, H, W image size, G groups.


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over consecutive groups of images (Hoffer et al., Train longer, generalize better, 2017).

    In evaluation, and in its state dict, it is ``nn.BatchNorm2d``. Its running statistics move once a batch, towards
    the mean of the groups' means and of their unbiased variances.

    Args:
        num_features: Number of channels, C.
        group: Images of a group; must divide every training batch.
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
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        batch, channels, height, width = x.shape
        if batch % self.group:
            raise ValueError(f"--bn-group: got {self.group}, which does not divide a batch of {batch} images")
        # [G, B / G * H * W, C]: no copy of a channels_last input
        grouped = x.permute(0, 2, 3, 1).reshape(batch // self.group, -1, channels)
        grouped = grouped.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(grouped, dim=1, correction=0)
        count = grouped.shape[1]
        with torch.no_grad():
            assert self.momentum is not None
            unbiased = variance.mean(0) * (count / max(count - 1, 1))
            self.running_mean.lerp_(mean.mean(0).to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)  # [G, C]
        out = grouped * scale[:, None] + (self.bias - mean * scale)[:, None]
        return out.to(x.dtype).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def use_ghost_batch_norm(model: nn.Module, group: int) -> None:
    """Replace every ``nn.BatchNorm2d`` inside a network, in place; weights and state-dict keys stay."""
    for name, module in model.named_children():
        if type(module) is nn.BatchNorm2d:
            ghost = GhostBatchNorm2d(module.num_features, group)
            ghost.eps, ghost.momentum, ghost.training = module.eps, module.momentum, module.training
            ghost.weight, ghost.bias = module.weight, module.bias
            ghost.running_mean, ghost.running_var = module.running_mean, module.running_var
            ghost.num_batches_tracked = module.num_batches_tracked
            setattr(model, name, ghost)
        else:
            use_ghost_batch_norm(module, group)


def soften_momentum(model: nn.Module, pieces: int) -> None:
    """Let the running statistics move as far in ``pieces`` updates as they otherwise do in one."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
            module.momentum = 1 - (1 - module.momentum) ** (1 / pieces)
