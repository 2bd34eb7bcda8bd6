"""Find a benchmark on disk: its list files, and its images in any of the known layouts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...runtime.log import name_some
from ..layouts.find import LAYOUTS, layout_of
from ..layouts.identity import check_names, check_numbers
from ..layouts.layout import find_file
from ..layouts.listing import Listing, read_class_names
from ..layouts.lists import lists_folder
from ..layouts.walk import subfolders
from .specs import BENCHMARKS, Benchmark, class_folder

_NUM_PROBED = 48
_MOST_FOLDERS = 500


def find_lists(benchmark: Benchmark, root: Path, lists: Path | None = None) -> dict[str, Path]:
    """Find the list file, text or JSON, of each split.

    Args:
        benchmark: Has their possible names.
        root: The data root; it is searched, and its folders `lists` and `annotations`.
        lists: Another folder to search instead.

    Returns:
        The file by split; empty if there is none for train.

    Raises:
        FileNotFoundError: No such folder, or no list for val.
        ValueError: The lists are of another benchmark, or a split has more than one.
    """
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise FileNotFoundError(f"--data-root: got {root}, which {state}; expected the folder with the images")
    folders = [root, root / "lists", root / "annotations"] if lists is None else [lists_folder(root, lists)]
    for folder in filter(Path.is_dir, folders):
        sources = {split: file for split in benchmark.splits if (file := _find_list(benchmark, folder, split))}
        if "train" not in sources:
            continue
        if "val" not in sources:
            raise FileNotFoundError(
                f"{folder}: got {sources['train'].name} but no list for val; expected "
                f"{' or '.join(benchmark.splits['val'].lists)} beside it; add it"
            )
        return sources
    for folder in filter(Path.is_dir, folders):
        found = _released(benchmark, folder)
        if lists is not None:  # beside the images, other files may be named like a split
            found = [file for split in benchmark.splits if (file := _find_list(benchmark, folder, split))]
        if found:
            raise FileNotFoundError(
                f"--lists: got {folder}, which has {name_some([file.name for file in found])} but no train list; "
                f"expected {' or '.join(benchmark.splits['train'].lists)} beside it; add it"
            )
    others = [file for folder in folders for other in BENCHMARKS.values() for file in _released(other, folder)]
    if lists is not None or others:
        files = f"{name_some([file.name for file in others])}, of another data set" if others else "no list file"
        raise FileNotFoundError(
            f"--lists: got {others[0].parent if others else folders[0]}, which has {files}; expected "
            f"{_names(benchmark)} for --dataset {benchmark.name}"
        )
    return {}


def _names(benchmark: Benchmark) -> str:
    return ", ".join(split.lists[0] for split in benchmark.splits.values())


def _released(benchmark: Benchmark, folder: Path) -> list[Path]:
    return [file for split in benchmark.splits.values() for name in split.lists if (file := folder / name).is_file()]


def _find_list(benchmark: Benchmark, folder: Path, split: str) -> Path | None:
    """Find a split's list by its released name, a plain name, or the ending of a name that is no other benchmark's."""
    others = {name for other in BENCHMARKS.values() for spec in other.splits.values() for name in spec.lists}
    layouts = [layout for layout in LAYOUTS if layout.file]
    names = (*benchmark.splits[split].lists, *(layout.file.format(split=split) for layout in layouts))
    patterns = tuple(layout.pattern.format(split=split) for layout in layouts)
    return find_file(folder, names, patterns, split=split, others=others)


def read_lists(benchmark: Benchmark, sources: Mapping[str, Path], root: Path) -> Iterator[tuple[str, Listing]]:
    """Read the list of each split and find where its images are.

    Args:
        benchmark: The data set that the lists are of.
        sources: As `find_lists` returns them.
        root: The data root.

    Yields:
        (split, its listing with the paths on disk, relative to the data root).

    Raises:
        FileNotFoundError: None of the images exists; the message names a nearby root that has them, if there is one.
        ValueError: A list of another benchmark, or one that cannot be read.
    """
    train: Listing | None = None
    folders: list[str] = []
    for split, source in sources.items():
        listing = read_benchmark_list(benchmark, split, source, root, train)
        if train is None:
            train, folders = listing, _class_folders(listing)
            named = listing.keys or read_class_names(source.parent) or read_class_names(root)
            if not named and len(set(folders)) == len(folders):
                train = listing = replace(listing, class_names=tuple(folders))
        check_numbers(listing, train)
        check_names(listing)
        yield split, locate(benchmark, listing, folders)


def read_benchmark_list(
    benchmark: Benchmark, split: str, source: Path, root: Path, train: Listing | None = None
) -> Listing:
    """Read one list as it is, but refuse another benchmark's; `read_lists` states the errors.

    Args:
        benchmark: The data set that the list should be of.
        split: Its split.
        source: The list.
        root: The data root.
        train: The listing of train, whose classes the other splits share.
    """
    listing = layout_of(source).read(source, root, train)
    if not listing.paths:
        raise ValueError(f"{source}: got an empty list; expected the {split} list of {benchmark.title}")
    title = _other_title(benchmark, listing, split)
    if title:
        raise ValueError(
            f"{source}: got the list of {title}; expected that of {benchmark.title}; choose its --dataset, or "
            "other --lists"
        )
    lowest, highest = int(listing.labels.min()), int(listing.labels.max())
    if lowest < 0 or highest >= benchmark.num_classes:
        raise ValueError(
            f"{source}: got label {min(lowest, 0) or highest}, so it is the list of another data set; expected 0 to "
            f"{benchmark.num_classes - 1}, the {benchmark.num_classes} classes of {benchmark.title}; give other --lists"
        )
    return listing


def list_hash(source: Path) -> str:
    """Return the first 12 hexadecimal digits of a list's SHA-256, by which released lists are recognised."""
    return hashlib.sha256(source.read_bytes()).hexdigest()[:12]


def _other_title(benchmark: Benchmark, listing: Listing, split: str) -> str | None:
    """Return the title of another benchmark whose list this is, by its bytes or its numbers of images and classes."""
    digest = list_hash(listing.source)
    shape = (len(listing.paths), int(listing.labels.max()) + 1)
    for other in BENCHMARKS.values():
        spec = other.splits.get(split)
        if other.name == benchmark.name or spec is None:
            continue
        hashes = [split_spec.sha256 for split_spec in other.splits.values()]
        if digest in hashes or shape == (spec.num_images, other.num_classes):
            return other.title
    return None


def _class_folders(listing: Listing) -> list[str]:
    """Return the folder of each class in the train list, by label."""
    folders: dict[int, str] = {}
    for path, label in zip(listing.paths, listing.labels.tolist(), strict=True):
        if label not in folders:
            folders[label] = class_folder(path)
    return [folders.get(label, str(label)) for label in range(max(folders) + 1)]


def locate(benchmark: Benchmark, listing: Listing, folders: list[str]) -> Listing:
    """Return a listing with the paths of its images on disk, judged by a sample of them.

    Args:
        benchmark: Has the places where they may be.
        listing: The listing with the paths as in the list.
        folders: Folder of each class.

    Raises:
        FileNotFoundError: The images are in none of these places, or the root is one level too low.
    """
    chosen = np.unique(np.linspace(0, len(listing.paths) - 1, _NUM_PROBED).astype(np.int64)).tolist()
    sample = [(listing.paths[at], _folder(folders, int(listing.labels[at]))) for at in chosen]
    rule = _best_rule(benchmark, sample, listing.root)
    if rule is None:
        raise FileNotFoundError(_explain_absent(benchmark, sample, listing))
    container, number = rule
    above = listing.root.resolve()
    for levels in (1, 2) if container == "" and number > 0 else ():
        above = above.parent
        if any(os.path.isfile(above / path) for path, _ in sample):  # noqa: PTH113 - no error for a name too long
            raise FileNotFoundError(_explain_level(listing.root, levels, "low", listing, sample[0][0], above))
    if rule == ("", 0):
        return listing
    prefix = f"{container}/" if container else ""
    paths = tuple(
        prefix + benchmark.variants(path, _folder(folders, label))[number]
        for path, label in zip(listing.paths, listing.labels.tolist(), strict=True)
    )
    return replace(listing, paths=paths)


def _folder(folders: list[str], label: int) -> str:
    return folders[label] if 0 <= label < len(folders) else str(label)


def _best_rule(benchmark: Benchmark, sample: list[tuple[str, str]], root: Path) -> tuple[str, int] | None:
    """Return the (container, variant) under which most of the sampled images exist; None if none does."""
    best, most = None, 0
    candidates = [benchmark.variants(path, folder) for path, folder in sample]
    for container in ("", *benchmark.containers):
        base = root / container
        if not base.is_dir():
            continue
        for number in range(len(candidates[0])):
            num_found = sum(os.path.isfile(base / paths[number]) for paths in candidates)  # noqa: PTH113
            if num_found > most:
                best, most = (container, number), num_found
            if num_found == len(sample):
                return best
    return best


def _explain_absent(benchmark: Benchmark, sample: list[tuple[str, str]], listing: Listing) -> str:
    """Return the message that no image exists, with the folder nearby that would be the right root."""
    root, example = listing.root, sample[0][0]
    above = root.resolve()
    for levels in (1, 2):
        above = above.parent
        if _best_rule(benchmark, sample, above) is not None:
            return _explain_level(root, levels, "low", listing, example, above)
    below, levels = [root], 0
    while below and levels < 2:
        levels += 1
        below = [folder / name for folder in below for name in subfolders(folder)][:_MOST_FOLDERS]
        for folder in below:
            if _best_rule(benchmark, sample, folder) is not None:
                return _explain_level(root, levels, "high", listing, example, folder)
    return (
        f"--data-root: got {root}, which has none of the images of {listing.source.name}; expected {example} there; "
        f"give the folder of {benchmark.title}'s images"
    )


def _explain_level(root: Path, levels: int, side: str, listing: Listing, example: str, right: Path) -> str:
    count = "one level" if levels == 1 else f"{levels} levels"
    return f"--data-root: got {root}, {count} too {side} for {listing.source.name} ({example}, ...); give {right}"
