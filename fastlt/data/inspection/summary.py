"""Describe a data set in numbers: images, classes, imbalance, groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..dataset import LongTailedDataset
from ..layouts.walk import reasons_as_json
from .overlap import shared_images


def describe(splits: Mapping[str, LongTailedDataset], *, many: int = 100, few: int = 20) -> dict[str, Any]:
    """Describe the splits of a data set, in values that JSON can hold.

    Args:
        splits: The splits by name, with "train" among them.
        many: As for `LongTailedDataset.shot_groups`.
        few: As for `LongTailedDataset.shot_groups`.

    Returns:
        num_classes; imbalance_ratio, gini and groups (number of classes) of train; largest and smallest classes
        (name, count); and for each split num_images, min and max images per class, num_skipped, left_out (what lies
        beside the images, by reason), num_in_train (images that train has too), num_native (images that DALI decodes
        itself), its fingerprint, and the hash of its content.
    """
    train = splits["train"]
    counts = train.class_counts
    order = np.argsort(-counts, kind="stable").tolist()
    return {
        "num_classes": train.num_classes,
        "imbalance_ratio": train.imbalance_ratio,
        "gini": gini(counts),
        "groups": {name: len(classes) for name, classes in train.shot_groups(many, few).items()},
        "largest": [(train.class_names[label], int(counts[label])) for label in order[:5]],
        "smallest": [(train.class_names[label], int(counts[label])) for label in order[:-6:-1]],
        "splits": {
            name: {
                "num_images": len(split),
                "min_per_class": int(split.class_counts.min()),
                "max_per_class": int(split.class_counts.max()),
                "num_skipped": len(split.skipped),
                "left_out": reasons_as_json(split.left_out),
                "num_in_train": 0 if split is train else int(shared_images(split, train).sum()),
                "num_native": int(split.native.sum()),
                "fingerprint": split.fingerprint,
                "content": split.content,
            }
            for name, split in splits.items()
        },
    }


def gini(counts: np.ndarray) -> float:
    """Return the Gini coefficient of class counts [C]: 0 when all are equal, near 1 when one class has everything."""
    rising = np.sort(np.asarray(counts, np.float64))
    total = rising.sum()
    if total == 0:
        return 0.0
    ranks = np.arange(1, rising.size + 1)
    return float((2 * ranks - rising.size - 1) @ rising / (rising.size * total))
