"""The DALI loader: decodes and resamples in DALI's threads or on the GPU, and replaces files that DALI cannot read."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from ...files import sweep
from ...files.writing import replacing_unswept
from ...runtime.cache import cache_dir
from ...runtime.log import first_line, log
from ..dataset import LongTailedDataset
from ..image import decode_rgb, is_of_machine
from .base import Batch, PlannedLoader, Tuning
from .dali_graph import DaliBatch, Decoded, ImagePipeline
from .plan import EvalPlan, Plan, Work, read_or_reason

# The end of a complete file: a JPEG's end marker; the length, name and checksum of a PNG's last chunk.
_JPEG_END = np.frombuffer(b"\xff\xd9", np.uint8)
_PNG_END = np.frombuffer(b"IEND\xaeB`\x82", np.uint8)


class DaliLoader(PlannedLoader):
    """A loader that streams batches out of one DALI pipeline after another.

    A file that has become unreadable stops a pipeline. The loader then looks for it among the batches under way, and
    starts a new pipeline at the next batch due, with a stand-in for the file.
    """

    name: ClassVar[str] = "dali"
    prefetches: ClassVar[bool] = True  # and its buffers return to it after the stream that it hands them over to

    def __init__(self, plan: Plan, *, device: torch.device, tuning: Tuning) -> None:
        super().__init__(plan, device=device)
        self._tuning = tuning
        self._files = NativeFiles(plan.dataset)
        self._checked: set[int] = set()
        self._replace(self._files.convert(plan.samples, num_threads=tuning.num_threads))

    def _batches(self) -> Generator[Batch, None, None]:
        position = 0
        while position < len(self.plan):
            under_way: deque[Work] = deque()
            with contextlib.closing(self._start(position, under_way)) as pipeline:
                while position < len(self.plan):
                    try:
                        decoded = pipeline.run()
                    except RuntimeError as error:
                        self._replace(self._find_broken(position, error))
                        break
                    work = under_way.popleft()
                    if broken := self._check(work, decoded):
                        self._replace(broken)
                        break
                    yield self._deliver(decoded.images, work)
                    position += 1

    def _start(self, position: int, under_way: deque[Work]) -> ImagePipeline:
        """Start a pipeline at a batch; it appends the batches in work to `under_way`."""
        # DALI reads the arrays later, without a copy: they are kept here until it has certainly read them
        alive: deque[DaliBatch] = deque(maxlen=2 * self._tuning.prefetch + 2)
        positions = iter(range(position, len(self.plan)))

        def source() -> DaliBatch:
            work = self.plan.work(next(positions), self.stand_ins)
            under_way.append(work)
            alive.append(self._feed(work))
            return alive[-1]

        try:
            return ImagePipeline(
                source,
                boxes=isinstance(self.plan, EvalPlan),
                size=self.plan.size,
                interpolation=self.plan.interpolation,
                batch_size=self.plan.batch_size,
                device=self.device,
                tuning=self._tuning,
                packed=self._files.packed,
            )
        except RuntimeError as error:  # for example, the driver is too old for DALI's CUDA
            raise ValueError(
                f"--loader: got dali, which does not work on {self.device} ({first_line(error)}); see fastlt doctor, "
                "or choose --loader pillow"
            ) from error

    def _feed(self, work: Work) -> DaliBatch:
        encoded = self._files.encoded if self._files.packed else self._files.encoded_path
        files = [encoded(index) for index in work.ids.tolist()]
        if work.boxes is not None:
            boxes = work.boxes.astype(np.float32)
            starts, extents = boxes[:, 1::-1], boxes[:, :1:-1]
        else:
            assert work.windows is not None
            starts, extents = work.windows[:, :2], work.windows[:, 2:]
        flips = np.zeros(len(files), np.int32) if work.flips is None else work.flips.astype(np.int32)
        return DaliBatch(files, np.ascontiguousarray(starts), np.ascontiguousarray(extents), flips)

    def _check(self, work: Work, decoded: Decoded) -> dict[int, str]:
        """Return the broken samples of a batch that DALI decoded without an error.

        DALI decodes only as much of a file as the window needs, so the file may be cut short after that. And if the
        image's size has changed since it was indexed, the window is in the wrong place.
        """
        complete = (decoded.tails[:, -2:] == _JPEG_END).all(axis=1) | (decoded.tails == _PNG_END).all(axis=1)
        complete &= (decoded.sizes == self.plan.dataset.sizes[work.ids]).all(axis=1)
        suspects = set(work.ids[~complete].tolist()) - self._checked
        if not suspects:
            return {}
        broken = self._read(suspects)
        self._checked |= suspects - broken.keys()
        return broken

    def _find_broken(self, position: int, error: RuntimeError) -> dict[int, str]:
        """Return the broken samples among the batches that a failed pipeline worked on; mend what was converted."""
        last = min(position + self._tuning.prefetch + 1, len(self.plan))
        works = [self.plan.work(number, self.stand_ins) for number in range(position, last)]
        ids = set(np.concatenate([work.ids for work in works]).tolist())
        broken = self._read(ids)
        if not broken and not self._files.mend(ids, num_threads=self._tuning.num_threads):
            raise RuntimeError(
                f"DALI failed between batches {position} and {last - 1} ({first_line(error)}), "
                "though Pillow decodes all their images; use --loader pillow or --loader memory"
            ) from error
        return broken

    def _replace(self, broken: dict[int, str]) -> None:
        """Mark broken samples, and make sure that DALI can decode their stand-ins."""
        while broken:
            self.stand_ins.mark(broken)
            stand_ins = np.array([self.stand_ins.stand_in(index) for index in broken], np.int64)
            broken = self._files.convert(stand_ins, num_threads=self._tuning.num_threads)

    def _read(self, indices: Iterable[int]) -> dict[int, str]:
        """Decode samples with Pillow and return those that it cannot decode, with the reasons."""

        def reason(index: int) -> str:
            pixels = read_or_reason(self.plan.dataset, index)
            return pixels if isinstance(pixels, str) else ""

        return _reasons(reason, sorted(indices), num_threads=self._tuning.num_threads)


def _reasons(reason: Callable[[int], str], indices: list[int], *, num_threads: int) -> dict[int, str]:
    """Find, in threads, why each sample is broken; leave out those that are not."""
    with ThreadPoolExecutor(num_threads) as pool:
        return {index: text for index, text in zip(indices, pool.map(reason, indices), strict=True) if text}


class NativeFiles:
    """Files that DALI decodes to the pixels of `decode_rgb`: the data set's own, or PNG files in the cache folder.

    Attributes:
        packed: Whether DALI gets their bytes, from a tar, instead of their names.
    """

    def __init__(self, dataset: LongTailedDataset) -> None:
        self._dataset = dataset
        # Those in "converted" have deep greyscale as it was scaled formerly
        self._folder = cache_dir() / "converted-2" / dataset.fingerprint
        self._root = f"{dataset.root}{os.sep}"
        self.packed = dataset.images is not None

    def path(self, index: int) -> str:
        """Return the file that DALI reads for a sample."""
        if self._dataset.native[index]:
            return self._root + self._dataset.paths[index]
        return str(self._png(index))

    def encoded_path(self, index: int) -> np.ndarray:
        """Return the name of the file that DALI reads for a sample: uint8 [*]."""
        return np.frombuffer(os.fsencode(self.path(index)), np.uint8)

    def encoded(self, index: int) -> np.ndarray:
        """Return the bytes that DALI decodes for a sample: uint8 [*]."""
        if self._dataset.images is not None and self._dataset.native[index]:
            try:
                return np.frombuffer(self._dataset.images.read(index), np.uint8)
            except OSError:
                return np.zeros(1, np.uint8)  # stops the pipeline, and the loader then looks for what is broken
        return np.fromfile(self.path(index), np.uint8)

    def _png(self, index: int) -> Path:
        return self._folder / f"{index}.png"

    def mend(self, indices: Iterable[int], *, num_threads: int) -> bool:
        """Make PNG files that are damaged anew; return whether there were any."""
        damaged = [index for index in sorted(indices) if not self._dataset.native[index] and not self._is_whole(index)]
        for index in damaged:
            self._png(index).unlink(missing_ok=True)
        self.convert(np.array(damaged, np.int64), num_threads=num_threads)
        return bool(damaged)

    def _is_whole(self, index: int) -> bool:
        try:
            decode_rgb(self._png(index))
        except (OSError, ValueError) as error:
            if is_of_machine(error):
                raise
            return False
        return True

    def convert(self, indices: np.ndarray, *, num_threads: int) -> dict[int, str]:
        """Make the PNG files of samples that need one and do not have one yet.

        Returns:
            The samples that cannot be decoded, with the reasons.
        """
        from PIL import Image

        def convert(index: int) -> str:
            pixels = read_or_reason(self._dataset, index)
            if isinstance(pixels, str):
                return pixels
            with replacing_unswept(self._png(index)) as partial:
                Image.fromarray(pixels).save(partial, format="PNG", compress_level=1)
            return ""

        foreign = np.unique(indices[~self._dataset.native[indices]]).tolist()
        missing = [index for index in foreign if not self._png(index).exists()]
        if not missing:
            return {}
        start_s = time.perf_counter()
        sweep(self._folder)
        broken = _reasons(convert, missing, num_threads=num_threads)
        log.info(
            "converted %d images that DALI does not decode as Pillow does to PNG, in %.1f s: %s",
            len(missing),
            time.perf_counter() - start_s,
            self._folder,
        )
        return broken
