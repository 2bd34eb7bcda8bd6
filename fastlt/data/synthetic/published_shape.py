"""Made-up sets with a published set's classes, images and long tail, to measure the whole pipeline at its shape."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ...files import make_once
from ...runtime.cache import cache_dir
from ...runtime.log import log
from ...runtime.machine import resolve_threads
from ..dataset import LongTailedDataset
from ..splits import open_splits
from .any_shape import class_name, class_style
from .glyphs import font_folder
from .painting import Look
from .processes import Task, image_name, paint_all

_VERSION = 1
_LOOK = Look(size=64)
_MANY_CLASSES = 1000  # with more, each class has one picture, which saves files and a minute
_NOISE = 1024
_NOISE_SD = 10.0  # makes a JPEG of 500 x 375 pixels as large as ImageNet's, about 100 kB
_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Class counts of a data set: train images of each class (int64 [C], falling), held-out images of each class."""

    counts: np.ndarray
    held: dict[str, int]


def synthetic(
    name: str, shape: Shape, *, size: tuple[int, int] = (64, 64), num_workers: int | None = None
) -> dict[str, LongTailedDataset]:
    """Open a made-up set with a data set's shape; the first call makes it in the cache folder.

    Every class has one or two pictures to train on and one for its held-out images, listed repeatedly to match the
    class's number of images. So loaders, sampler and network see as many images and classes as in the real set.
    Reading costs nothing once the few files are in memory; pack a real set to measure reading.

    Args:
        name: Name of the data set.
        shape: Its class counts.
        size: Width and height of the pictures.
        num_workers: Processes that paint; by default one per processor.

    Raises:
        OSError: The cache folder cannot be written or the disk is full.
    """
    num_classes = len(shape.counts)
    digest = f"{num_classes}x{int(shape.counts.sum())}-{size[0]}x{size[1]}-{_VERSION}"
    root = cache_dir() / "datasets" / f"{name}-synthetic-{digest}"
    num_train = 2 if num_classes <= _MANY_CLASSES else 1

    def fill(folder: Path) -> None:
        began = time.perf_counter()
        _make(folder, shape, size, num_train=num_train, num_workers=num_workers)
        log.info("made %s in %.0f s", root, time.perf_counter() - began)

    make_once(root, fill)
    splits = open_splits(root)
    log.info(
        "synthetic %s: %s pictures of %d x %d pixels stand for its %s images",
        name,
        f"{num_classes * (num_train + 1):,}",
        *size,
        f"{sum(map(len, splits.values())):,}",
    )
    return splits


def _make(
    root: Path,
    shape: Shape,
    size: tuple[int, int],
    *,
    num_train: int,
    num_workers: int | None,
) -> None:
    """Paint the pictures of every class, and write lists that repeat them to match the class counts."""
    num_classes = len(shape.counts)
    counts = shape.counts[np.argsort(np.random.Philox(key=0).random_raw(num_classes))]
    folders = {"train": "pictures/train", "held": "pictures/held"}
    tasks = [
        Task(
            style=class_style(label, num_classes),
            folder=f"{folder}/{label:04}",
            stream=stream,
            label=label,
            start=0,
            stop=num_train if stream == 0 else 1,
        )
        for stream, folder in enumerate(folders.values())
        for label in range(num_classes)
    ]
    for task in tasks:
        (root / task.folder).mkdir(parents=True)
    names = "".join(f"{class_name(label, num_classes)}\n" for label in range(num_classes))
    (root / "classes.txt").write_text(names, encoding="utf-8")
    paint_all(tasks, root, look=_LOOK, fonts=font_folder(), seed=0, num_workers=num_workers)
    if size != (_LOOK.size, _LOOK.size):
        files = [root / task.folder / image_name(number) for task in tasks for number in range(task.stop)]
        _enlarge_all(files, size, resolve_threads(num_workers))
    pictures = [
        [f"{folders['train']}/{label:04}/{image_name(number)} {label}\n" for number in range(num_train)]
        for label in range(num_classes)
    ]
    with (root / "train.txt").open("w") as stream:
        for label, count in enumerate(counts.tolist()):
            stream.writelines(pictures[label][at % num_train] for at in range(count))
    for split, per_class in shape.held.items():
        with (root / f"{split}.txt").open("w") as stream:
            for label in range(num_classes):
                stream.writelines([f"{folders['held']}/{label:04}/{image_name(0)} {label}\n"] * per_class)


def _enlarge_all(files: Iterable[Path], size: tuple[int, int], num_threads: int) -> None:
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(lambda item: enlarge(item[0], item[1], size), enumerate(files)):
            pass


def enlarge(number: int, file: Path, size: tuple[int, int]) -> None:
    """Resize a picture and add fine grain, so that its JPEG is as large as a photograph's."""
    from PIL import Image

    width, height = size
    with Image.open(file) as small:
        pixels = np.asarray(small.convert("RGB").resize(size, Image.Resampling.BICUBIC), np.int16)
    x, y = (number * 101) % _NOISE, (number * 67) % _NOISE
    grain = np.take(np.take(_grain(), range(y, y + height), axis=0, mode="wrap"), range(x, x + width), 1, mode="wrap")
    noisy = np.clip(pixels + grain[:, :, None], 0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(noisy).save(content, "JPEG", quality=_QUALITY)
    file.write_bytes(content.getvalue())


@cache
def _grain() -> np.ndarray:
    """Return noise to add to pixels: int16 [1024, 1024]."""
    draws = np.random.default_rng(0).normal(0, _NOISE_SD, (_NOISE, _NOISE))
    return np.rint(draws).astype(np.int16)
