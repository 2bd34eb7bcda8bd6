"""Classify images without labels, in batches through the same loader and network as everything else."""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..config import PredictConfig
from ..data.unlabelled import unlabelled_images
from ..evaluation.classifier import default_method, open_classifier
from ..features.store import FeatureStore
from ..files import replacing
from ..run import Run
from ..runtime.device import exact_fp32, resolve_device
from ..runtime.log import log

SCHEMA = 1

# Shapes: N images, K classes named for each.


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePredictions:
    """What a classifier says of N images, and the files of which it says nothing."""

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
    """Path -> why it cannot be read."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        rows = []
        for file, classes, probabilities in zip(
            self.files, self.classes.tolist(), self.probabilities.tolist(), strict=True
        ):
            top = [
                {"class": self.class_names[index], "probability": share}
                for index, share in zip(classes, probabilities, strict=True)
            ]
            rows.append({"file": file, **top[0], "top": top})
        return {
            "schema": SCHEMA,
            "run": self.run,
            "method": self.method,
            "predictions": rows,
            "skipped": [{"file": file, "reason": reason} for file, reason in self.skipped.items()],
        }

    def write_csv(self, path: Path) -> None:
        """Write a row an image: file, class, probability, class_2, probability_2, ..."""
        num_named = self.classes.shape[1]
        header = ["file", "class", "probability"]
        header += [f"{name}_{place}" for place in range(2, num_named + 1) for name in ("class", "probability")]
        with (
            replacing(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(header)
            for name, classes, shares in zip(
                self.files, self.classes.tolist(), self.probabilities.tolist(), strict=True
            ):
                pairs = zip(classes, shares, strict=True)
                writer.writerow([name, *(cell for index, share in pairs for cell in (self.class_names[index], share))])


@torch.inference_mode()
def predict(
    run: Run, images: Sequence[Path | str] | Path | str, *, config: PredictConfig | None = None
) -> ImagePredictions:
    """Classify images.

    Args:
        run: The run; its data are not needed.
        images: Image files, and folders whose images, at any depth, are taken.
        config: Which classifier, how many classes an image.

    Returns:
        The most probable classes of every image that decodes, the most probable first, with their probabilities.

    Raises:
        FileNotFoundError: An image, or the classifier, does not exist.
        ValueError: There is no image, or the checkpoint cannot be used.
    """
    config = config or PredictConfig()
    places = [Path(images)] if isinstance(images, (Path, str)) else [Path(place) for place in images]
    class_names = tuple(run.data["class_names"])
    dataset = unlabelled_images(places, class_names, flag="IMAGES")
    own = FeatureStore(run, device=resolve_device(config.device), loader=config.loader, num_threads=config.num_threads)
    classifier = open_classifier(own, default_method(run, config.method))
    store, head = classifier.store, classifier.head.to(own.device)
    classes, shares = [], []
    began = time.perf_counter()
    with exact_fp32(store.device), contextlib.closing(store.open_images(dataset)) as loader:
        for features in store.through_backbone(loader):
            probabilities = F.linear(features, head.weight, head.bias).double().softmax(1)
            # Stable, so that of two equal ones the lower index comes first, as argmax has it
            order = probabilities.sort(stable=True, dim=1, descending=True)
            classes.append(order.indices[:, : config.top].cpu())
            shares.append(order.values[:, : config.top].cpu())
        replaced = {each.path: each.reason for each in loader.replaced}
    log.info("%s images by %s: %.1f s", f"{len(dataset):,}", classifier.method, time.perf_counter() - began)
    # Another image stood in for one that broke since it was listed: nothing is said of that one
    kept = np.array([path not in replaced for path in dataset.paths])
    skipped = {each.path: each.reason for each in dataset.skipped} | replaced
    return ImagePredictions(
        run=str(run.path),
        method=classifier.method,
        class_names=class_names,
        files=tuple(str(dataset.path(at)) for at in np.flatnonzero(kept).tolist()),
        classes=torch.cat(classes).numpy()[kept],
        probabilities=torch.cat(shares).numpy()[kept],
        skipped={str(dataset.root / path): reason for path, reason in skipped.items()},
    )
