"""CIFAR-10-LT and CIFAR-100-LT: the public archives, cut down to an exponential tail, and kept as a pack."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.log import log
from ..dataset import LongTailedDataset
from ..index import cache_dir
from ..packs.read import Packing, is_pack, open_pack
from ..packs.write import write_pack
from ..tar import Item

_VERSION = 1
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclass(frozen=True, kw_only=True)
class CifarSpec:
    """How a CIFAR archive is made up.

    Attributes:
        name: As in `--dataset`.
        title: Of the public data set.
        num_classes: C.
        archives: The archives, tar.gz, by the folder inside.
        train: Files of the train images.
        test: Files of the test images.
        names_file: File with the names of the classes.
        label_key: Of the pickled form.
        names_key: Of the pickled form.
        label_bytes: Of the binary form: bytes of labels before the pixels, the last of which counts.
        per_class: Images of each class, by split.
        md5: Checksums of the archives, from the CIFAR page, and of the pickled form's files, as torchvision has them.
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


CIFAR = {
    "cifar10_lt": CifarSpec(
        name="cifar10_lt",
        title="CIFAR-10",
        num_classes=10,
        archives={"cifar-10-batches-py": "cifar-10-python.tar.gz", "cifar-10-batches-bin": "cifar-10-binary.tar.gz"},
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        names_file={"cifar-10-batches-py": "batches.meta", "cifar-10-batches-bin": "batches.meta.txt"},
        label_key=b"labels",
        names_key=b"label_names",
        label_bytes=1,
        per_class={"train": 5000, "test": 1000},
        md5={
            "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
            "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
    ),
    "cifar100_lt": CifarSpec(
        name="cifar100_lt",
        title="CIFAR-100",
        num_classes=100,
        archives={"cifar-100-python": "cifar-100-python.tar.gz", "cifar-100-binary": "cifar-100-binary.tar.gz"},
        train=("train",),
        test=("test",),
        names_file={"cifar-100-python": "meta", "cifar-100-binary": "fine_label_names.txt"},
        label_key=b"fine_labels",
        names_key=b"fine_label_names",
        label_bytes=2,
        per_class={"train": 500, "test": 100},
        md5={
            "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
            "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
    ),
}


def tail_counts(num_classes: int, most: int, imbalance: float) -> np.ndarray:
    """Images of each class by the usual rule: most * (1 / imbalance)^(c / (C - 1)), rounded down, int64 [C].

    Source: Cui et al., Class-Balanced Loss (CVPR 2019); Cao et al., LDAM (NeurIPS 2019), whose code it is.

    Raises:
        ValueError: A class would have no image.
    """
    if not 1 <= imbalance <= most:
        raise ValueError(f"--imbalance: got {imbalance:g}; expected 1 to {most}, so that every class keeps an image")
    return np.array([int(most * (1 / imbalance) ** (c / (num_classes - 1.0))) for c in range(num_classes)], np.int64)


def tail_indices(labels: np.ndarray, imbalance: float, seed: int) -> np.ndarray:
    """Choose the images of a long-tailed CIFAR: int64 [*], class by class.

    Each class's images are shuffled by numpy's legacy generator, whose stream never changes, and the first few stay;
    with seed 0 they are those of Cao et al.'s code.

    Args:
        labels: int64 [N], of a balanced set.
        imbalance: Images of the largest class over those of the smallest.
        seed: Of the generator.
    """
    counts = np.bincount(labels)
    random = np.random.RandomState(seed)
    chosen = []
    for label, count in enumerate(tail_counts(len(counts), int(counts[0]), imbalance).tolist()):
        members = np.flatnonzero(labels == label)
        random.shuffle(members)
        chosen.append(members[:count])
    return np.concatenate(chosen)


def indices_hash(indices: np.ndarray) -> str:
    """Hash by which two people can tell that they chose the same images: 12 hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(indices, "<i8").tobytes()).hexdigest()[:12]


def open_cifar(
    name: str, root: Path | str, *, imbalance: float = 100, seed: int = 0, num_threads: int | None = None
) -> dict[str, LongTailedDataset]:
    """Open CIFAR-10-LT or CIFAR-100-LT; the public test images, all 10,000, are its val.

    The chosen images are kept as a pack of PNG files in the cache folder, made the first time.

    Args:
        name: cifar10_lt or cifar100_lt.
        root: The folder with the public archive, pickled or binary, as it is or extracted.
        imbalance: Images of the largest class over those of the smallest.
        seed: Of the choice; 0 is the usual one.
        num_threads: Threads that encode.

    Raises:
        FileNotFoundError: No archive in `root`.
        ValueError: It is not the public one, or damaged.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"--data-seed: got {seed}; expected 0 to {2**32 - 1}")
    root = Path(root)
    if is_pack(root):
        return open_pack(root, dataset=name)
    spec = CIFAR[name]
    find_archive(spec, root)
    images, labels, class_names = read_cifar(spec, root, "train")
    chosen = tail_indices(labels, imbalance, seed)
    held_images, held_labels, _ = read_cifar(spec, root, "test")
    log.info(
        "%s: %s train images, imbalance %g, seed %d, indices %s",
        name,
        f"{len(chosen):,}",
        imbalance,
        seed,
        indices_hash(chosen),
    )
    parts = {"train": (images[chosen], labels[chosen], chosen), "val": (held_images, held_labels, None)}
    sources = {split: _fingerprint(pixels, marks) for split, (pixels, marks, _) in parts.items()}
    digest = hashlib.sha256("\n".join([str(_VERSION), *sources.values()]).encode()).hexdigest()[:12]
    out = cache_dir() / "datasets" / f"{name}-{digest}"
    if not out.is_dir():
        partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            write_pack(
                partial,
                Packing(dataset=name, short_side=None, quality=None, sources=sources),
                class_names=class_names,
                names={
                    split: [f"{split}/{at:05}.png" for at in (range(len(marks)) if numbers is None else numbers)]
                    for split, (_, marks, numbers) in parts.items()
                },
                labels={split: marks for split, (_, marks, _) in parts.items()},
                makers={split: _maker(pixels) for split, (pixels, _, _) in parts.items()},
                num_threads=num_threads,
            )
            try:
                partial.rename(out)
            except OSError:
                if not out.is_dir():  # another process was faster
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return open_pack(out, dataset=name)


def _maker(pixels: np.ndarray) -> Callable[[int], Item]:
    def make(index: int) -> Item:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(pixels[index]).save(file, "PNG", compress_level=1)
        return Item(file.getvalue(), _SIDE, _SIDE, True)

    return make


def _fingerprint(pixels: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes())
    digest.update(np.ascontiguousarray(labels, "<i8").tobytes())
    return digest.hexdigest()


def find_archive(spec: CifarSpec, root: Path) -> tuple[str, Path]:
    """Find a CIFAR archive: (its inner folder's name, the tar.gz or the extracted folder).

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
        f"--data-root: {root} has none of {', '.join(spec.archives.values())}, extracted or not; expected the public "
        f"archive that --dataset {spec.name} is made from"
    )


def read_cifar(spec: CifarSpec, root: Path, split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read a split of an archive: pixels uint8 [N, 32, 32, 3], labels int64 [N], class names.

    Raises:
        ValueError: It is not as the public one is.
    """
    folder, place = find_archive(spec, root)
    pickled = is_pickled(folder)
    wanted = batch_files(spec, folder, split)
    try:
        contents = dict(archive_contents(place, folder, [*wanted, spec.names_file[folder]]))
        read = [
            _read_pickled(spec, contents[name]) if pickled else _read_binary(spec, contents[name]) for name in wanted
        ]
        listed = contents[spec.names_file[folder]]
        names = [text.decode() for text in load_plain(listed)[spec.names_key]] if pickled else listed.decode().split()
        pixels = np.concatenate([each[0] for each in read])
        labels = np.concatenate([each[1] for each in read])
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
        what = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise ValueError(f"{place} {what}; expected the public archive: download it again") from None
    return pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1), labels, tuple(names)


def is_pickled(folder: str) -> bool:
    """Say whether an archive is of the pickled form, by the name of its inner folder."""
    return folder in ("cifar-10-batches-py", "cifar-100-python")


def batch_files(spec: CifarSpec, folder: str, split: str) -> list[str]:
    """Return the names of a split's files in an archive."""
    batches = spec.train if split == "train" else spec.test
    return [batch if is_pickled(folder) else f"{batch}.bin" for batch in batches]


def archive_contents(place: Path, folder: str, wanted: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the wanted files of an extracted folder or an archive; nothing is extracted."""
    if place.is_dir():
        for name in wanted:
            yield name, (place / name).read_bytes()
        return
    with tarfile.open(place) as archive:
        for member in archive:
            name = member.name.removeprefix(f"{folder}/")
            stream = archive.extractfile(member) if name in wanted else None
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
    """What stands in for a numpy array in a pickle: it keeps the array's state, and runs nothing of numpy's."""

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
    """What stands in for a numpy dtype in a pickle."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        """Take no notice of byte order and fields."""


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles numbers, strings, lists, dictionaries and arrays, and nothing that could run code."""

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
