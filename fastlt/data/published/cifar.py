"""CIFAR-10-LT and CIFAR-100-LT: the public archives, cut down to an exponential tail and stored as packs."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...files import make_once
from ...runtime.cache import cache_dir
from ...runtime.log import log
from ..dataset import LongTailedDataset
from ..inspection.verification import Check, Verification, check_count, verify_pack
from ..packs.manifest import Packing
from ..packs.read import is_pack, open_pack
from ..packs.write import write_pack
from ..synthetic.published_shape import Shape
from ..tar import Item
from .cifar_archive import SIDE, CifarSpec, archive_contents, batch_files, find_archive, read_cifar
from .interface import DataOptions

_VERSION = 1


class CifarSet(CifarSpec):
    """A long tail cut out of a CIFAR archive; all 10,000 public test images are its val."""

    remedy = "download the public archive again"

    @property
    def contents(self) -> str:
        """What the data root holds, for messages."""
        return " or ".join(self.archives.values())

    def open(self, root: Path, options: DataOptions) -> dict[str, LongTailedDataset]:
        """Open train and val. The chosen images are stored as a pack of PNG files in the cache folder.

        Args:
            root: The folder with the public archive, pickled or binary, as it is or extracted; or a pack.
            options: Only imbalance and seed are used.

        Raises:
            FileNotFoundError: No archive in `root`.
            ValueError: The archive is not the public one, or is damaged.
        """
        if is_pack(root):
            return open_pack(root, dataset=self.name)
        images, labels, class_names = read_cifar(self, root, "train")
        chosen = tail_indices(labels, options.imbalance, options.seed)
        val_images, val_labels, _ = read_cifar(self, root, "test")
        log.info(
            "%s: %s train images, imbalance %g, seed %d, indices %s",
            self.name,
            f"{len(chosen):,}",
            options.imbalance,
            options.seed,
            indices_hash(chosen),
        )
        pixels = {"train": images[chosen], "val": val_images}
        split_labels = {"train": labels[chosen], "val": val_labels}
        numbers = {"train": chosen, "val": np.arange(len(val_labels))}
        sources = {split: _fingerprint(pixels[split], split_labels[split]) for split in pixels}
        digest = hashlib.sha256("\n".join([str(_VERSION), *sources.values()]).encode()).hexdigest()[:12]
        out = cache_dir() / "datasets" / f"{self.name}-{digest}"

        def fill(folder: Path) -> None:
            write_pack(
                folder,
                Packing(dataset=self.name, short_side=None, quality=None, sources=sources),
                class_names=class_names,
                names={split: [f"{split}/{at:05}.png" for at in numbers[split]] for split in pixels},
                labels=split_labels,
                makers={split: _maker(pixels[split]) for split in pixels},
            )

        make_once(out, fill)
        return open_pack(out, dataset=self.name)

    def shape(self, options: DataOptions) -> Shape:
        """Return the class counts, for a made-up set."""
        counts = tail_counts(self.num_classes, self.per_class["train"], options.imbalance)
        return Shape(counts=counts, held={"val": self.per_class["test"]})

    def verify(self, root: Path, options: DataOptions) -> Verification:
        """Compare an archive with the public one: files, checksums, records, labels; and hash the choice of images.

        The binary form's files have no published checksums: there the archive's checksum and the records decide.

        Raises:
            FileNotFoundError: No archive in `root`.
            ValueError: The archive is damaged, or the requested class sizes are impossible.
        """
        if options.lists is not None:
            raise ValueError(f"--lists: got {options.lists} with --dataset {self.name}, which has none; drop it")
        if is_pack(root):
            check = functools.partial(self._check_tail, imbalance=options.imbalance)
            return verify_pack(self.name, root, check)
        folder, place = find_archive(self, root)
        files = [*batch_files(self, folder, "train"), *batch_files(self, folder, "test"), self.names_file[folder]]
        paths = [place / name for name in files] if place.is_dir() else [place]
        checks = [
            Check(what=path.name, expected="a file", found="none", ok=False) for path in paths if not path.is_file()
        ]
        chosen = np.empty(0, np.int64)
        if not checks:
            labels = {split: read_cifar(self, root, split)[1] for split in ("train", "test")}
            for split, per_class in self.per_class.items():
                checks.append(check_count(f"{split} images", per_class * self.num_classes, len(labels[split])))
                checks.append(check_count(f"{split} per class", per_class, int(np.bincount(labels[split])[0])))
            chosen = tail_indices(labels["train"], options.imbalance, options.seed)
            checks += self._check_sums(folder, place, files)
        return Verification(
            dataset=self.name,
            root=root,
            num_images={"train": len(chosen)},
            checks=tuple(checks),
            missing={},
            unreadable=(),
            num_bytes=sum(path.stat().st_size for path in paths if path.is_file()),
            decode_ms=None,
            num_sampled=0,
            indices=indices_hash(chosen) if len(chosen) else None,
        )

    def _check_sums(self, folder: str, place: Path, files: list[str]) -> list[Check]:
        contents = archive_contents(self, place, folder, files)
        digests = {name: hashlib.md5(content).hexdigest() for name, content in contents}
        checks = [self._check_sum(name, digests[name], decides=True) for name in files if name in self.md5]
        if place.is_dir():
            return checks
        with place.open("rb") as stream:
            digest = hashlib.file_digest(stream, "md5").hexdigest()
        # A repacked archive of files with the same bytes is as good
        return [self._check_sum(place.name, digest, decides=not checks), *checks]

    def _check_sum(self, name: str, digest: str, *, decides: bool) -> Check:
        same = digest == self.md5[name]
        return Check(what=f"{name} md5", expected=self.md5[name], found=digest, ok=same if same or decides else None)

    def _check_tail(self, split: str, labels: np.ndarray, *, imbalance: float) -> list[Check]:
        """Compare the class counts of a packed split with those of the tail, or of the public test images."""
        counts = np.bincount(labels, minlength=self.num_classes)
        if split == "train":
            expected = tail_counts(self.num_classes, self.per_class["train"], imbalance)
        else:
            expected = np.full(self.num_classes, self.per_class["test"])
        ends = [f"{values.max():,} to {values.min():,}" for values in (expected, counts)]
        ok = np.array_equal(expected, counts)
        return [
            check_count(f"{split} images", int(expected.sum()), len(labels)),
            Check(what=f"{split} per class", expected=ends[0], found=ends[1], ok=ok),
        ]


CIFAR = {
    "cifar10_lt": CifarSet(
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
    "cifar100_lt": CifarSet(
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
    """Return the class counts by the usual rule: most * (1 / imbalance)^(c / (C - 1)), rounded down, int64 [C].

    Source: Cui et al., Class-Balanced Loss (CVPR 2019); Cao et al., LDAM (NeurIPS 2019), in its code.

    Raises:
        ValueError: A class would have no image.
    """
    if not 1 <= imbalance <= most:
        raise ValueError(f"--imbalance: got {imbalance:g}; expected 1 to {most}, so that every class keeps an image")
    return np.array([int(most * (1 / imbalance) ** (c / (num_classes - 1.0))) for c in range(num_classes)], np.int64)


def tail_indices(labels: np.ndarray, imbalance: float, seed: int) -> np.ndarray:
    """Choose the images of a long-tailed CIFAR: int64 [*], class by class.

    Each class's images are shuffled by numpy's legacy generator, whose stream never changes, and the first few are
    kept; with seed 0 they are those of Cao et al.'s code.

    Args:
        labels: Labels of a balanced set, int64 [N].
        imbalance: Images in the largest class divided by those in the smallest.
        seed: Seed of the generator.
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
    """Return a hash of the choice of images: 12 hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(indices, "<i8").tobytes()).hexdigest()[:12]


def _maker(pixels: np.ndarray) -> Callable[[int], Item]:
    def make(index: int) -> Item:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(pixels[index]).save(file, "PNG", compress_level=1)
        return Item(file.getvalue(), SIDE, SIDE, True)

    return make


def _fingerprint(pixels: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes())
    digest.update(np.ascontiguousarray(labels, "<i8").tobytes())
    return digest.hexdigest()
