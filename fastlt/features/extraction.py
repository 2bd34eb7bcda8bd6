"""Images through a backbone: in batches of one size, compiled where that pays, and copied to the host meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ..config import TrainConfig
from ..data.loaders.loader import Loader
from ..data.transforms.preprocess import Preprocess
from ..models import Network
from ..runtime.compiling import Compiler, filled_up
from ..runtime.device import algorithms, autocast, multiplying

# Shapes: B batch, H, W image size, D feature width.

MIN_IMAGES_TO_COMPILE = 50_000  # on a GPU; with fewer, compiling would take longer than it saves (not measured)

Extract = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


class Extractor:
    """Runs a backbone over images, in evaluation mode.

    Precisions are those of the arithmetic on a GPU, where fp32 is full precision; a CPU always computes in fp32.

    Args:
        model: The network; its memory format may change.
        config: Settings of its run.
        device: Where it is.
    """

    def __init__(self, model: Network, config: TrainConfig, device: torch.device) -> None:
        self.model = model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.preprocess = Preprocess(config.mean, config.std).to(device)
        self.config, self.device = config, device
        self.pads = device.type == "cuda"  # the compiler and cuDNN prepare anew for another size
        self.compiled: dict[str, Extract] = {}

    @contextlib.contextmanager
    def computing(self, precision: str = "fp32") -> Iterator[None]:
        """Choose algorithms and precision inside a block, in which `features` must be used.

        In full precision cuDNN chooses by rule, so that the same features come out of every process.

        Args:
            precision: fp32, tf32 or bf16.
        """
        benchmark = self.config.cudnn_benchmark and precision != "fp32"
        with (
            torch.no_grad(),  # not inference_mode, for whose tensors functions would be compiled separately
            algorithms(benchmark=benchmark, deterministic=self.config.deterministic),
            multiplying(self.device, precision),
        ):
            yield

    def features(self, loader: Loader, num_images: int, precision: str = "fp32") -> Iterator[Tensor]:
        """Yield the features of every batch, float32 [B, D] on the device; callers must hold `computing`.

        Args:
            loader: The images, in batches of one size; the last may be smaller.
            num_images: How many they are, which decides whether the network is compiled.
            precision: fp32, tf32 or bf16.
        """
        extract = self.function(num_images, precision)
        size = 0
        for batch in loader:
            count = len(batch.images)
            size = max(size, count)
            inputs = batch.images, batch.jitter, batch.order
            if self.pads and count < size:
                inputs = tuple(None if part is None else filled_up(part, size) for part in inputs)  # type: ignore[assignment]
            yield extract(*inputs)[:count]

    def function(self, num_images: int, precision: str) -> Extract:
        """Return the function from images, jitter and order to features."""
        precision = precision if self.device.type == "cuda" else "fp32"
        if precision in self.compiled:
            return self.compiled[precision]
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32

        def extract(images: Tensor, jitter: Tensor | None, order: Tensor | None) -> Tensor:
            with autocast(self.device, precision):
                features: Tensor = self.model.features(self.preprocess(images, jitter, order, dtype=dtype))
            return features.float()

        if self.device.type != "cuda" or not self.config.compile or num_images < MIN_IMAGES_TO_COMPILE:
            return extract
        self.compiled[precision] = Compiler()(extract)
        return self.compiled[precision]


def on_host(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield tensors in the host's memory; those on a GPU are copied while it computes the next."""
    waiting: tuple[Tensor, torch.cuda.Event] | None = None
    for tensor in batches:
        if tensor.device.type == "cpu":
            yield tensor
            continue
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        copied = torch.cuda.current_stream(tensor.device).record_event()
        if waiting is not None:
            yield arrived(*waiting)
        waiting = copy, copied
    if waiting is not None:
        yield arrived(*waiting)


def arrived(copy: Tensor, copied: torch.cuda.Event) -> Tensor:
    """Return a copy in the host's memory once it is whole."""
    copied.synchronize()
    return copy
