"""The benchmarks that come as list files: how to open and verify them, and their class counts."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...metrics import shot_groups
from ...runtime.log import log
from ...runtime.output import quoted
from ..dataset import LongTailedDataset, build_dataset
from ..index import content_keys, index_files
from ..inspection.overlap import ListedImages
from ..inspection.verification import Check, Verification, check_count, check_shared, decode_sample, spread, verify_pack
from ..layouts.find import find_splits, layout_of
from ..layouts.listing import Listing
from ..packs.read import is_pack, open_pack
from ..splits import read_splits
from ..synthetic.any_shape import count_profile
from ..synthetic.published_shape import Shape
from .interface import DataOptions
from .locate import find_lists, list_hash, read_lists
from .specs import Benchmark, SplitSpec

_MANY, _FEW = 100, 20


@dataclass(frozen=True)
class ListedSet:
    """A benchmark that comes as list files, with its images in any known layout."""

    benchmark: Benchmark
    remedy = "complete the download, or give other --lists"

    @property
    def name(self) -> str:
        """The name that `--dataset` takes."""
        return self.benchmark.name

    @property
    def title(self) -> str:
        """The usual name."""
        return self.benchmark.title

    @property
    def contents(self) -> str:
        """What the data root holds, for messages."""
        return f"its images and lists ({self.benchmark.splits['train'].lists[0]}, ...; or --lists DIR)"

    def open(self, root: Path, options: DataOptions) -> dict[str, LongTailedDataset]:
        """Open the splits.

        Args:
            root: The folder of the images, in any of the known layouts; or a pack.
            options: `lists` (by default the data root or its folders `lists` or `annotations`) holds the list files,
                under their released names or as train.txt, val.txt, test.txt.

        Raises:
            FileNotFoundError: There are no lists, or images are missing.
            ValueError: Lists of another data set, or ones that cannot be read.
        """
        if is_pack(root):
            return open_pack(root, dataset=self.name)
        sources = find_lists(self.benchmark, root, options.lists)
        if not sources:
            _check_class_folders(self.benchmark, root)
            return read_splits(root, strict=options.strict)
        datasets = {}
        for split, listing in read_lists(self.benchmark, sources, root):
            try:
                datasets[split] = build_dataset(
                    listing, split=split, complete=split == "train", strict=options.strict, cache=True
                )
            except FileNotFoundError as error:
                where = f"--data-root {quoted(root)}{f' --lists {quoted(options.lists)}' if options.lists else ''}"
                raise FileNotFoundError(
                    f"{error}; `fastlt data verify --dataset {self.name} {where}` names all that is missing"
                ) from None
        _warn_of_counts(self.benchmark, datasets)
        return datasets

    def shape(self, options: DataOptions) -> Shape:
        """Return the class counts, for a made-up set."""
        splits = self.benchmark.splits.items()
        held = {split: spec.per_class for split, spec in splits if spec.per_class is not None}
        return Shape(counts=benchmark_counts(self.benchmark), held=held)

    def verify(self, root: Path, options: DataOptions) -> Verification:
        """Compare the data on disk with what was published.

        It checks that every listed file exists, reads every file's header for the index that `fastlt train` needs, and
        decodes 32 files.

        Args:
            root: The data root, in any of the known layouts, or a pack.
            options: As for `open`.

        Raises:
            FileNotFoundError: There are no lists, or no image at all.
            ValueError: Lists of another data set, or ones that cannot be read.
        """
        benchmark = self.benchmark
        if is_pack(root):
            return verify_pack(self.name, root, functools.partial(check_counts, benchmark))
        sources = find_lists(benchmark, root, options.lists)
        if sources:
            listings = dict(read_lists(benchmark, sources, root))
        else:
            _check_class_folders(benchmark, root)
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
            sizes = _file_sizes(listing)
            missing[split] = tuple(path for path, size in zip(listing.paths, sizes.tolist(), strict=True) if size <= 0)
            num_bytes += int(sizes.clip(min=0).sum())
            present += [listing.root / listing.paths[at] for at in spread(np.flatnonzero(sizes > 0)).tolist()]
        checks += check_shared(_with_contents(listings, whole=not any(missing.values())))
        sample = [present[at] for at in spread(np.arange(len(present))).tolist()]
        decode_ms, unreadable = decode_sample({str(path.relative_to(root)): path.read_bytes for path in sample})
        return Verification(
            dataset=self.name,
            root=root,
            num_images={split: len(listing.paths) for split, listing in listings.items()},
            checks=tuple(checks),
            missing=missing,
            unreadable=unreadable,
            num_bytes=num_bytes,
            decode_ms=decode_ms,
            num_sampled=len(sample),
        )


def _with_contents(listings: Mapping[str, Listing], *, whole: bool) -> dict[str, ListedImages]:
    """Return the images of listings, with what tells their contents apart, from the index, if none is missing."""
    splits = {}
    for name, listing in listings.items():
        contents = None
        if whole:
            index = index_files(listing.root, listing.paths, source=str(listing.source))
            contents = content_keys(index.stats[:, 0], index.digests)
        splits[name] = ListedImages(
            root=listing.root,
            paths=listing.paths,
            labels=listing.labels,
            class_names=listing.class_names,
            contents=contents,
        )
    return splits


def benchmark_counts(benchmark: Benchmark) -> np.ndarray:
    """Return falling class counts with the benchmark's total, largest and smallest class and, where known, groups.

    Returns:
        int64 [C].
    """
    total = benchmark.splits["train"].num_images
    most, least = benchmark.max_count, benchmark.min_count
    if benchmark.groups is None:
        return count_profile(benchmark.num_classes, total, max_count=most, min_count=least)
    num_many, num_medium, num_few = benchmark.groups
    medium = _exponential(num_medium, _MANY, _FEW)
    few = _exponential(num_few, _FEW - 1, least)
    rest = total - int(medium.sum() + few.sum())
    many = count_profile(num_many, rest, max_count=most, min_count=_MANY + 1)
    return np.concatenate([many, medium, few])


def _exponential(num_classes: int, most: int, least: int) -> np.ndarray:
    falling = most * (least / most) ** (np.arange(num_classes) / max(1, num_classes - 1))
    return np.rint(falling).astype(np.int64)


def _check_class_folders(benchmark: Benchmark, root: Path) -> None:
    """Raise an error unless a data root without lists has exactly the benchmark's train images, in class folders.

    The original data set has more images than its long-tailed part.
    """
    expected = benchmark.splits["train"]
    contents = "no list files"
    if (root / "train").is_dir() and (root / "val").is_dir():
        _, train = next(find_splits(root, {}))
        if len(train.paths) == expected.num_images:
            return
        contents = (
            f"no list files, and {len(train.paths):,} images in {root / 'train'} ({expected.num_images:,} expected)"
        )
    raise FileNotFoundError(
        f"--data-root: got {root}, which has {contents}; expected the lists of {benchmark.title}, a selection; put "
        f"{expected.lists[0]} and the other lists there, or give their folder with --lists"
    )


def _warn_of_counts(benchmark: Benchmark, datasets: dict[str, LongTailedDataset]) -> None:
    """Warn of splits without the benchmark's number of images: their accuracies are not comparable."""
    wrong = [
        f"{len(dataset):,} {split} images ({benchmark.splits[split].num_images:,} expected)"
        for split, dataset in datasets.items()
        if len(dataset) != benchmark.splits[split].num_images
    ]
    if wrong:
        log.warning(
            "%s has %s: accuracies are not comparable; `fastlt data verify` says why", benchmark.title, ", ".join(wrong)
        )


def check_counts(benchmark: Benchmark, split: str, labels: np.ndarray) -> list[Check]:
    """Compare a split's numbers with the published ones: images, classes, largest and smallest class, groups.

    Args:
        benchmark: What was published.
        split: The split.
        labels: int64 [N].
    """
    if split not in benchmark.splits:
        return []
    spec = benchmark.splits[split]
    counts = np.bincount(labels, minlength=benchmark.num_classes)
    checks = [
        check_count(f"{split} images", spec.num_images, len(labels)),
        check_count(f"{split} classes", benchmark.num_classes, int((counts > 0).sum())),
    ]
    if spec.per_class is not None:
        if counts.min() != counts.max():
            ends = f"{counts.min():,} to {counts.max():,}"
            checks.append(Check(what=f"{split} per class", expected=f"{spec.per_class}", found=ends, ok=False))
        else:
            checks.append(check_count(f"{split} per class", spec.per_class, int(counts[0])))
    if split == "train":
        checks.append(check_count("train largest class", benchmark.max_count, int(counts.max())))
        checks.append(check_count("train smallest class", benchmark.min_count, int(counts.min())))
        if benchmark.groups is not None:
            groups = tuple(int(mask.sum()) for mask in shot_groups(counts).values())
            texts = [" / ".join(map(str, sizes)) for sizes in (benchmark.groups, groups)]
            ok = benchmark.groups == groups
            checks.append(Check(what="train many / medium / few", expected=texts[0], found=texts[1], ok=ok))
    return checks


def _check_hash(split: str, spec: SplitSpec, source: Path) -> list[Check]:
    """Compare a list with the released one; other path prefixes are as good, so a difference is not a fault."""
    if not spec.sha256 or layout_of(source) is not layout_of(Path(spec.lists[0])):
        return []
    digest = list_hash(source)
    return [Check(what=f"{split} list", expected=spec.sha256, found=digest, ok=True if digest == spec.sha256 else None)]


def _file_sizes(listing: Listing) -> np.ndarray:
    """Return the size of each listed file in bytes, -1 for a missing one: int64 [N]."""
    prefix = f"{listing.root}{os.sep}"
    sizes = np.full(len(listing.paths), -1, np.int64)
    for at, path in enumerate(listing.paths):
        try:
            status = os.stat(prefix + path)  # noqa: PTH116 - half the time of pathlib's
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            sizes[at] = status.st_size
    return sizes
