"""Every command that writes, on data of a few dozen images; and the inputs that they start from.

As a program it is `fastlt` with these small recipes and data sets: `python -m benchmarks.campaign.cases train ...`
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import io
import json
import os
import pickle
import random
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
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
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


def make_fixtures(inputs: Path, run_command: Callable[[tuple[str, ...], Path], None]) -> None:
    """Make the folders that the readers read, in the folder of the commands' inputs.

    Args:
        inputs: The folder, with what `cases.make_inputs` made.
        run_command: Runs a command in a folder; it has to succeed.
    """
    nets, sharded = inputs / "nets", inputs / "nets" / "sharded"
    nets.mkdir()
    for name in ("net.pth", "net.safetensors"):
        shutil.copy2(inputs / name, nets / name)
    shutil.copytree(inputs / "net", nets / "net")
    make_foreign(inputs, nets, sharded)
    pack = ("data", "pack", "../data", "--num-threads", "1", "--out", ".")
    work = inputs / "again"
    for name in (
        "pack",
        "half-pack",
        "made",
        "again",
        "lists",
        "tables",
        "coco",
        "prior",
        "indexed",
        "images",
        "featured",
    ):
        (inputs / name).mkdir()
    run_command(pack, inputs / "pack")
    shutil.copy2(inputs / "net.pth", work)
    foreign = ("--data-root", "../data", "--image-size", "16", "--eval-resize", "16", "--tau", "0.7", "--force")
    run_command(("rebalance", "net.pth", *foreign, *CPU), work)
    synth = ("data", "synth", ".", "--classes", "4", "--images", "20", "--max", "10", "--min", "2", "--size", "16")
    run_command((*synth, "--num-threads", "1"), inputs / "made")
    shutil.rmtree(inputs / "featured")
    shutil.copytree(inputs / "run", inputs / "featured")
    run_command(
        ("rebalance", ".", "--method", "crt", "--epochs", "1", "--feature-precision", "bf16", *CPU), inputs / "featured"
    )
    make_lists(inputs)
    make_cifar_forms(inputs)
    draws = np.random.default_rng(0).integers(0, 256, (18, 20, 3), dtype=np.uint8)
    from PIL import Image

    for name in FORMATS:
        if name in Image.SAVE:
            Image.fromarray(draws).save(inputs / "images" / f"image.{name.lower()}", name)


def make_foreign(inputs: Path, nets: Path, sharded: Path) -> None:
    """Write a checkpoint in the old format of torch.save, and a folder in two shards with an index."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = torch.load(inputs / "net.pth", weights_only=True)
    torch.save(tensors, nets / "legacy.pth", _use_new_zipfile_serialization=False)
    shutil.copytree(inputs / "net", sharded)
    (sharded / "model.safetensors").unlink()
    tensors = load_file(inputs / "net" / "model.safetensors")
    holders = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(sorted(tensors))}
    for holder in set(holders.values()):
        save_file({key: tensors[key] for key in holders if holders[key] == holder}, sharded / holder)
    index = {"metadata": {"total_size": 1}, "weight_map": holders}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    processor = {"size": {"shortest_edge": 16}, "image_mean": [0.5] * 3, "image_std": [0.2] * 3, "resample": 2}
    (sharded / "preprocessor_config.json").write_text(json.dumps(processor))


def make_lists(inputs: Path) -> None:
    """Write lists, COCO-style files, a prior and an index of the images."""
    names = {name: label for label, name in enumerate(CLASSES)}
    for split in ("train", "val", "test"):
        files = sorted(path.relative_to(inputs / "data") for path in (inputs / "data" / split).glob("*/*"))
        entries = [(f"../data/{path.as_posix()}", names[path.parent.name]) for path in files]
        (inputs / "lists" / f"{split}.txt").write_text("".join(f"{path[3:]} {label}\n" for path, label in entries))
        coco = {
            "images": [{"id": at, "file_name": f"../../inputs/{path[3:]}"} for at, (path, _) in enumerate(entries)],
            "annotations": [{"image_id": at, "category_id": label} for at, (_, label) in enumerate(entries)],
            "categories": [{"id": label, "name": name} for name, label in names.items()],
        }
        (inputs / "coco" / f"{split}.json").write_text(json.dumps(coco))
    (inputs / "lists" / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    (inputs / "lists" / "root.txt").write_text("../../inputs\n")
    (inputs / "prior" / "prior.csv").write_text("class,frequency\n" + "".join(f"{name},0.25\n" for name in CLASSES))
    train = inputs / "data" / "train"
    for number, file in enumerate(sorted(train.glob("*/*"))):
        shutil.copy2(file, inputs / "tables" / f"{number}{file.suffix}")
    rows = "".join(f"{number},{file.parent.name}\n" for number, file in enumerate(sorted(train.glob("*/*"))))
    for split in ("train", "val"):
        (inputs / "tables" / f"{split}.csv").write_text(f"image,label\n{rows}")
    paths = sorted(path.relative_to(train).as_posix() for path in train.glob("*/*"))
    (inputs / "indexed" / "paths.json").write_text(json.dumps(paths))


def make_cifar_forms(inputs: Path) -> None:
    """Extract the small CIFAR archive, and write it in its binary form."""
    with tarfile.open(inputs / "cifar" / "cifar-10-python.tar.gz") as archive:
        archive.extractall(inputs / "cifar-py", filter="data")
    folder = inputs / "cifar-bin" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    draws = random.Random(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        count = CIFAR_PER_CLASS["test"] if name == "test_batch" else CIFAR_PER_CLASS["train"] // 5
        records = [bytes([label]) + draws.randbytes(3072) for label in range(10) for _ in range(count)]
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    (folder / "batches.meta.txt").write_text("".join(f"class{number}\n" for number in range(10)))


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
