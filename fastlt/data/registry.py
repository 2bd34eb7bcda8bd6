"""Open data by name or settings: the published sets by their names, any other set by its layout on disk."""

from __future__ import annotations

import logging
from pathlib import Path

from ..config import TrainConfig
from ..runtime.log import only
from .dataset import LongTailedDataset
from .inspection.identity import DataRecord, compare_data
from .inspection.overlap import check_overlap
from .published.cifar import CIFAR
from .published.interface import DataOptions, PublishedSet
from .published.listed import ListedSet
from .published.specs import BENCHMARKS
from .splits import open_splits

PUBLISHED: dict[str, PublishedSet] = {
    **{name: ListedSet(benchmark) for name, benchmark in BENCHMARKS.items()},
    **CIFAR,
}
"""The published data sets by name."""


def open_data(config: TrainConfig, *, needs_val: bool = True) -> dict[str, LongTailedDataset]:
    """Open train, val and, where there is one, test.

    The embedded data set and synthetic ones are made on first use; all others need `data_root`.

    Args:
        config: Says which data, and where.
        needs_val: Whether data of no published set are refused without val.

    Raises:
        ValueError, FileNotFoundError: The data are absent or cannot be used; the message says what to do.
    """
    options = DataOptions(lists=config.lists, strict=config.strict, imbalance=config.imbalance, seed=config.data_seed)
    if config.synthetic:
        return _open_synthetic(config, options)
    if config.dataset == "glyphs_lt" and config.data_root is None:
        from .synthetic.glyphs import glyphs_lt

        return glyphs_lt()
    if config.data_root is None:
        contents = "its images (train/<class>/*, val/<class>/*), or with list files"
        if published := PUBLISHED.get(config.dataset):
            contents = f"{published.contents}, or --synthetic for a made-up set of its shape"
        raise ValueError(f"--data-root: got none with --dataset {config.dataset}; expected the folder with {contents}")
    return open_named(config.dataset, config.data_root, options, needs_val=needs_val)


def find_changes(record: DataRecord, config: TrainConfig) -> dict[str, str]:
    """Return how the splits that have changed since they were recorded differ; nothing where the data are away."""
    try:
        with only(logging.ERROR):  # what there is to say of the data was said when they were recorded
            splits = open_data(config, needs_val="val" in record["splits"])
    except (OSError, ValueError):
        return {}
    return compare_data(record, splits).faults


def open_named(
    dataset: str, root: Path, options: DataOptions | None = None, *, needs_val: bool = True
) -> dict[str, LongTailedDataset]:
    """Open a data set by its name: a published one as such, any other by its layout on disk.

    Raises:
        ValueError, FileNotFoundError: The data are absent or cannot be used; the message says what to do.
    """
    options = options or DataOptions()
    if published := PUBLISHED.get(dataset):
        splits = published.open(root, options)
        check_overlap(splits, strict=options.strict)
        return splits
    return open_splits(root, lists=options.lists, strict=options.strict, needs_val=needs_val)


def _open_synthetic(config: TrainConfig, options: DataOptions) -> dict[str, LongTailedDataset]:
    from .synthetic.published_shape import synthetic

    if config.data_root is not None:
        raise ValueError(
            f"--synthetic: got it with --data-root {config.data_root}; expected one of the two; drop the other"
        )
    if config.dataset not in PUBLISHED:
        raise ValueError(
            f"--synthetic: got --dataset {config.dataset}, whose numbers are not known; expected one of "
            f"{', '.join(PUBLISHED)}; choose one, or make a set of any shape with `fastlt data synth`"
        )
    shape = PUBLISHED[config.dataset].shape(options)
    return synthetic(config.dataset, shape, size=config.synthetic_size, num_workers=config.num_threads)
