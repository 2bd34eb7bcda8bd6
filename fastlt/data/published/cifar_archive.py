"""Read the public CIFAR archives, pickled or binary, without extracting them or running anything in them."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...files import deciphering, read_limited
from .plain_pickle import load_plain

SIDE = 32
_PIXELS = 3 * SIDE * SIDE

_IMAGE_BYTES = 4096  # the most that an image takes in a file, with its labels and its name
_NAMES_BYTES = 1 << 16  # the most that the names of the classes take
_OTHER_FILES_BYTES = 4 << 20  # the most that an archive has besides


@dataclass(frozen=True, kw_only=True)
class CifarSpec:
    """What a CIFAR archive consists of.

    Attributes:
        name: The data set's name, as in `--dataset`.
        title: The usual name of the public data set.
        num_classes: C.
        archives: Names of the tar.gz archives, by the folder inside.
        train: Files of the train images.
        test: Files of the test images.
        names_file: File with the names of the classes.
        label_key: Key of the labels in the pickled form.
        names_key: Key of the class names in the pickled form.
        label_bytes: Bytes of labels before the pixels in the binary form; the last one is used.
        per_class: Images of each class, by split.
        md5: Checksums of the archives, from the CIFAR page, and of the pickled form's files, from torchvision.
    """

    name: str
    title: str
    num_classes: int
    archives: dict[str, str]
    train: tuple[str, ...]
    test: tuple[str, ...]
    names_file: dict[str, str]
    label_key: bytes
    names_key: bytes
    label_bytes: int
    per_class: dict[str, int]
    md5: dict[str, str]


def find_archive(spec: CifarSpec, root: Path) -> tuple[str, Path]:
    """Find a CIFAR archive, and return (the name of the folder inside, the tar.gz or the extracted folder).

    Raises:
        FileNotFoundError: There is none.
    """
    for folder, archive in spec.archives.items():
        for place in (root / folder, root / archive):
            if place.is_dir() or (place.is_file() and place.suffix == ".gz"):
                return folder, place
        if root.name == folder and root.is_dir():
            return folder, root
    raise FileNotFoundError(
        f"--data-root: got {root}, which has none of {', '.join(spec.archives.values())}, extracted or not; expected "
        f"the public archive that --dataset {spec.name} is made from"
    )


def read_cifar(spec: CifarSpec, root: Path, split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read a split of an archive: pixels uint8 [N, 32, 32, 3], labels int64 [N], class names.

    Raises:
        ValueError: It differs from the public one.
    """
    folder, place = find_archive(spec, root)
    files, names_file = batch_files(spec, folder, split), spec.names_file[folder]
    with deciphering(place, expected="the public archive", remedy="download it again"):
        contents = dict(archive_contents(spec, place, folder, [*files, names_file]))
        read_batch, read_names = (_read_pickled, _pickled_names) if is_pickled(folder) else (_read_binary, _plain_names)
        batches = [read_batch(spec, contents.pop(name)) for name in files]
        names = read_names(spec, contents[names_file])
        pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        if labels.min() < 0 or labels.max() >= spec.num_classes:
            raise ValueError(f"labels from {labels.min()} to {labels.max()}")
        counts = np.bincount(labels, minlength=spec.num_classes)
        if len(names) != spec.num_classes or counts.min() != counts.max():
            raise ValueError(f"{len(names)} names, {counts.min()} to {counts.max()} images of {len(counts)} classes")
    return pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels, names


def is_pickled(folder: str) -> bool:
    """Return whether an archive is of the pickled form, by the name of the folder inside."""
    return folder in ("cifar-10-batches-py", "cifar-100-python")


def batch_files(spec: CifarSpec, folder: str, split: str) -> list[str]:
    """Return the names of a split's files in an archive."""
    batches = spec.train if split == "train" else spec.test
    return [batch if is_pickled(folder) else f"{batch}.bin" for batch in batches]


def archive_contents(spec: CifarSpec, place: Path, folder: str, files: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) for some files of an extracted folder or an archive, without extracting anything.

    Raises:
        ValueError, OSError, tarfile.TarError: The archive is damaged, or unpacks to more than the public one.
    """
    limits = _limits(spec, folder)
    if place.is_dir():
        for name in files:
            yield name, read_limited(place / name, limits[name], "a file of the public archive")
        return
    with gzip.open(place) as unpacked:
        bounded = _Bounded(unpacked, sum(limits.values()) + _OTHER_FILES_BYTES)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                name = member.name.removeprefix(f"{folder}/")
                stream = archive.extractfile(member) if name in files else None
                if stream is not None:
                    if member.size > limits[name]:
                        raise ValueError(f"{member.size:,} bytes in {name}")
                    yield name, stream.read()
        while bounded.read(1 << 20):  # on to the checksum at the end
            pass


class _Bounded:
    """A stream that refuses to be longer than a limit."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self._stream = stream
        self._limit = self._left = limit

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {self._limit:,} bytes, out of all proportion")
        return content


def _limits(spec: CifarSpec, folder: str) -> dict[str, int]:
    """Return for each file of an archive the most bytes that it may have: a third more than the public one."""
    limits = {spec.names_file[folder]: _NAMES_BYTES}
    for split, per_class in spec.per_class.items():
        files = batch_files(spec, folder, split)
        num_images = per_class * spec.num_classes // len(files)
        limits |= dict.fromkeys(files, num_images * _IMAGE_BYTES + _NAMES_BYTES)
    return limits


def _read_binary(spec: CifarSpec, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    records = np.frombuffer(content, np.uint8).reshape(-1, spec.label_bytes + _PIXELS)
    return records[:, spec.label_bytes :], records[:, spec.label_bytes - 1].astype(np.int64)


def _plain_names(_spec: CifarSpec, content: bytes) -> tuple[str, ...]:
    return tuple(content.decode().split())


def _read_pickled(spec: CifarSpec, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch = load_plain(content)
    pixels, labels = batch[b"data"].array().reshape(-1, _PIXELS), batch[spec.label_key]
    # Lists in lists could hold each other many times over, and become an array without end
    if len(labels) != len(pixels) or not all(type(label) is int for label in labels):
        raise ValueError(f"not {len(pixels)} numbers as labels")
    return pixels, np.array(labels, np.int64)


def _pickled_names(spec: CifarSpec, content: bytes) -> tuple[str, ...]:
    names = load_plain(content)[spec.names_key]
    if len(names) != spec.num_classes:
        raise ValueError(f"{len(names)} names of {spec.num_classes} classes")
    return tuple(name.decode() for name in names)
