"""Check that a benchmark on disk is the published one: lists, counts, checksums, and which images are missing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...metrics import shot_groups
from ..dataset import LongTailedDataset
from ..image import decode_rgb
from ..layouts.find import find_splits, layout_of
from ..layouts.listing import Listing
from ..packs.read import is_pack, open_pack
from ..published.cifar import (
    CifarSpec,
    archive_contents,
    batch_files,
    find_archive,
    indices_hash,
    read_cifar,
    tail_counts,
    tail_indices,
)
from ..published.locate import find_lists, list_hash, read_lists
from ..published.specs import Benchmark, SplitSpec
from ..registry import check_class_folders

_NUM_SAMPLED = 32


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was checked.

    Attributes:
        what: Split and quantity.
        expected: As published.
        found: Here.
        ok: Whether they agree; None where a difference is worth telling but no fault.
    """

    what: str
    expected: str
    found: str
    ok: bool | None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found.

    Attributes:
        dataset: Name of the benchmark.
        root: The data root.
        num_images: Images listed, by split.
        checks: Everything that was compared.
        missing: Listed files that are not there or are empty, relative to the root, by split.
        unreadable: Files of the sample that cannot be decoded, and why.
        num_bytes: Size of all files that are there.
        decode_ms: Mean time to decode one on one core, over a sample; None where there is nothing to decode.
        num_sampled: Size of that sample.
        indices: Hash of the images that were chosen, where a long tail was cut out of a balanced set.
    """

    dataset: str
    root: Path
    num_images: dict[str, int]
    checks: tuple[Check, ...]
    missing: dict[str, tuple[str, ...]]
    unreadable: tuple[str, ...]
    num_bytes: int
    decode_ms: float | None
    num_sampled: int
    indices: str | None = None

    @property
    def num_missing(self) -> int:
        """Number of files that are not there, or are empty."""
        return sum(map(len, self.missing.values()))

    @property
    def problems(self) -> list[str]:
        """What is wrong, each in a few words; empty for the published data set, whole."""
        wrong = [f"{check.what} {check.found}, expected {check.expected}" for check in self.checks if check.ok is False]
        if self.num_missing:
            wrong.insert(0, f"{self.num_missing:,} of {sum(self.num_images.values()):,} images are missing")
        if self.unreadable:
            wrong.append(f"{len(self.unreadable)} of {self.num_sampled} sampled images cannot be decoded")
        return wrong

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self) | {"root": str(self.root), "problems": self.problems}


def verify(benchmark: Benchmark, root: Path | str, *, lists: Path | str | None = None) -> Verification:
    """Compare a benchmark on disk with what was published.

    Every listed file is looked for, and 32 of them are decoded; `fastlt train` looks at every file's header.

    Args:
        benchmark: What it should be.
        root: The data root, in any of the known layouts, or a pack.
        lists: The folder of the list files, as for `open_benchmark`.

    Raises:
        FileNotFoundError: No lists, or not a single image.
        ValueError: Lists of another data set, or ones that cannot be read.
    """
    root = Path(root)
    if is_pack(root):
        return _verify_packed(
            benchmark.name, root, lambda split, labels: check_counts(benchmark, split, labels), benchmark.splits
        )
    sources = find_lists(benchmark, root, None if lists is None else Path(lists))
    if sources:
        listings = dict(read_lists(benchmark, sources, root))
    else:
        check_class_folders(benchmark, root)
        listings = dict(find_splits(root, {}))
    checks: list[Check] = []
    missing: dict[str, tuple[str, ...]] = {}
    present: list[Path] = []
    num_bytes = 0
    for split, spec in benchmark.splits.items():
        if split not in listings:
            checks.append(Check(what=f"{split} list", expected=spec.lists[0], found="none", ok=None))
            continue
        listing = listings[split]
        if split in sources:
            checks += _check_hash(split, spec, sources[split])
        checks += check_counts(benchmark, split, listing.labels)
        sizes = file_sizes(listing)
        missing[split] = tuple(path for path, size in zip(listing.paths, sizes.tolist(), strict=True) if size <= 0)
        num_bytes += int(sizes.clip(min=0).sum())
        present += [listing.root / listing.paths[at] for at in _spread(np.flatnonzero(sizes > 0)).tolist()]
    sample = [present[at] for at in _spread(np.arange(len(present))).tolist()]
    decode_ms, unreadable = _decode({str(path.relative_to(root)): path.read_bytes for path in sample})
    return Verification(
        dataset=benchmark.name,
        root=root,
        num_images={split: len(listing.paths) for split, listing in listings.items()},
        checks=tuple(checks),
        missing=missing,
        unreadable=unreadable,
        num_bytes=num_bytes,
        decode_ms=decode_ms,
        num_sampled=len(sample),
    )


def _verify_packed(
    name: str, root: Path, checks_of: Callable[[str, np.ndarray], list[Check]], expected: Iterable[str]
) -> Verification:
    splits = open_pack(root, dataset=name)
    checks = [check for split in expected if split in splits for check in checks_of(split, splits[split].labels)]
    train = splits["train"]
    chosen = _spread(np.arange(len(train))).tolist()
    decode_ms, unreadable = _decode({train.paths[at]: _reader(train, at) for at in chosen})
    return Verification(
        dataset=name,
        root=root,
        num_images={split: len(dataset) for split, dataset in splits.items()},
        checks=tuple(checks),
        missing={},
        unreadable=unreadable,
        num_bytes=sum((root / f"{split}.tar").stat().st_size for split in splits),
        decode_ms=decode_ms,
        num_sampled=len(chosen),
    )


def verify_cifar(spec: CifarSpec, root: Path | str, *, imbalance: float = 100, seed: int = 0) -> Verification:
    """Compare a CIFAR archive with the public one: its files, checksums, records, labels; and say what is chosen of it.

    Checksums of the binary form's files are not published: there the archive's counts, and the records of its files.

    Args:
        spec: Which CIFAR.
        root: The folder with the public archive, pickled or binary, as it is or extracted; or a pack.
        imbalance: Images of the largest class over those of the smallest.
        seed: Of the choice.

    Raises:
        FileNotFoundError: No archive in `root`.
        ValueError: It is damaged, or the class sizes asked for are impossible.
    """
    root = Path(root)
    if is_pack(root):
        return _verify_packed(
            spec.name, root, lambda split, labels: _check_tail(spec, split, labels, imbalance), ("train", "val")
        )
    folder, place = find_archive(spec, root)
    files = [*batch_files(spec, folder, "train"), *batch_files(spec, folder, "test"), spec.names_file[folder]]
    members = [place / name for name in files] if place.is_dir() else [place]
    checks = [
        Check(what=path.name, expected="a file", found="none", ok=False) for path in members if not path.is_file()
    ]
    chosen = np.empty(0, np.int64)
    if not checks:
        labels = {split: read_cifar(spec, root, split)[1] for split in ("train", "test")}
        for split, marks in labels.items():
            checks.append(_equal(f"{split} images", spec.per_class[split] * spec.num_classes, len(marks)))
            checks.append(_equal(f"{split} per class", spec.per_class[split], int(np.bincount(marks)[0])))
        chosen = tail_indices(labels["train"], imbalance, seed)
        digests = {name: hashlib.md5(content).hexdigest() for name, content in archive_contents(place, folder, files)}
        known = [_checksum(spec, name, digests[name], decides=True) for name in files if name in spec.md5]
        if not place.is_dir():
            with place.open("rb") as stream:
                digest = hashlib.file_digest(stream, "md5").hexdigest()
            # Files packed anew, with the same bytes, are as good
            checks.append(_checksum(spec, place.name, digest, decides=not known))
        checks += known
    return Verification(
        dataset=spec.name,
        root=root,
        num_images={"train": len(chosen)},
        checks=tuple(checks),
        missing={},
        unreadable=(),
        num_bytes=sum(path.stat().st_size for path in members if path.is_file()),
        decode_ms=None,
        num_sampled=0,
        indices=indices_hash(chosen) if len(chosen) else None,
    )


def _check_tail(spec: CifarSpec, split: str, labels: np.ndarray, imbalance: float) -> list[Check]:
    """Compare the sizes of a packed split with those of the tail, or of the public test images."""
    counts = np.bincount(labels, minlength=spec.num_classes)
    if split == "train":
        expected = tail_counts(spec.num_classes, spec.per_class["train"], imbalance)
    else:
        expected = np.full(spec.num_classes, spec.per_class["test"])
    sizes = (f"{each.max():,} to {each.min():,}" for each in (expected, counts))
    ok = np.array_equal(expected, counts)
    return [
        _equal(f"{split} images", int(expected.sum()), len(labels)),
        Check(what=f"{split} per class", expected=next(sizes), found=next(sizes), ok=ok),
    ]


def _checksum(spec: CifarSpec, name: str, digest: str, *, decides: bool) -> Check:
    same = digest == spec.md5[name]
    return Check(what=f"{name} md5", expected=spec.md5[name], found=digest, ok=same if same or decides else None)


def check_counts(benchmark: Benchmark, split: str, labels: np.ndarray) -> list[Check]:
    """Compare a split's numbers with the published ones: images, classes, largest and smallest class, groups.

    Args:
        benchmark: What was published.
        split: The split.
        labels: int64 [N].
    """
    spec = benchmark.splits[split]
    counts = np.bincount(labels, minlength=benchmark.num_classes)
    checks = [
        _equal(f"{split} images", spec.num_images, len(labels)),
        _equal(f"{split} classes", benchmark.num_classes, int((counts > 0).sum())),
    ]
    if spec.per_class is not None:
        if counts.min() != counts.max():
            found = f"{counts.min():,} to {counts.max():,}"
            checks.append(Check(what=f"{split} per class", expected=f"{spec.per_class}", found=found, ok=False))
        else:
            checks.append(_equal(f"{split} per class", spec.per_class, int(counts[0])))
    if split == "train":
        checks.append(_equal("train largest class", benchmark.max_count, int(counts.max())))
        checks.append(_equal("train smallest class", benchmark.min_count, int(counts.min())))
        if benchmark.groups is not None:
            groups = tuple(int(mask.sum()) for mask in shot_groups(counts).values())
            expected, found = (" / ".join(map(str, each)) for each in (benchmark.groups, groups))
            checks.append(Check(what="train many / medium / few", expected=expected, found=found, ok=expected == found))
    return checks


def _check_hash(split: str, spec: SplitSpec, source: Path) -> list[Check]:
    """Tell whether a list is the released one; lists with other prefixes are as good, so a difference is no fault."""
    if not spec.sha256 or layout_of(source) is not layout_of(Path(spec.lists[0])):
        return []
    digest = list_hash(source)
    return [Check(what=f"{split} list", expected=spec.sha256, found=digest, ok=True if digest == spec.sha256 else None)]


def _equal(what: str, expected: int, found: int) -> Check:
    return Check(what=what, expected=f"{expected:,}", found=f"{found:,}", ok=expected == found)


def file_sizes(listing: Listing) -> np.ndarray:
    """Size of each listed file in bytes, -1 for one that is not there: int64 [N]."""
    prefix = f"{listing.root}{os.sep}"
    sizes = np.full(len(listing.paths), -1, np.int64)
    for at, path in enumerate(listing.paths):
        try:
            found = os.stat(prefix + path)  # noqa: PTH116 - half the time of pathlib's
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode):
            sizes[at] = found.st_size
    return sizes


def _spread(indices: np.ndarray) -> np.ndarray:
    """Return a sample, evenly spread: int64 [*]."""
    if len(indices) <= _NUM_SAMPLED:
        return indices
    chosen: np.ndarray = indices[np.linspace(0, len(indices) - 1, _NUM_SAMPLED).astype(np.int64)]
    return chosen


def _reader(dataset: LongTailedDataset, index: int) -> Callable[[], bytes]:
    return lambda: dataset.read(index)


def _decode(sample: Mapping[str, Callable[[], bytes]]) -> tuple[float | None, tuple[str, ...]]:
    """Decode a sample: mean milliseconds an image on one core, and what cannot be decoded."""
    unreadable: list[str] = []
    elapsed_s, num_decoded = 0.0, 0
    for at, (name, read) in enumerate(sample.items()):
        content = read()
        if at == 0:  # the first call also loads the decoders
            with contextlib.suppress(ValueError):
                decode_rgb(content)
        began = time.perf_counter()
        try:
            decode_rgb(content)
        except ValueError as error:
            unreadable.append(f"{name} ({str(error).removeprefix('image bytes: ').partition('; expected')[0]})")
        else:
            elapsed_s += time.perf_counter() - began
            num_decoded += 1
    return (1000 * elapsed_s / num_decoded if num_decoded else None), tuple(unreadable)
