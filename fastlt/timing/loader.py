"""The image loaders on this machine: each stage, each whole backend, and a plain DataLoader with Pillow."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from ..config import LOADERS
from ..data.dataset import LongTailedDataset
from ..data.image import decode_rgb
from ..data.loaders.loader import train_loader
from ..data.sampler import LongTailSampler
from ..data.transforms.augmentation import Augmentation
from ..runtime.log import first_line
from ..runtime.machine import shared_memory_bytes
from .traffic import median_s, wait_for

MADE_UP_SIZE = (500, 375)  # ImageNet's usual photograph: width, height in pixels
NUM_TIMED = 256  # images that the single stages are timed on
PASS = 64  # timed batches, at the most threads that a loader has by default: four of each worker
PREFETCHED = 2  # batches a worker of a DataLoader, by default
NUM_DIFFERENT = 64  # photographs; the other files are copies of them


@dataclass(frozen=True, kw_only=True)
class LoaderResult:
    """A stage on one thread, or a whole loader; `error` says why there is no figure."""

    name: str
    num_threads: int
    is_stage: bool = False
    images_per_s: float | None = None
    error: str | None = None


def photographs(
    folder: Path, num_images: int, *, picture: tuple[int, int] = MADE_UP_SIZE, seed: int = 0
) -> LongTailedDataset:
    """Write and open made-up photographs: JPEGs of ten classes with about as many bytes per pixel."""
    width, height = picture
    rng = np.random.default_rng(seed)
    contents: list[bytes] = []
    for number in range(num_images):
        if number < NUM_DIFFERENT:
            noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            smooth = np.asarray(noise.filter(ImageFilter.GaussianBlur(2)), np.float32)
            buffer = io.BytesIO()
            Image.fromarray(((smooth - 128) * 4 + 128).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
            contents.append(buffer.getvalue())
        file = folder / f"{number % 10}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents[number % NUM_DIFFERENT])
    return LongTailedDataset.from_folder(folder, cache=False)


def measure(
    dataset: LongTailedDataset,
    *,
    device: torch.device,
    batch_size: int,
    image_size: int,
    num_threads: int,
) -> Iterator[LoaderResult]:
    """Time the stages on one thread, then every backend and the plain DataLoader as a whole.

    Args:
        dataset: The images; at least a batch.
        device: Where the batches go.
        batch_size: Images a batch.
        image_size: Side of the crops, pixels.
        num_threads: Loader threads or workers.

    Yields:
        Images per second, as `pass_rate` counts them: without the start of workers, and without the decoding that
        `memory` does once.
    """
    for name, rate in stages(dataset, Augmentation(size=image_size), device):
        yield LoaderResult(name=name, num_threads=1, is_stage=True, images_per_s=rate)
    for backend in [name for name in LOADERS if name != "auto"]:
        try:
            rate = loader_rate(
                dataset,
                device=device,
                batch_size=batch_size,
                image_size=image_size,
                backend=backend,
                num_threads=num_threads,
            )
        except (ValueError, RuntimeError) as error:  # one that does not work here does not stop the others
            yield LoaderResult(name=backend, num_threads=num_threads, error=first_line(error))
            continue
        yield LoaderResult(name=backend, num_threads=num_threads, images_per_s=rate)
    yield plain_rate(dataset, device=device, batch_size=batch_size, image_size=image_size, num_threads=num_threads)


def plain_rate(
    dataset: LongTailedDataset,
    *,
    device: torch.device,
    batch_size: int,
    image_size: int,
    num_threads: int,
) -> LoaderResult:
    """Time a plain DataLoader, whose batches pass through /dev/shm; arguments as for `measure`."""
    images = PlainDataset(dataset, image_size)
    shuffled = RandomSampler(images, replacement=True, num_samples=(PASS + num_threads) * batch_size)
    plain = DataLoader(images, batch_size=batch_size, sampler=shuffled, num_workers=num_threads)
    result = LoaderResult(name="plain DataLoader", num_threads=num_threads)
    if reason := lacking_memory(num_threads, batch_size, image_size):
        return dataclasses.replace(result, error=reason)
    try:
        rate = pass_rate((pixels.to(device) for pixels, _ in plain), batch_size, device, num_workers=num_threads)
    except RuntimeError as error:  # a worker was killed
        return dataclasses.replace(result, error=first_line(error))
    return dataclasses.replace(result, images_per_s=rate)


def lacking_memory(num_workers: int, batch_size: int, image_size: int) -> str | None:
    """Return why a plain DataLoader would wait for ever, where /dev/shm may not hold its batches; else None."""
    needed, free = num_workers * PREFETCHED * batch_size * image_size**2 * 3 * 4, shared_memory_bytes()
    if free is None or needed <= free:
        return None
    return (
        f"it may need {needed / 1e6:,.0f} MB of /dev/shm, which has {free / 1e6:,.0f} MB free; give fewer "
        "--num-threads, or the container more (docker run --shm-size)"
    )


def loader_rate(
    dataset: LongTailedDataset,
    *,
    device: torch.device,
    batch_size: int,
    image_size: int,
    num_threads: int,
    **settings: Any,
) -> float:
    """Return the images per second of a training loader, as `pass_rate` counts them.

    Args:
        dataset: The images; at least a batch.
        device: Where the batches go.
        batch_size: Images a batch.
        image_size: Side of the crops, pixels.
        num_threads: Loader threads or workers.
        settings: Other arguments of `train_loader`.
    """
    sampler = LongTailSampler(dataset.labels, batch_size=batch_size, rank=0, world_size=1)
    augmentation = Augmentation(size=image_size)
    settings |= {"device": device, "num_steps": PASS + num_threads, "num_threads": num_threads}
    with train_loader(dataset, sampler, augmentation, **settings) as loader:
        return pass_rate(loader, batch_size, device, num_workers=num_threads)


def pass_rate(batches: Iterable[object], batch_size: int, device: torch.device, *, num_workers: int) -> float:
    """Return the images per second of a pass, from its first batches on, one of each worker.

    Workers that make whole batches start together, so the first of all of them come at the same time: timed from the
    very first one on, the others would have cost nothing.
    """
    num_batches, began = 0, 0.0
    for _ in batches:
        num_batches += 1
        if num_batches == num_workers:
            wait_for(device)
            began = time.perf_counter()
    wait_for(device)
    return (num_batches - num_workers) * batch_size / (time.perf_counter() - began)


def stages(dataset: LongTailedDataset, augmentation: Augmentation, device: torch.device) -> Iterator[tuple[str, float]]:
    """Yield (stage, images per second) of reading, decoding, cropping and handing over, one thread each."""
    ids = np.arange(min(NUM_TIMED, len(dataset)))
    windows, flips, _, _ = augmentation.draw(0, dataset.sizes[ids], seed=0)
    side = augmentation.size
    began = time.perf_counter()
    files = [dataset.read(int(index)) for index in ids]
    yield "read", len(files) / (time.perf_counter() - began)
    began = time.perf_counter()
    decoded = [decode_rgb(content) for content in files]
    yield "decode", len(files) / (time.perf_counter() - began)
    began = time.perf_counter()
    squares = []
    for pixels, (x, y, width, height), flip in zip(decoded, windows.tolist(), flips.tolist(), strict=True):
        box = (x, y, x + width, y + height)
        square = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box))
        squares.append(square[:, ::-1] if flip else square)
    yield "augment", len(files) / (time.perf_counter() - began)
    seconds = median_s(lambda: torch.from_numpy(np.stack(squares)).to(device), device, repeats=3, warmup=1)
    yield "hand-over", len(squares) / seconds


class PlainDataset(Dataset[tuple[Tensor, int]]):
    """The data set of a first script: Pillow in the workers, random crop and flip, no jitter, float tensors out."""

    def __init__(self, images: LongTailedDataset, size: int) -> None:
        self.images, self.size = images, size

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return (normalised float image [3, S, S], label)."""
        with Image.open(io.BytesIO(self.images.read(index))) as file:
            image = file.convert("RGB")
        share, ratio = float(torch.empty(1).uniform_(0.08, 1)), float(torch.empty(1).uniform_(3 / 4, 4 / 3))
        area = share * image.width * image.height
        width = min(image.width, max(1, round((area * ratio) ** 0.5)))
        height = min(image.height, max(1, round((area / ratio) ** 0.5)))
        left = int(torch.randint(0, image.width - width + 1, (1,)))
        top = int(torch.randint(0, image.height - height + 1, (1,)))
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (pixels - mean[:, None, None]) / std[:, None, None], int(self.images.labels[index])
