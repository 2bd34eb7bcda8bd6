"""A small long-tailed data set and a run trained on it, shared by the integration tests."""

import dataclasses
from pathlib import Path

import pytest
import torch

from fastlt import Run, TrainConfig, recipe, train
from fastlt.data.synth import synthesize

torch.set_num_threads(1)  # the networks here are so small that a second thread only waits for the first


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of 120 to 4 images, 32 pixels, with val and test."""
    return synthesize(
        tmp_path_factory.mktemp("data") / "glyphs",
        num_classes=10,
        num_images=300,
        max_count=120,
        min_count=4,
        size=32,
        val_per_class=6,
        test_per_class=8,
        num_workers=1,
    )


@pytest.fixture(scope="session")
def small_config(data_root: Path) -> TrainConfig:
    """Settings of a run of seconds."""
    return dataclasses.replace(
        recipe("glyphs_lt"),
        dataset="folder",
        data_root=data_root,
        epochs=3,
        batch_size=32,
        color_jitter=0.2,
        flip=0.5,
        device="cpu",
        num_threads=1,
    )


@pytest.fixture(scope="session")
def trained(small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; copy it before changing anything in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        return train(dataclasses.replace(small_config, out=Path.cwd() / "run"))


@pytest.fixture
def run_copy(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A private copy of the finished run, in an empty working folder."""
    import shutil

    monkeypatch.chdir(tmp_path)
    return Run(Path(shutil.copytree(trained.path, tmp_path / "run")))
