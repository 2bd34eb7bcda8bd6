"""The DALI graph: files, windows and flips in, squares of uint8 pixels out; the same on a CPU and on a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from .base import Tuning

TAIL_BYTES = 8

FILTERS = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}


class DaliBatch(NamedTuple):
    """The input of a batch of B images.

    Attributes:
        files: B uint8 arrays: the bytes of the files' paths, or of the files themselves if packed.
        starts: [B, 2], int32 x and y of the windows, or float32 top and left of the boxes.
        extents: [B, 2], int32 width and height of the windows, or float32 bottom and right of the boxes.
        flips: int32 [B], 1 mirrors.
    """

    files: list[np.ndarray]
    starts: np.ndarray
    extents: np.ndarray
    flips: np.ndarray


class Decoded(NamedTuple):
    """A decoded batch.

    Attributes:
        images: uint8 [B, S, S, 3], on the pipeline's device.
        sizes: int64 [B, 2], width and height from the files' headers.
        tails: uint8 [B, TAIL_BYTES], the last bytes of the files.
    """

    images: Tensor
    sizes: np.ndarray
    tails: np.ndarray


MOST_IN_USE = 4  # batches that the GPU may lag behind before the host waits for it


class InUse:
    """Batches that the GPU may still read.

    Memory without a reference on the host returns to DALI's streams at once, while kernels that read it may still wait
    on PyTorch's stream. So a batch is kept until an event after those kernels is reached. The kernels are on the stream
    by the time the next batch is requested.
    """

    def __init__(self) -> None:
        self._latest: Tensor | None = None
        self._earlier: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def add(self, images: Tensor, stream: torch.cuda.Stream) -> None:
        """Keep a batch, and release those that the stream has finished reading."""
        if self._latest is not None:
            self._earlier.append((self._latest, stream.record_event()))
        self._latest = images
        while self._earlier and (len(self._earlier) > MOST_IN_USE or self._earlier[0][1].query()):  # type: ignore[no-untyped-call]
            self._earlier.popleft()[1].synchronize()

    def wait(self, stream: torch.cuda.Stream) -> None:
        """Wait until the stream has finished reading, then release all batches."""
        if self._latest is not None:
            stream.synchronize()
        self._latest = None
        self._earlier.clear()


class ImagePipeline:
    """A DALI pipeline that decodes and resamples the batches of `source`, a few of them ahead.

    EXIF orientation is ignored. Windows are cut out before resampling, so that the filter does not see past their
    edges; around a box it sees the rest of the image.

    Args:
        source: A function, called in `run`, that returns the next batch and raises StopIteration after the last.
        boxes: Whether the batches have boxes instead of windows.
        size: S, the side of the squares.
        interpolation: bilinear or bicubic.
        batch_size: Largest number of images in a batch.
        device: A CPU, or the GPU that decodes.
        tuning: Threads that decode, batches that DALI works on at a time, and the hardware decoder's share.
        packed: Whether the batches have the files' bytes instead of their paths.
    """

    def __init__(
        self,
        source: Callable[[], DaliBatch],
        *,
        boxes: bool,
        size: int,
        interpolation: str,
        batch_size: int,
        device: torch.device,
        tuning: Tuning,
        packed: bool = False,
    ) -> None:
        self._device = device
        self._scheduled = False
        self._in_use = InUse()
        on_gpu = device.type == "cuda"
        device_id = (device.index if device.index is not None else torch.cuda.current_device()) if on_gpu else None
        self._pipeline = Pipeline(
            batch_size=batch_size,
            num_threads=tuning.num_threads,
            device_id=device_id,
            prefetch_queue_depth=tuning.prefetch,
        )
        with self._pipeline:
            graph = _graph(
                source,
                boxes=boxes,
                size=size,
                interpolation=interpolation,
                hw_decoder_load=tuning.hw_decoder_load if on_gpu else None,
                packed=packed,
            )
            self._pipeline.set_outputs(*graph)
        self._pipeline.build()

    def run(self) -> Decoded:
        """Return the next batch.

        Raises:
            StopIteration: There are no more.
            RuntimeError: DALI failed, on this batch or one in preparation; the pipeline is then unusable.
        """
        if not self._scheduled:
            self._schedule()
        stream = self._stream()
        images, shapes, tails = self._pipeline.share_outputs(cuda_stream=stream)
        # The tensor owns DALI's buffer from here on, without a copy
        squares = from_dlpack(images.as_tensor())
        if stream is not None:
            self._in_use.add(squares, stream)
        sizes, ends = np.array(shapes.as_array())[:, 1::-1], np.array(tails.as_array())
        self._pipeline.release_outputs()
        self._schedule()
        return Decoded(squares, sizes, ends)

    def close(self) -> None:
        """End DALI's threads now, instead of when the pipeline is collected.

        A traceback may keep the pipeline alive until a forked process collects it and waits for threads it lacks.
        """
        stream = self._stream()
        if stream is not None:
            self._in_use.wait(stream)
        shutdown = getattr(self._pipeline, "_shutdown", None)
        if shutdown is not None:
            shutdown()

    def _stream(self) -> torch.cuda.Stream | None:
        """Return the stream on which PyTorch reads the batches, or None on a CPU."""
        return torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None

    def _schedule(self) -> None:
        """Start a batch; the first call fills the queue."""
        self._pipeline.schedule_run()
        self._scheduled = True


def _graph(
    source: Callable[[], DaliBatch],
    *,
    boxes: bool,
    size: int,
    interpolation: str,
    hw_decoder_load: float | None,
    packed: bool,
) -> tuple[Any, Any, Any]:
    """Return (images, shapes, tails); a GPU decodes if the hardware decoder has a share."""
    coordinate = types.FLOAT if boxes else types.INT32
    files, starts, extents, flips = fn.external_source(
        source=source,
        num_outputs=4,
        batch=True,
        # The caller keeps the arrays alive
        no_copy=True,
        dtype=[types.UINT8, coordinate, coordinate, types.INT32],
        ndim=[1, 1, 1, 0],
    )
    # Mapping a file would kill the process if the file were cut short while being read
    encoded = files if packed else fn.io.file.read(files, dont_use_mmap=True)
    on_gpu = hw_decoder_load is not None
    device = "gpu" if on_gpu else "cpu"
    decoding = {
        **({"device": "mixed", "hw_decoder_load": hw_decoder_load} if on_gpu else {"device": "cpu"}),
        "output_type": types.RGB,
        "adjust_orientation": False,
        "jpeg_fancy_upsampling": True,
    }
    resampling = {"size": (size, size), "interp_type": FILTERS[interpolation], "antialias": True, "device": device}
    if boxes:
        images = fn.decoders.image(encoded, **decoding)
        images = fn.resize(images, roi_start=starts, roi_end=extents, **resampling)
    else:
        images = fn.decoders.image_slice(encoded, start=starts, shape=extents, axis_names="WH", **decoding)
        images = fn.resize(images, **resampling)
    images = fn.flip(images, horizontal=flips, device=device)
    shapes = fn.peek_image_shape(encoded, adjust_orientation=False)
    length = encoded.shape(dtype=types.INT32)
    tails = fn.slice(encoded, start=length - TAIL_BYTES, end=length, axes=[0], out_of_bounds_policy="pad", device="cpu")
    return images, shapes, tails
