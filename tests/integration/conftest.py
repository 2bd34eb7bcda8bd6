"""A small long-tailed data set, a run trained on it, and networks that were not, shared by the integration tests."""

import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fastlt import Run, TrainConfig, cli, recipe, train
from fastlt.commands import common
from fastlt.data.synthetic.any_shape import synthesize
from fastlt.models import create_model

torch.set_num_threads(1)  # the networks here are so small that a second thread only waits for the first

COLOURS = (
    (200, 40, 40),
    (40, 200, 40),
    (40, 40, 200),
    (200, 200, 40),
    (200, 40, 200),
    (40, 200, 200),
    (220, 220, 220),
    (30, 30, 30),
    (120, 120, 120),
    (230, 130, 40),
)
LAST_NORM = {"resnet10": "bn2", "resnet50": "bn3"}  # of a block
INTERRUPTED = 130  # the exit status of what SIGINT ended

Outcome = tuple[int, str, str]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A network's tensors, in torchvision's names, and what it makes of the test images: inputs, features, labels."""

    backbone: str
    tensors: dict[str, Tensor]
    images: Tensor
    features: Tensor
    labels: Tensor


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
    monkeypatch.chdir(tmp_path)
    return Run(Path(shutil.copytree(trained.path, tmp_path / "run")))


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of noisy plain colours, 24 to 3 train images of 32 pixels, 6 val and 4 test images each."""
    root = tmp_path_factory.mktemp("colours") / "images"
    draws = np.random.default_rng(0)
    for label, colour in enumerate(COLOURS):
        for split, number in (("train", round(24 * 0.8**label)), ("val", 6), ("test", 4)):
            folder = root / split / f"colour {label}"
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = np.array(colour) + draws.normal(0, 12, 3) + draws.normal(0, 20, (32, 32, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return root


def pixels_of(root: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a split's images, normalised with mean 0.5 and deviation 0.25, [N, 3, 32, 32], and labels [N]."""
    files = sorted((root / split).glob("*/*.png"))
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.25
    return x.float(), torch.tensor([int(file.parent.name.split()[1]) for file in files])


@pytest.fixture(scope="session")
def fitted(colours: Path) -> Callable[[str], Fitted]:
    """Make a network of a name that knows the colours: random convolutions, a head of class means."""

    @functools.cache
    def make(backbone: str) -> Fitted:
        torch.manual_seed(0)
        network = create_model(backbone, len(COLOURS))
        with torch.no_grad():
            images, labels = pixels_of(colours, "train")
            for name, module in network.named_modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None  # the plain mean over batches, here of one
                    if name.startswith("layer") and name.rpartition(".")[2] == LAST_NORM[backbone]:
                        module.weight.fill_(0.2)  # nearly a straight line: random blocks in sequence forget the image
            network.train().features(images)
            features = network.eval().features(images)
            centre = features.mean(0)
            means = torch.stack([features[labels == label].mean(0) for label in range(len(COLOURS))]) - centre
            # Nearest class mean on centred features, with the long tail's mark on the norms
            scale = 20 / means.square().sum(1).mean()
            means *= scale
            network.fc.weight.copy_(means)
            network.fc.bias.copy_(-(means.square() / scale).sum(1) / 2 - means @ centre)
            held, held_labels = pixels_of(colours, "test")
            return Fitted(backbone, network.state_dict(), held, network.features(held), held_labels)

    return make


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder that goes when the test does: checkpoints are large."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def rebalance_checkpoint(colours: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run `fastlt rebalance` on a checkpoint that knows the colours."""

    def run(*arguments: object) -> None:
        where = ["--data-root", str(colours), "--device", "cpu", "--num-threads", "1", "--loader", "memory"]
        monkeypatch.setattr(sys, "argv", ["fastlt", "rebalance", *where, *map(str, arguments)])
        cli.main()

    return run


@pytest.fixture
def ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], tuple[str, str]]:
    """Run a command in the test's folder, press Ctrl-C in its second epoch and return what it said: out, err."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(command: Sequence[str]) -> tuple[str, str]:
        out, err = tmp_path / "out", tmp_path / "err"
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(command, cwd=tmp_path, stdout=stdout, stderr=stderr, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while "epoch 2/" not in out.read_text():
                assert process.poll() is None, err.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to every process
            assert process.wait(60) == INTERRUPTED
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return out.read_text(), err.read_text()

    return run


@pytest.fixture(name="fastlt")
def run_fastlt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command in this process: (exit status, standard output, standard error)."""
    monkeypatch.setattr(common.console, "_width", 200)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["fastlt", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def contents(root: Path) -> dict[str, bytes]:
    """Return the files of a folder; fastlt's own runs and lists of tensors do not count."""
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file() and "runs" not in file.parts and not file.name.endswith(".unmapped.txt")
    }


@pytest.fixture
def refusal(
    rebalance_checkpoint: Callable[..., None], workshop: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run the command, which must fail with one line, status 2 and nothing written; return the line."""

    def run(*arguments: object) -> str:
        before = contents(workshop)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            rebalance_checkpoint(*arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert error.startswith("fastlt: ")
        assert error.count("\n") == 1, error
        assert contents(workshop) == before
        return error

    return run
