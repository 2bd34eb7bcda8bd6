"""From settings to data: open the splits that a training configuration names."""

from __future__ import annotations

from ..config import TrainConfig
from .dataset import LongTailedDataset, open_splits


def open_data(config: TrainConfig) -> dict[str, LongTailedDataset]:
    """Open train, val and, where there is one, test.

    The embedded data set is made on first use; every other needs ``data_root``.

    Raises:
        ValueError, FileNotFoundError: The data are absent or cannot be used; the message says what to do.
    """
    if config.dataset == "glyphs_lt" and config.data_root is None:
        from .glyphs import glyphs_lt

        return glyphs_lt()
    if config.data_root is None:
        raise ValueError(
            f"--data-root: missing; --dataset {config.dataset} needs the folder with its images "
            "(train/<class>/*, val/<class>/*), or with list files"
        )
    return open_splits(config.data_root, lists=config.lists, strict=config.strict)
