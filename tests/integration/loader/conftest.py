"""Data sets of small, smooth pictures, as photographs are, for the loaders' tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from fastlt.data.dataset import LongTailedDataset
from fastlt.data.loaders.loader import Loader, train_loader
from fastlt.data.sampler import LongTailSampler
from fastlt.data.transforms.augmentation import Augmentation

CLASS_COUNTS = (14, 7, 4, 1)


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache folder out of it."""
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


def picture(seed: int) -> Image.Image:
    """Return a smooth picture of a size of its own."""
    rng = np.random.default_rng(seed)
    width, height = rng.integers(40, 110, 2)
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    smooth = np.asarray(noise.filter(ImageFilter.GaussianBlur(3)), np.float32)
    return Image.fromarray(((smooth - 128) * 6 + 128).clip(0, 255).astype(np.uint8))


def write(folder: Path) -> Path:
    """Write a long-tailed folder of JPEG files, no two classes of one size."""
    for label, count in enumerate(CLASS_COUNTS):
        (folder / f"class{label}").mkdir(parents=True)
        for index in range(count):
            picture(100 * label + index).save(folder / f"class{label}" / f"{index:02}.jpg", quality=92)
    return folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pictures") / "train")


@pytest.fixture
def dataset(shared_folder: Path) -> LongTailedDataset:
    """A data set that the test leaves as it is."""
    return LongTailedDataset.from_folder(shared_folder, cache=False)


@pytest.fixture
def own_dataset(tmp_path: Path) -> LongTailedDataset:
    """A data set whose files the test may damage."""
    return LongTailedDataset.from_folder(write(tmp_path / "train"), cache=False)


@pytest.fixture
def open_train() -> Callable[..., Loader]:
    """Open a training loader with settings for small pictures."""

    def opened(
        dataset: LongTailedDataset,
        backend: str,
        *,
        start_step: int = 0,
        num_steps: int = 9,
        num_threads: int = 1,
        prefetch: int = 2,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
        interpolation: str = "bilinear",
    ) -> Loader:
        sampler = LongTailSampler(
            dataset.labels, sampling="instance_balanced", batch_size=8, seed=5, rank=rank, world_size=world_size
        )
        return train_loader(
            dataset,
            sampler,
            Augmentation(size=24, interpolation=interpolation),
            start_step=start_step,
            num_steps=num_steps,
            device=device,
            backend=backend,
            num_threads=num_threads,
            prefetch=prefetch,
        )

    return opened
