"""Tell whether data are those that a run was trained on, by the record that it keeps of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from ...runtime.log import log
from ..dataset import LongTailedDataset
from .overlap import shared_images


class SplitRecord(TypedDict):
    """The record of a split; earlier versions recorded no content, and not how many images train has too."""

    fingerprint: str
    content: NotRequired[str]
    num_images: NotRequired[int]
    num_skipped: NotRequired[int]
    num_in_train: NotRequired[int]


class DataRecord(TypedDict):
    """The record of a run's data, data.json."""

    class_names: list[str]
    class_counts: list[int]
    splits: dict[str, SplitRecord]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How data differ from a record.

    Attributes:
        faults: What is different of each split that is.
        unsure: The splits of which a record of an earlier version cannot tell: their files may have been copied, moved
            or touched only, since numbers and classes agree.
        renamed: Pairs of a recorded class name and the one that the data have in its place.
    """

    faults: dict[str, str]
    unsure: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]


def describe_data(splits: Mapping[str, LongTailedDataset]) -> DataRecord:
    """Return the record of a run's data: classes, training counts, and each split's fingerprint and content."""
    train = splits["train"]
    return {
        "class_names": list(train.class_names),
        "class_counts": train.class_counts.tolist(),
        "splits": {name: _describe(split, train) for name, split in splits.items()},
    }


def _describe(split: LongTailedDataset, train: LongTailedDataset) -> SplitRecord:
    record: SplitRecord = {"fingerprint": split.fingerprint}
    if split.content:
        record["content"] = split.content
    if split is not train and (num_in_train := int(shared_images(split, train).sum())):
        record["num_in_train"] = num_in_train
    return {**record, "num_images": len(split), "num_skipped": len(split.skipped)}


def warn_of_overlap(record: DataRecord, splits: Iterable[str], *, run: Path) -> None:
    """Warn of the splits among those that are reported whose images the run was trained on, by its record."""
    for name in splits:
        split = record["splits"].get(name)
        if split is not None and (count := split.get("num_in_train", 0)):
            total = f" of {split['num_images']:,}" if "num_images" in split else ""
            log.warning(
                "%s: %s%s %s images are in train too: accuracies on %s are too high",
                run,
                f"{count:,}",
                total,
                name,
                name,
            )


def compare_data(record: DataRecord, splits: Mapping[str, LongTailedDataset]) -> Comparison:
    """Compare data with a record.

    A split is the recorded one if its fingerprint is (nothing has changed, not even a modification time) or else if its
    content is: the same labels, sizes and bytes in the same order, wherever the files lie and whatever they are called.

    Args:
        record: The record.
        splits: The data by split.
    """
    faults: dict[str, str] = {}
    unsure: list[str] = []
    for name, recorded in record["splits"].items():
        if name not in splits:
            faults[name] = f"there is no {name} split"
        elif splits[name].fingerprint != recorded["fingerprint"]:
            split, content = splits[name], recorded.get("content")
            if fault := _fault(record, name, split):
                faults[name] = fault
            elif not (content and split.content):
                unsure.append(name)
            elif content != split.content:
                faults[name] = "as many images, of which some have other bytes or labels"
    names = zip(record["class_names"], splits["train"].class_names, strict=False) if "train" in splits else ()
    renamed = tuple((old, new) for old, new in names if old != new)
    return Comparison(faults=faults, unsure=tuple(unsure), renamed=renamed)


def is_same(record: DataRecord, other: DataRecord) -> bool:
    """Return whether two records are of the same data, as `compare_data` says it of a record and data."""
    splits, others = record["splits"], other["splits"]
    return (
        all(record[key] == other[key] for key in ("class_names", "class_counts"))
        and splits.keys() == others.keys()
        and all(_is_same_split(split, others[name]) for name, split in splits.items())
    )


def _is_same_split(one: SplitRecord, other: SplitRecord) -> bool:
    content = one.get("content")
    return one["fingerprint"] == other["fingerprint"] or bool(content and content == other.get("content"))


def _fault(record: DataRecord, name: str, split: LongTailedDataset) -> str:
    """Return what is different of a split by its numbers and classes; nothing if they agree."""
    expected = record["splits"][name].get("num_images", len(split))
    if expected != len(split):
        return f"{len(split):,} images instead of {expected:,}"
    if split.num_classes != len(record["class_names"]):
        return f"{split.num_classes:,} classes instead of {len(record['class_names']):,}"
    if name == "train" and not np.array_equal(split.class_counts, record["class_counts"]):
        return "other numbers of images in its classes"
    return ""
