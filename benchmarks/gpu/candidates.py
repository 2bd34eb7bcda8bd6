"""Rewritings of a network that compute the same, to be measured on a GPU before any of them enters the product.

Memory traffic bounds these networks, not arithmetic, so extra arithmetic may cost nothing where a kernel moves fewer
bytes or reaches more of the bandwidth. Each candidate changes a network in place and keeps its parameters, or is a
setting of Inductor.

On a CPU (`make benchmark`, ResNeXt-50, bf16, eager) 1 x 1 convolutions as products made a training step 1.37x as fast
at 64 pixels but 1.03x at 224, and inference 3.1x slower; merged groups and recomputed blocks were slower everywhere. So
none of them has entered the product there.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch._functorch.config as functorch_config
import torch._inductor.config as inductor_config
from torch import Tensor, nn
from torch._inductor.decomposition import select_decomp_table
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fastlt.data.transforms import preprocess
from fastlt.models.batch_norm import soften_momentum, use_fused_batch_norm
from fastlt.models.resnet import Bottleneck, ResNet

# Shapes: B batch, C channels in, O channels out, G groups, H, W image size, k kernel size.


class PointwiseAsProduct(nn.Module):
    """A convolution of 1 x 1 as one matrix product over the pixels of channels_last images [B, C, H, W].

    Args:
        convolution: The convolution that it replaces; 1 x 1, one group, no padding.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.stride = convolution.weight, convolution.bias, convolution.stride

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, O, H / stride, W / stride]."""
        rows, columns = self.stride
        pixels = images[:, :, ::rows, ::columns].permute(0, 2, 3, 1)
        return F.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class MergedGroups(nn.Module):
    """A grouped convolution with `merge` groups in one: weights between channels of different groups are zero.

    It takes `merge` times the arithmetic, in fewer and larger products.

    Args:
        convolution: The convolution that it replaces; its number of groups is a multiple of `merge`.
        merge: Groups in one.
    """

    def __init__(self, convolution: nn.Conv2d, merge: int) -> None:
        super().__init__()
        self.weight, self.bias, self.merge = convolution.weight, convolution.bias, merge
        self.groups = convolution.groups // merge
        self.stride, self.padding, self.dilation = convolution.stride, convolution.padding, convolution.dilation

    def forward(self, images: Tensor) -> Tensor:
        """Convolve [B, C, H, W]."""
        return F.conv2d(images, self.block_diagonal(), self.bias, self.stride, self.padding, self.dilation, self.groups)

    def block_diagonal(self) -> Tensor:
        """Return the weights of the merged groups: [O, merge x C / G, k, k] from [O, C / G, k, k]."""
        outputs, inputs, *kernel = self.weight.shape
        blocks = self.weight.view(self.groups, self.merge, -1, 1, inputs, *kernel)
        diagonal = torch.eye(self.merge, dtype=blocks.dtype, device=blocks.device).view(
            1, self.merge, 1, self.merge, 1, 1, 1
        )
        return (blocks * diagonal).reshape(outputs, self.merge * inputs, *kernel)


def replace_convolutions(
    network: nn.Module, wanted: Callable[[nn.Conv2d], bool], by: Callable[[nn.Conv2d], nn.Module]
) -> None:
    """Replace the wanted convolutions of a network, in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and wanted(child):
                setattr(module, name, by(child))


def pointwise_as_products(network: nn.Module) -> None:
    """Compute all convolutions of 1 x 1 as matrix products."""

    def wanted(conv: nn.Conv2d) -> bool:
        return conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding == (0, 0)

    replace_convolutions(network, wanted, PointwiseAsProduct)


def merge_groups(network: nn.Module, width: int) -> None:
    """Merge the groups of all grouped convolutions.

    Args:
        network: Changed in place.
        width: The least number of channels of a merged group, if there are that many.
    """

    def merged(conv: nn.Conv2d) -> MergedGroups:
        return MergedGroups(conv, min(conv.groups, max(1, width * conv.groups // conv.in_channels)))

    replace_convolutions(network, lambda conv: conv.groups > 1, merged)


class RecomputedBottleneck(Bottleneck):
    """A block whose activations are computed again in the backward pass instead of being kept."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images as the block does."""
        out: Tensor = checkpoint(super().forward, x, use_reentrant=False)
        return out


def recompute_blocks(network: nn.Module) -> None:
    """Keep only the input of each bottleneck; its batch norm sees each batch twice, and moves half as far each time."""
    for module in network.modules():
        if type(module) is Bottleneck:
            soften_momentum(module, 2)
            module.__class__ = RecomputedBottleneck  # the same parameters under the same names


class _Cast(torch.autograd.Function):
    """Weights in the type of products, and their gradients in float32, each by one operation for all."""

    @staticmethod
    def forward(ctx, dtype, *weights):  # type: ignore[no-untyped-def]
        return tuple(weight.to(dtype) for weight in weights)

    @staticmethod
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]
        zeros = [gradient.new_zeros((), dtype=torch.float32).expand_as(gradient) for gradient in gradients]
        return None, *torch._foreach_add(list(gradients), zeros)


class _Body(nn.Module):
    """A network's own forward pass, under another name for its parameters."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return ResNet.forward(self.network, images)  # type: ignore[arg-type]


class CastTogether(ResNet):
    """A network that casts all weights of convolutions at once, where each convolution would cast its own."""

    body: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, 3, H, W] to logits."""
        kind = images.device.type
        if not torch.is_autocast_enabled(kind):
            return super().forward(images)
        weights = {f"network.{name}": each for name, each in self.named_parameters() if each.ndim == 4}
        cast = _Cast.apply(torch.get_autocast_dtype(kind), *weights.values())  # type: ignore[no-untyped-call]
        logits: Tensor = torch.func.functional_call(self.body, dict(zip(weights, cast, strict=True)), (images,))
        return logits


def cast_together(network: nn.Module) -> None:
    """Cast the weights of convolutions in one operation, and their gradients in another."""
    network.__class__ = CastTogether
    object.__setattr__(network, "body", _Body(network))  # not a child of its own


def shorten(network: nn.Module) -> None:
    """Leave two blocks of each stage: they have all shapes of a deep network, and compile in half the time."""
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        del stage[2:]  # type: ignore[union-attr, operator]


def launch_less(network: nn.Module) -> None:
    """Rewrite a network in both ways that save launches or bytes by Inductor's plan."""
    use_fused_batch_norm(network)
    cast_together(network)


TOGETHER = "fewest launches and bytes"

CANDIDATES: dict[str, Callable[[nn.Module], None] | None] = {
    "as it is": None,
    "batch norm by kernel": use_fused_batch_norm,
    "groups of 16 channels": functools.partial(merge_groups, width=16),
    "groups of 32 channels": functools.partial(merge_groups, width=32),
    "groups of 64 channels": functools.partial(merge_groups, width=64),
    "1x1 as products": pointwise_as_products,
    "blocks recomputed": recompute_blocks,
    "weights cast together": cast_together,
    TOGETHER: launch_less,
}


INDUCTOR: dict[str, dict[str, Any]] = {
    "combo kernels": {"combo_kernels": True},
    TOGETHER: {"combo_kernels": True},
    "reductions in one kernel": {"triton.cooperative_reductions": True},
    "more block sizes tried": {"max_autotune_pointwise": True},
}
BY_INDUCTOR = "jitter by Inductor"  # instead of our kernels
GATHERED = "max pool's gradient gathered"
ALL = tuple(dict.fromkeys((*CANDIDATES, BY_INDUCTOR, GATHERED, *INDUCTOR)))


def change_of(candidate: str) -> Callable[[nn.Module], None] | None:
    """Return a function that shortens a network and rewrites it as a candidate; None without a name."""
    if not candidate:
        return None

    def change(network: nn.Module) -> None:
        shorten(network)
        rewrite = CANDIDATES.get(candidate)
        if rewrite is not None:
            rewrite(network)

    return change


def without_kernels(images: Tensor) -> bool:
    """Return that there are no kernels; a compiler can follow this, but not a mock."""
    return False


@contextlib.contextmanager
def gathered_pooling() -> Iterator[None]:
    """Let Inductor gather the gradients of max pooling, as it did before PyTorch 2.13.

    There it adds them atomically to zeros in float32, and by its plan moves 9 to 16 MB more an image of 224 pixels.
    """
    gradient = torch.ops.aten.max_pool2d_with_indices_backward.default
    decompositions = select_decomp_table()
    rest = {operation: way for operation, way in decompositions.items() if operation is not gradient}
    # The cache of whole steps does not tell them apart, but that of Inductor's graphs does
    with functorch_config.patch(enable_autograd_cache=False), mock.patch.dict(decompositions, rest, clear=True):
        yield


@contextlib.contextmanager
def settings_of(candidate: str) -> Iterator[None]:
    """Apply, within a `with` block, a candidate's settings; most have none."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(inductor_config.patch(INDUCTOR.get(candidate, {})))
        if candidate == BY_INDUCTOR:
            stack.enter_context(mock.patch.object(preprocess, "has_kernels", without_kernels))
        if candidate in (GATHERED, TOGETHER):
            stack.enter_context(gathered_pooling())
        yield
