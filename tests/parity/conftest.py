"""Data for the tests that write training out."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastlt.data.synthetic.any_shape import synthesize


@pytest.fixture
def five_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Write five classes of 20 to 4 training images, 40 in all, and as many val images of each as are asked for."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)

    def write(val_per_class: int) -> Path:
        return synthesize(
            tmp_path / "data",
            num_classes=5,
            num_images=40,
            max_count=20,
            min_count=4,
            size=32,
            val_per_class=val_per_class,
            test_per_class=2,
            num_workers=1,
        )

    return write
