"""Every layer type of ResNeXt-50's training step alone: how far is each from its bytes or its arithmetic, and by what?

No network is compiled. Convolutions run by cuDNN, with their groups merged, and as matrix products where they are
1 x 1; batch norm with its ReLU and residual by our kernels, eagerly and by Inductor.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastlt import ops
from fastlt.runtime.device import algorithms

from .rows import Figures, Row, Target, attempt, rates, timed

# Shapes: B batch, C channels, H, W image size, k kernel size.

MERGED = (16, 32, 64, 128)  # channels of a group
STEMS = (4, 8)  # channels, some of them zero: an even number of bytes a pixel
ONE = 2  # bytes an element in bf16


class Conv(NamedTuple):
    """A convolution without bias."""

    inputs: int
    outputs: int
    kernel: int
    groups: int
    stride: int
    side: int

    @property
    def out_side(self) -> int:
        """The side of its output, pixels."""
        return -(-self.side // self.stride)


class Norm(NamedTuple):
    """A batch norm and ReLU, after a residual's sum or not."""

    channels: int
    side: int
    residual: bool


def layers_of(size: int, blocks: tuple[int, ...]) -> tuple[Counter[Conv], Counter[Norm]]:
    """Return the convolutions and batch norms of ResNeXt-50 (32 groups), and how often each occurs.

    Args:
        size: Side of the images, pixels.
        blocks: Bottlenecks of each stage.
    """
    convs, norms = Counter([Conv(3, 64, 7, 1, 2, size)]), Counter([Norm(64, size // 2, False)])
    wide, side = 64, size // 4
    for stage, number in enumerate(blocks):
        inner, out = 128 << stage, 256 << stage
        for block in range(number):
            stride = 2 if stage and not block else 1
            convs[Conv(wide, inner, 1, 1, 1, side)] += 1
            norms[Norm(inner, side, False)] += 1
            convs[Conv(inner, inner, 3, 32, stride, side)] += 1
            if not block:
                convs[Conv(wide, out, 1, 1, stride, side)] += 1
            side //= stride
            norms[Norm(inner, side, False)] += 1
            convs[Conv(inner, out, 1, 1, 1, side)] += 1
            norms[Norm(out, side, True)] += 1
            wide = out
    return convs, norms


def rows(call: str, target: Target) -> Iterator[Row]:
    """Yield a row for every layer type, in call a."""
    if call != "a":
        return
    convs, norms = layers_of(target.pick(32, 224), target.pick((1, 1), (3, 4, 6, 3)))
    batch = target.pick(2, 256)
    for conv, num in convs.items():
        name = f"layers: {conv.inputs} to {conv.outputs}, k{conv.kernel} g{conv.groups} s{conv.stride}, {conv.side} px"
        yield Row(name, functools.partial(convolution, target, batch, conv, num), 90)
    for norm, num in norms.items():
        name = f"layers: norm of {norm.channels}{' + residual' * norm.residual}, {norm.side} px"
        yield Row(name, functools.partial(normalisation, target, batch, norm, num), 60, ("batch_norm",))


@dataclass(frozen=True)
class Passes:
    """Times the three passes of a convolution on rotating images and gradients.

    Attributes:
        target: The device.
        conv: The layer.
        num: How often the network has it.
        images: Sets of its input [B, C, H, W].
        gradients: Sets of its output's gradient.
    """

    target: Target
    conv: Conv
    num: int
    images: list[Tensor]
    gradients: list[Tensor]

    def figures(self, name: str, groups: int, inputs: int | None = None) -> Iterator[Figures]:
        """Yield the passes by cuDNN with so many groups, of so many input channels."""
        conv, inputs = self.conv, inputs or self.conv.inputs
        weight = self.target.images(conv.outputs, inputs // groups, conv.kernel, conv.kernel) * 0.05
        images = self.images if inputs == conv.inputs else [padded(each, inputs) for each in self.images]
        options = ([conv.stride] * 2, [conv.kernel // 2] * 2, [1, 1], False, [0, 0], groups)

        def back(mask: list[bool], i: int) -> Any:
            return torch.ops.aten.convolution_backward(self.gradients[i], images[i], weight, None, *options, mask)

        yield from self.one(name, "forward", lambda i: torch.ops.aten.convolution(images[i], weight, None, *options))
        if conv.inputs > 3:  # the gradient of the network's own images is not needed
            yield from self.one(name, "to images", functools.partial(back, [True, False, False]))
        yield from self.one(name, "to weights", functools.partial(back, [False, True, False]))

    def products(self) -> Iterator[Figures]:
        """Yield the passes of a 1 x 1 convolution as matrix products of its pixels."""
        conv = self.conv
        weight = torch.randn(conv.outputs, conv.inputs, device=self.target.device, dtype=self.target.dtype)
        pixels, gradients = (
            [each.permute(0, 2, 3, 1).flatten(0, 2) for each in sets] for sets in (self.images, self.gradients)
        )
        yield from self.one("product", "forward", lambda i: pixels[i] @ weight.T)
        yield from self.one("product", "to images", lambda i: gradients[i] @ weight)
        yield from self.one("product", "to weights", lambda i: gradients[i].T @ pixels[i])

    def one(self, name: str, which: str, call: Callable[[int], object]) -> Iterator[Figures]:
        """Yield one pass, whose bytes and arithmetic are the layer's own, however it is computed."""
        conv, images = self.conv, len(self.images[0])
        num_bytes = ONE * images * (conv.inputs * conv.side**2 + conv.outputs * conv.out_side**2)
        flop = 2 * images * conv.outputs * conv.out_side**2 * (conv.inputs // conv.groups) * conv.kernel**2

        def measure() -> Figures:
            return rates(timed(self.target, call, len(self.images)), num_bytes, flop)

        about = {"pass": which, "num": self.num, "images": images}
        yield from (each | about for each in attempt(f"{name}, {which}", measure))


def padded(images: Tensor, channels: int) -> Tensor:
    """Return images with zeros in further channels, channels_last."""
    return F.pad(images.permute(0, 2, 3, 1), (0, channels - images.shape[1])).contiguous().permute(0, 3, 1, 2)


def convolution(target: Target, batch: int, conv: Conv, num: int) -> Iterator[Figures]:
    """Yield the passes of a convolution, by every method that there is for it."""
    shapes = (batch, conv.inputs, conv.side, conv.side), (batch, conv.outputs, conv.out_side, conv.out_side)
    sets = target.sets(ONE * sum(shape[0] * shape[1] * shape[2] ** 2 for shape in shapes))
    images, gradients = ([target.images(*shape) for _ in range(sets)] for shape in shapes)
    passes = Passes(target, conv, num, images, gradients)
    with algorithms():
        yield from passes.figures("cuDNN", conv.groups)
        if conv.inputs == 3:
            for channels in STEMS:
                yield from passes.figures(f"cuDNN, {channels} channels", 1, channels)
        if conv.kernel == 1 and conv.stride == 1:
            yield from passes.products()
        if conv.groups > 1:
            for width in dict.fromkeys((*MERGED, conv.inputs)):
                if conv.inputs // conv.groups < width <= conv.inputs:
                    yield from passes.figures(f"cuDNN, groups of {width}", conv.inputs // width)


def plain(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> tuple[Tensor, ...]:
    """Return the batch norm of images [B, C, H, W], a residual's sum, rectified; then for two branches."""
    y = F.batch_norm(x, None, None, weight, bias, training=True)
    y = F.relu(y if residual is None else y + residual)
    return (y,) if residual is None else (y, y)


def ours(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> tuple[Tensor, ...]:
    """Return the same by our kernels."""
    return ops.batch_norm_relu(x, weight, bias, residual=residual)[: 1 if residual is None else 2]


def normalisation(target: Target, batch: int, norm: Norm, num: int) -> Iterator[Figures]:
    """Yield batch norm by every method, forward and with its backward pass, whose own time is the difference."""
    shape = batch, norm.channels, norm.side, norm.side
    size = ONE * batch * norm.channels * norm.side**2
    sets = target.sets(3 * size)
    images = [target.images(*shape).requires_grad_() for _ in range(sets)]
    residuals = [target.images(*shape).requires_grad_() if norm.residual else None for _ in range(sets)]
    gradients = [[target.images(*shape) for _ in range(1 + norm.residual)] for _ in range(sets)]
    weight = torch.rand(norm.channels, device=target.device).add_(0.5).requires_grad_()
    bias = torch.randn(norm.channels, device=target.device).requires_grad_()
    forward_passes, backward_passes = (4, 8) if norm.residual else (3, 5)  # the fewest over the images

    def both(method: Callable[..., tuple[Tensor, ...]], i: int) -> tuple[Tensor, ...]:
        inputs = [each for each in (images[i], weight, bias, residuals[i]) if each is not None]
        return torch.autograd.grad(method(images[i], weight, bias, residuals[i]), inputs, gradients[i])

    def forward(method: Callable[..., tuple[Tensor, ...]], i: int) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return method(images[i], weight, bias, residuals[i])

    for name, method in {"ours": ours, "eager": plain, "Inductor": target.compiled(plain)}.items():
        times: list[Figures] = []

        def measure(
            which: str, call: Callable[..., object], num_bytes: int, method: Any = method, times: Any = times
        ) -> Figures:
            times.append(timed(target, functools.partial(call, method), sets))
            figure = times[-1] if which == "forward" else less(times[1], times[0])
            return rates(figure, num_bytes) | {"pass": which, "num": num, "images": batch}

        for which, call, passes in (("forward", forward, forward_passes), ("backward", both, backward_passes)):
            if which == "forward" or times:
                yield from attempt(f"{name}, {which}", functools.partial(measure, which, call, passes * size))


def less(both: Figures, forward: Figures) -> Figures:
    """Return the time of a backward pass from those of both passes and of the forward one."""
    return both | {key: max(both[key] - forward[key], 1e-6) for key in ("ms", "least_ms")}
