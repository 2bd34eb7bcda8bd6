"""Read the public CIFAR archives, pickled or binary, without extracting them or running anything in them."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32
_PIXELS = 3 * SIDE * SIDE


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
    pickled = is_pickled(folder)
    files = batch_files(spec, folder, split)
    read_batch = _read_pickled if pickled else _read_binary
    try:
        contents = dict(archive_contents(place, folder, [*files, spec.names_file[folder]]))
        batches = [read_batch(spec, contents[name]) for name in files]
        text = contents[spec.names_file[folder]]
        names = [name.decode() for name in load_plain(text)[spec.names_key]] if pickled else text.decode().split()
        pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        counts = np.bincount(labels, minlength=spec.num_classes)
        if len(names) != spec.num_classes or len(counts) != spec.num_classes or counts.min() != counts.max():
            raise ValueError(f"{len(names)} names, {counts.min()} to {counts.max()} images of {len(counts)} classes")
    except (
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        EOFError,
        OSError,
        tarfile.TarError,
        pickle.UnpicklingError,
    ) as error:
        fault = f"no {error}" if isinstance(error, KeyError) else f"what cannot be read ({error})"
        raise ValueError(f"{place}: got {fault}; expected the public archive; download it again") from None
    return pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels, tuple(names)


def is_pickled(folder: str) -> bool:
    """Return whether an archive is of the pickled form, by the name of the folder inside."""
    return folder in ("cifar-10-batches-py", "cifar-100-python")


def batch_files(spec: CifarSpec, folder: str, split: str) -> list[str]:
    """Return the names of a split's files in an archive."""
    batches = spec.train if split == "train" else spec.test
    return [batch if is_pickled(folder) else f"{batch}.bin" for batch in batches]


def archive_contents(place: Path, folder: str, files: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) for some files of an extracted folder or an archive, without extracting anything."""
    if place.is_dir():
        for name in files:
            yield name, (place / name).read_bytes()
        return
    with tarfile.open(place) as archive:
        for member in archive:
            name = member.name.removeprefix(f"{folder}/")
            stream = archive.extractfile(member) if name in files else None
            if stream is not None:
                yield name, stream.read()


def _read_binary(spec: CifarSpec, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    records = np.frombuffer(content, np.uint8).reshape(-1, spec.label_bytes + _PIXELS)
    return records[:, spec.label_bytes :], records[:, spec.label_bytes - 1].astype(np.int64)


def _read_pickled(spec: CifarSpec, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch = load_plain(content)
    pixels = batch[b"data"].array()
    return pixels.reshape(-1, _PIXELS), np.array(batch[spec.label_key], np.int64)


class PlainArray:
    """A stand-in for a numpy array in a pickle: it keeps the array's state without running numpy's code."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """Return the array, which must be of uint8."""
        _, shape, dtype, fortran, content = self.state
        if dtype.args[:1] not in ((b"u1",), ("u1",)):
            raise ValueError(f"array of {dtype.args[:1]}, expected uint8")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class PlainDtype:
    """A stand-in for a numpy dtype in a pickle."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and fields."""


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler of numbers, strings, lists, dictionaries and arrays, but of nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return lambda *args: PlainArray()
            case "numpy", "ndarray":
                return PlainArray
            case "numpy", "dtype":
                return PlainDtype
            case "_codecs", "encode":
                return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which the public archive does not")


def load_plain(content: bytes) -> Any:
    """Unpickle a CIFAR batch without running any code that it may name.

    Raises:
        pickle.UnpicklingError: It names anything but a numpy array.
    """
    return _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
