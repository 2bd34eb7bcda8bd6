"""Classify images without labels, with the loader and the network that evaluate the run."""

from __future__ import annotations

import contextlib
import csv
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..config import PredictConfig
from ..data.layouts.walk import reasons_as_json
from ..data.unlabelled import unlabelled_images
from ..evaluation.choice import default_method
from ..evaluation.classifier import open_classifier
from ..features.store import FeatureStore
from ..files import replacing
from ..run import Run
from ..runtime.device import resolve_device
from ..runtime.log import log, name_some

SCHEMA = 1

# Shapes: N images, K classes named for each.


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePredictions:
    """The most probable classes of N images, and the files that could not be read."""

    run: str
    method: str
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    """N paths."""
    classes: NDArray[np.int64]
    """[N, K], most probable first."""
    probabilities: NDArray[np.float64]
    """[N, K]."""
    skipped: dict[str, str]
    """Path -> why it cannot be read, pictures of a kind that is not read among them."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> files and folders that are no images, or are not entered."""

    def rankings(self) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """Yield each file with its K pairs of class name and probability."""
        for file, classes, probabilities in zip(
            self.files, self.classes.tolist(), self.probabilities.tolist(), strict=True
        ):
            yield file, list(zip((self.class_names[index] for index in classes), probabilities, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        rows = []
        for file, ranking in self.rankings():
            top = [{"class": name, "probability": probability} for name, probability in ranking]
            rows.append({"file": file, **top[0], "top": top})
        return {
            "schema": SCHEMA,
            "run": self.run,
            "method": self.method,
            "predictions": rows,
            "skipped": [{"file": file, "reason": reason} for file, reason in self.skipped.items()],
            "left_out": self.left_out,
        }

    def write_csv(self, path: Path) -> None:
        """Write one row per file: file, class, probability, class_2, probability_2, ..., reason.

        The rows of files that could not be read come last and have a reason only.
        """
        num_named = self.classes.shape[1]
        header = ["file", "class", "probability"]
        header += [f"{name}_{rank}" for rank in range(2, num_named + 1) for name in ("class", "probability")]
        header.append("reason")
        with (
            replacing(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(header)
            for name, ranking in self.rankings():
                writer.writerow([name, *itertools.chain.from_iterable(ranking), ""])
            for name, reason in self.skipped.items():
                writer.writerow([name, *[""] * 2 * num_named, reason])


def predict(
    run: Run, images: Sequence[Path | str] | Path | str, *, config: PredictConfig | None = None
) -> ImagePredictions:
    """Classify images.

    Args:
        run: The run; its data are not needed.
        images: Image files, and folders that are searched for images at any depth.
        config: The classifier, and the number of classes per image.

    Returns:
        The most probable classes of every image that decodes, the most probable first, with their probabilities.

    Raises:
        FileNotFoundError: An image, or the classifier, does not exist.
        ValueError: There is no image, or one that cannot be read and `config.strict` is set; or the checkpoint cannot
            be used.
    """
    config = config or PredictConfig()
    paths = [Path(images)] if isinstance(images, (Path, str)) else [Path(path) for path in images]
    class_names = tuple(run.data["class_names"])
    dataset = unlabelled_images(paths, class_names, flag="IMAGES")
    skipped = {str(dataset.root / image.path): image.reason for image in dataset.skipped}
    skipped |= {each.path: each.reason for each in dataset.left_out if each.is_picture}
    check_skipped(skipped, strict=config.strict)
    joint = FeatureStore(
        run, device=resolve_device(config.device), loader=config.loader, num_threads=config.num_threads
    )
    classifier = open_classifier(joint, default_method(joint, config.method))
    store, head = classifier.store, classifier.head.to(joint.device)
    classes, probabilities = [], []
    start = time.perf_counter()
    with store.extractor.computing(), contextlib.closing(store.open_images(dataset)) as loader:
        for features in store.extractor.features(loader, len(dataset)):
            # Stable: of two equal probabilities the lower index comes first, as in argmax
            logits = F.linear(features, head.weight, head.bias).double()
            ranking = logits.softmax(1).sort(stable=True, dim=1, descending=True)
            classes.append(ranking.indices[:, : config.top].cpu())
            probabilities.append(ranking.values[:, : config.top].cpu())
        replaced = {image.path: image.reason for image in loader.replaced}
    log.info("%s images by %s: %.1f s", f"{len(dataset):,}", classifier.method, time.perf_counter() - start)
    # A file that broke since it was listed was replaced by another image, so it has no prediction
    readable = np.array([path not in replaced for path in dataset.paths])
    skipped |= {str(dataset.root / path): reason for path, reason in replaced.items()}
    check_skipped(skipped, strict=config.strict)
    return ImagePredictions(
        run=str(run.path),
        method=classifier.method,
        class_names=class_names,
        files=tuple(str(dataset.path(at)) for at in np.flatnonzero(readable).tolist()),
        classes=torch.cat(classes).numpy()[readable],
        probabilities=torch.cat(probabilities).numpy()[readable],
        skipped=skipped,
        left_out=reasons_as_json(dataset.left_out),
    )


def check_skipped(skipped: Mapping[str, str], *, strict: bool) -> None:
    """Raise a ValueError if files cannot be read and that is not allowed."""
    if strict and skipped:
        named = name_some([f"{file} ({reason})" for file, reason in skipped.items()])
        raise ValueError(
            f"IMAGES: got {len(skipped)} that cannot be read: {named}; expected whole images; convert, replace or "
            "remove them, or drop --strict"
        )
