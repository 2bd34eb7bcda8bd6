"""Every command that writes, on data of a few dozen images; and the inputs that they start from.

As a program it is `fastlt` with these small recipes and data sets: `python -m benchmarks.campaign.cases train ...`
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import io
import os
import pickle
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = ("ant", "bee", "cat", "dog")
COUNTS = {"train": (12, 8, 5, 5), "val": (3, 3, 3, 3), "test": (2, 2, 2, 2)}
CIFAR_PER_CLASS = {"train": 5, "test": 2}
CPU = ("--device", "cpu")
TRAIN = ("train", "--dataset", "folder", "--data-root", "../inputs/data", *CPU)
CIFAR = ("train", "--dataset", "cifar10_lt", "--imbalance", "5", "--out", "run", *CPU)
FIT = ("--epochs", "1", *CPU, "--num-threads", "1")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command, run in a working folder that starts with copies of some inputs (NAME, or NAME:NEW NAME)."""

    name: str
    command: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    """What to run instead of the command where `marker` exists."""
    marker: str = "run/config.json"
    own_cache: bool = False
    """Whether the cache folder is among what it writes."""

    def set_up(self, work: Path) -> None:
        """Make the working folder anew."""
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        for name in self.inputs:
            name, _, new_name = name.partition(":")
            source, target = work.parent / "inputs" / name, work / (new_name or name)
            shutil.copytree(source, target, symlinks=True) if source.is_dir() else shutil.copy2(source, target)

    def retry(self, work: Path) -> tuple[str, ...]:
        """Return the command that continues after an interruption."""
        return self.resume if self.resume and (work / self.marker).is_file() else self.command

    def environment(self, work: Path) -> dict[str, str]:
        """Return the variables of its environment."""
        return {"FASTLT_CACHE": str(work / "cache" if self.own_cache else work.parent / "cache")}


def cases() -> tuple[Case, ...]:
    """Return all commands."""
    resume = ("train", "--resume", "--out", "run", *CPU)
    rebalance = ("rebalance", "run", *FIT)
    foreign = ("--data-root", "../inputs/data", "--image-size", "16", "--eval-resize", "16", "--tau", "0.7", "--force")
    export = functools.partial(Case, inputs=("run",))
    all_cases = [
        Case(name="train", command=(*TRAIN, "--out", "run"), resume=resume),
        Case(name="train-resume", command=resume, inputs=("halfway:run",)),
        Case(name="rebalance-tau", command=(*rebalance, "--tau", "0.7"), inputs=("run",)),
        Case(name="rebalance-all", command=(*rebalance, "--method", "all", "--select-on", "folds"), inputs=("run",)),
        Case(
            name="features",
            command=(*rebalance, "--method", "crt", "--views", "2", "--feature-precision", "bf16"),
            inputs=("run",),
        ),
        *(
            Case(name=f"rebalance-{kind}", command=("rebalance", name, *foreign, *FIT), inputs=(name,))
            for kind, name in (("pth", "net.pth"), ("safetensors", "net.safetensors"), ("folder", "net"))
        ),
        Case(
            name="evaluate",
            command=("evaluate", "rebalanced", "--method", "all", "--json", "out.json", *CPU),
            inputs=("rebalanced",),
        ),
        Case(
            name="predict",
            command=("predict", "run", "../inputs/data/test", "--out", "p.csv", "--json", "p.json", *CPU),
            inputs=("run",),
        ),
        Case(name="report", command=("report", "rebalanced", *CPU), inputs=("rebalanced",)),
        export(name="export-torchvision", command=("export", "run", "--json", "out.json")),
        export(name="export-safetensors", command=("export", "run", "--format", "safetensors")),
        Case(
            name="reproduce",
            command=(
                *("reproduce", "--dataset", "folder", "--data-root", "../inputs/data", "--epochs", "1"),
                *("--samplings", "instance_balanced", "square_root", "--out", "all", *CPU, "--num-threads", "1"),
            ),
        ),
        Case(name="pack", command=("data", "pack", "../inputs/data", "--out", "pack", "--num-threads", "1")),
        Case(
            name="pack-short-side",
            command=(
                *("data", "pack", "../inputs/data", "--short-side", "12", "--out", "pack", "--num-threads", "1"),
                "--verify",
            ),
        ),
        Case(
            name="split",
            command=("data", "split", "../inputs/data/train", "--out", "lists", "--val-per-class", "2"),
        ),
        Case(
            name="synth",
            command=(
                *("data", "synth", "made", "--classes", "4", "--images", "20", "--max", "10", "--min", "2"),
                *("--size", "16", "--num-threads", "1"),
            ),
        ),
        Case(
            name="glyphs",
            command=("train", "--dataset", "glyphs_lt", "--out", "run", *CPU),
            resume=resume,
            own_cache=True,
        ),
        Case(name="synthetic", command=(*CIFAR, "--synthetic"), resume=resume, own_cache=True),
        Case(name="cifar", command=(*CIFAR, "--data-root", "../inputs/cifar"), resume=resume, own_cache=True),
        Case(name="index", command=("data", "info", "../inputs/data"), own_cache=True),
        Case(name="recipes", command=("recipes", "cifar10_lt", "--json", "out.json")),
    ]
    if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
        all_cases.append(export(name="export-onnx", command=("export", "run", "--format", "onnx")))
    return tuple(all_cases)


def make_small() -> None:
    """Make the recipes and the data sets that need no images small, in this process."""
    import fastlt.recipes as recipes
    from fastlt.config import TrainConfig
    from fastlt.data import registry
    from fastlt.data.published.cifar import CIFAR
    from fastlt.data.synthetic import glyphs

    small = {
        "backbone": "resnet8",
        "image_size": 16,
        "eval_resize": 16,
        "batch_size": 8,
        "lr": 0.05,
        "epochs": 2,
        "precision": "fp32",
        "loader": "memory",
        "num_threads": 1,
        "log_every": 1,
        "compile": False,
    }
    recipes.RECIPES["folder"] = lambda: TrainConfig(dataset="folder", **small)
    recipes.RECIPES["cifar10_lt"] = lambda: TrainConfig(dataset="cifar10_lt", **small | {"epochs": 1})
    recipes.RECIPES["glyphs_lt"] = lambda: TrainConfig(dataset="glyphs_lt", **small | {"epochs": 1, "batch_size": 64})
    for name, published in CIFAR.items():
        registry.PUBLISHED[name] = CIFAR[name] = dataclasses.replace(published, per_class=CIFAR_PER_CLASS)
    full = glyphs.GlyphSpec
    tiny = functools.partial(
        full,
        max_count=2,
        min_count=1,
        val_per_class=1,
        test_per_class=1,
        look=dataclasses.replace(full().look, size=16),
    )
    glyphs.GlyphSpec = tiny  # type: ignore[misc, assignment]


def make_inputs(folder: Path, run: Callable[[Case, Path], None]) -> None:
    """Make everything that the commands start from, under `folder`/inputs.

    Args:
        folder: The folder.
        run: Runs a case in a working folder.
    """
    inputs = folder / "inputs"
    inputs.mkdir()
    draws = np.random.default_rng(0)
    from PIL import Image

    for split, counts in COUNTS.items():
        for label, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
            place = inputs / "data" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                colour = np.eye(3)[label % 3] * 150 + 20 * label
                pixels = (colour + draws.normal(0, 20, (18, 20, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.{'png' if number % 3 else 'jpg'}")
    make_cifar(inputs / "cifar", draws)
    work = folder / "work"
    named = {case.name: case for case in cases()}

    def keep(case: Case, source: str, target: str) -> None:
        case.set_up(work)
        run(case, work)
        shutil.copytree(work / source, inputs / target, symlinks=True)

    keep(named["train"], "run", "run")
    keep(named["rebalance-all"], "run", "run2")
    (inputs / "run2").rename(inputs / "rebalanced")
    for kind, out in (("torchvision", "joint.pth"), ("safetensors", "joint")):
        case = Case(name=kind, command=("export", "run", "--format", kind), inputs=("run",))
        case.set_up(work)
        run(case, work)
        if kind == "torchvision":
            shutil.copy2(work / "run/export" / out, inputs / "net.pth")
        else:
            shutil.copytree(work / "run/export" / out, inputs / "net")
            shutil.copy2(inputs / "net" / "model.safetensors", inputs / "net.safetensors")


def make_cifar(root: Path, draws: np.random.Generator) -> None:
    """Write a small archive in the form of CIFAR-10."""
    from fastlt.data.published.cifar import CIFAR

    spec = CIFAR["cifar10_lt"]
    root.mkdir()

    def batch(count: int) -> bytes:
        labels = [label for label in range(10) for _ in range(count)]
        pixels = draws.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        return pickle.dumps({b"data": pixels, b"labels": labels}, protocol=2)

    files = {name: batch(CIFAR_PER_CLASS["train"] // len(spec.train)) for name in spec.train}
    files |= {name: batch(CIFAR_PER_CLASS["test"]) for name in spec.test}
    files["batches.meta"] = pickle.dumps({b"label_names": [f"class {n}".encode() for n in range(10)]}, protocol=2)
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def command(argv: tuple[str, ...], folder: Path, environment: dict[str, str]) -> None:
    """Run `fastlt` with arguments in this process, in a folder."""
    from fastlt.cli import main

    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["fastlt", *argv]
    main()


if __name__ == "__main__":
    make_small()
    command(tuple(sys.argv[1:]), Path.cwd(), {})
