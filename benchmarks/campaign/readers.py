"""Every reader of files that may be damaged: which file, of which kind, and what is read from it."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import mutations
from .cases import CLASSES, CPU, FORMATS, command


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Something that reads a file.

    Attributes:
        name: Its name.
        folder: A folder of the inputs, a copy of which is read.
        file: The file in it that is damaged.
        kind: The kind of file, a key of `mutations.STRUCTURED`.
        read: Returns the value in the folder.
        sealed: Whether checksums or a second source make any other value than the original an error.
        extra: Hostile versions of the file that are tried first.
    """

    name: str
    folder: str
    file: str
    kind: str
    read: Callable[[Path], Any]
    sealed: bool = False
    extra: Sequence[bytes] = ()


def digest(value: Any) -> str:
    """Return a hash of a value: of arrays' and tensors' contents, of anything else as it is printed."""
    total = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, dict):
            for key in part:
                total.update(repr(key).encode())
                add(part[key])
        elif isinstance(part, tuple | list):
            for each in part:
                add(each)
        elif hasattr(part, "numpy"):
            add(np.ascontiguousarray(part.float().numpy()))
        elif isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            total.update(repr(part).encode())

    add(value)
    return total.hexdigest()


def fastlt(*argv: str) -> Callable[[Path], str]:
    """Return a function that runs a command in a folder, and returns an empty text or what the command says."""

    def call(folder: Path) -> str:
        command(argv, folder, {"FASTLT_CACHE": str(folder.parent / "cache")})
        return ""

    return call


def run_folder() -> Iterator[Reader]:
    """Yield the readers of a run's files."""
    import torch

    from fastlt.evaluation.classifier import open_classifier
    from fastlt.evaluation.results import Results
    from fastlt.features.store import FeatureStore
    from fastlt.report.figures import read_records
    from fastlt.run import Run

    def store(folder: Path, precision: str = "fp32") -> FeatureStore:
        return FeatureStore(Run.open(folder), device=torch.device("cpu"), num_threads=1, precision=precision)

    def features(folder: Path) -> Any:
        split = store(folder, "bf16").split("train")
        return split.features, split.labels

    def results(folder: Path) -> str:
        return repr(Results.read(folder / "rebalanced/tau/results.json").to_json())

    def classifier(folder: Path) -> Any:
        found = open_classifier(store(folder), "tau")
        return found.head.weight.detach(), found.params, found.prior, found.selection, found.held_out

    def table(folder: Path) -> Any:
        return repr(Results.read(folder / "rebalanced/tau/results.json").table(""))

    resume = fastlt("train", "--resume", "--out", ".", "--data-root", "../../inputs/data", *CPU)
    kept = "rebalanced"
    yield Reader(
        name="config.json", folder=kept, file="config.json", kind="json", read=lambda f: repr(Run.open(f).config)
    )
    yield Reader(name="data.json", folder=kept, file="data.json", kind="json", read=lambda f: Run.open(f).data)
    yield Reader(
        name="data.json by rebalance", folder=kept, file="data.json", kind="json", read=fastlt("rebalance", ".", *CPU)
    )
    yield Reader(name="results.json", folder=kept, file="rebalanced/tau/results.json", kind="json", read=results)
    yield Reader(
        name="results.json as a table", folder=kept, file="rebalanced/tau/results.json", kind="json", read=table
    )
    yield Reader(
        name="metrics.jsonl",
        folder=kept,
        file="metrics.jsonl",
        kind="lines",
        read=lambda f: read_records(f / "metrics.jsonl"),
    )
    yield Reader(
        name="metrics.jsonl by train",
        folder="halfway",
        file="metrics.jsonl",
        kind="lines",
        read=resume,
    )
    for file, kind in (
        ("train.bf16.json", "json"),
        ("train.bf16.features.npy", "bytes"),
        ("train.labels.npy", "bytes"),
    ):
        yield Reader(
            name=f"features: {file}", folder="featured", file=f"features/{file}", kind=kind, read=features, sealed=True
        )
    yield Reader(
        name="best checkpoint",
        folder=kept,
        file="checkpoints/best.safetensors",
        kind="bytes",
        read=lambda f: store(f).tensors,
        sealed=True,
    )
    yield Reader(
        name="classifier",
        folder=kept,
        file="rebalanced/tau/model.safetensors",
        kind="bytes",
        read=classifier,
        sealed=True,
    )
    yield Reader(
        name="last checkpoint",
        folder="halfway",
        file="checkpoints/last.safetensors",
        kind="bytes",
        read=resume,
    )
    yield Reader(
        name="folds.npz", folder=kept, file="rebalanced/tau/folds.npz", kind="zip", read=classifier, sealed=True
    )


def checkpoints() -> Iterator[Reader]:
    """Yield the readers of other people's checkpoints."""
    from fastlt.checkpoints.reading import read_checkpoint
    from fastlt.checkpoints.writing import read_record

    foreign = (
        "--data-root",
        "../../inputs/data",
        "--image-size",
        "16",
        "--eval-resize",
        "16",
        "--tau",
        "0.7",
        "--force",
    )
    pickles = mutations.hostile_pickles()

    def tensors(name: str) -> Callable[[Path], Any]:
        return lambda folder: read_checkpoint(folder / name).tensors

    for name, kind in (("net.pth", "zip"), ("legacy.pth", "bytes"), ("net.safetensors", "bytes")):
        yield Reader(
            name=name, folder="nets", file=name, kind=kind, read=tensors(name), extra=pickles if kind != "zip" else ()
        )
    for file, kind in (
        ("net/config.json", "json"),
        ("sharded/preprocessor_config.json", "json"),
        ("sharded/model.safetensors.index.json", "json"),
        ("net/model.safetensors", "bytes"),
    ):
        read = fastlt("rebalance", file.partition("/")[0], *foreign, *CPU)
        yield Reader(name=file, folder="nets", file=file, kind=kind, read=read)

    def written(folder: Path) -> Any:
        os.chdir(folder)
        return read_record()

    yield Reader(name="written.json", folder="again", file="runs/adopted/written.json", kind="json", read=written)


def data(inputs: Path) -> Iterator[Reader]:
    """Yield the readers of data sets; the index of the images is cached by its first reading."""
    from fastlt.data import open_splits
    from fastlt.data.index import index_files
    from fastlt.data.published.cifar import CIFAR
    from fastlt.data.published.cifar_archive import read_cifar
    from fastlt.evaluation.prior import read_frequencies

    def everything(folder: Path) -> Any:
        splits = open_splits(folder, cache=False)
        return [
            (name, split.class_names, split.labels, split.paths, [split.read(at) for at in range(len(split))])
            for name, split in splits.items()
        ]

    def listed(folder: Path) -> Any:
        return [(split.paths, split.labels, split.class_names) for split in open_splits(folder, cache=False).values()]

    def indexed(folder: Path) -> Any:
        os.environ["FASTLT_CACHE"] = str(folder / "cache")
        paths = json.loads((folder / "paths.json").read_text())
        index = index_files(inputs / "data" / "train", paths, source="data")
        return index.sizes, index.native, index.reasons

    def cifar(folder: Path) -> Any:
        return read_cifar(CIFAR["cifar10_lt"], folder, "train")

    for file, kind in (("pack.json", "json"), ("train.npz", "zip"), ("train.tar", "bytes")):
        yield Reader(
            name=f"pack: {file}", folder="pack", file=file, kind=kind, read=everything, sealed=file != "pack.json"
        )
    for file in journals():
        yield Reader(
            name=f"pack: {file}",
            folder="half-pack",
            file=file,
            kind="bytes",
            sealed=True,
            read=lambda folder: (
                fastlt("data", "pack", "../../inputs/data", "--out", ".", "--num-threads", "1")(folder),
                everything(folder),
            )[1],
        )
    pickles = mutations.hostile_pickles()
    yield Reader(
        name="cifar pickle",
        folder="cifar-py",
        file="cifar-10-batches-py/data_batch_1",
        kind="bytes",
        read=cifar,
        extra=pickles,
    )
    yield Reader(
        name="cifar names",
        folder="cifar-py",
        file="cifar-10-batches-py/batches.meta",
        kind="bytes",
        read=cifar,
        extra=pickles,
    )
    yield Reader(
        name="cifar binary", folder="cifar-bin", file="cifar-10-batches-bin/data_batch_1.bin", kind="bytes", read=cifar
    )
    yield Reader(name="cifar tar.gz", folder="cifar", file="cifar-10-python.tar.gz", kind="gzip", read=cifar)
    for file in ("train.txt", "val.txt", "classes.txt", "root.txt"):
        yield Reader(name=f"lists: {file}", folder="lists", file=file, kind="lines", read=listed)
    yield Reader(name="table of images", folder="tables", file="train.csv", kind="lines", read=listed)
    yield Reader(name="COCO JSON", folder="coco", file="train.json", kind="json", read=listed)
    yield Reader(
        name="prior CSV",
        folder="prior",
        file="prior.csv",
        kind="lines",
        read=lambda folder: read_frequencies(folder / "prior.csv", CLASSES),
    )
    index = next((inputs / "indexed").rglob("*.npz"), inputs / "indexed").relative_to(inputs / "indexed").as_posix()
    yield Reader(name="index cache", folder="indexed", file=index, kind="zip", read=indexed, sealed=True)
    yield Reader(
        name="synth record",
        folder="made",
        file=synth_record(),
        kind="json",
        read=fastlt(
            *("data", "synth", ".", "--classes", "4", "--images", "20", "--max", "10", "--min", "2"),
            *("--size", "16", "--num-threads", "1"),
        ),
    )


def journals() -> Sequence[str]:
    """Return the names of the files by which an interrupted pack continues."""
    return (".train.tar.journal", ".train.tar.partial")


def synth_record() -> str:
    """Return the name of the file in which `data synth` records what it makes."""
    from fastlt.data.synthetic import any_shape

    return getattr(any_shape, "RECORD", None) or any_shape._RECORD


def images() -> Iterator[Reader]:
    """Yield a reader for every format of images, by decoding and by its header."""
    from PIL import Image

    from fastlt.data.image import decode_rgb, probe

    def read(file: str) -> Callable[[Path], Any]:
        def call(folder: Path) -> Any:
            try:
                info = probe(folder / file)
            except ValueError as error:  # bare reasons, which the index puts into its own message
                info = error
            return repr(info), decode_rgb(folder / file)

        return call

    for name in FORMATS:
        if name in Image.SAVE:
            file = f"image.{name.lower()}"
            yield Reader(
                name=f"image: {name}",
                folder="images",
                file=file,
                kind="bytes",
                read=read(file),
                extra=large_images(name),
            )


def large_images(name: str) -> Sequence[bytes]:
    """Return images of one colour that are small files and as large as is allowed, or larger."""
    from PIL import Image

    options: dict[str, Any] = {"TIFF": {"compression": "tiff_adobe_deflate"}, "WEBP": {"lossless": True, "method": 0}}
    made = []
    for side, mode in ((9400, "RGB"), (9400, "RGBA"), (9400, "P"), (9400, "L"), (9400, "1"), (30_000, "1")):
        if name not in ("PNG", "GIF", "TIFF") and mode != "RGB":
            continue
        if name in ("BMP", "PPM", "JPEG2000", "AVIF"):
            continue
        file = io.BytesIO()
        try:
            Image.new(mode, (side, side)).save(file, name, **options.get(name, {}))
        except (OSError, ValueError):
            continue  # a format that does not have this mode or size
        made.append(file.getvalue())
    return made
