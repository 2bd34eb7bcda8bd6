"""The feature store: run the backbone over every image once, keep what it says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import checkpoint
from .config import TrainConfig
from .data.augmentation import EvalTransform
from .data.dataset import LongTailedDataset
from .data.loader import eval_loader
from .data.preprocess import Preprocess
from .data.source import open_data
from .files import replacing
from .hardware import resolve_threads
from .loggers import log
from .models import LinearHead, Network, create_model
from .run import Run

# Shapes: N samples, C classes, D feature width.


@dataclass(frozen=True, kw_only=True)
class Features:
    """The features of one split, in the order of its data set.

    ``features`` is float32 [N, D], memory-mapped; ``labels`` is int64 [N].
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return features [N, D] and labels [N] on a device."""
        # The copy makes the mapped array writable, which from_numpy wants
        return torch.from_numpy(np.array(self.features)).to(device), torch.from_numpy(self.labels).to(device)


class FeatureStore:
    """The features of a run's images under its best weights and the evaluation transform.

    They are computed in fp32 on first use and kept in the run folder, with a key made of the weights, the data and the
    transform: under any other key they are computed anew.

    Args:
        run: The run.
        device: Where the backbone runs.
        loader: The image loader's name.
        num_threads: Loader threads, or None for one a processor.
    """

    def __init__(self, run: Run, *, device: torch.device, loader: str = "auto", num_threads: int | None = None) -> None:
        self.run, self.device, self.loader = run, device, loader
        self.num_threads = resolve_threads(num_threads)
        self.checkpoint = run.checkpoint("best")
        if not self.checkpoint.is_file() and run.checkpoint("last").is_file():
            raise FileNotFoundError(
                f"{run.path}: no epoch is finished yet; go on with: fastlt train --resume --out {run.path}"
            )
        tensors, _ = checkpoint.load(self.checkpoint)
        self.weights_hash = hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()
        self.tensors = tensors

    @cached_property
    def model(self) -> Network:
        """The trained network, in eval mode."""
        return load_model(self.run.config, self.tensors, len(self.run.data["class_names"]), self.checkpoint).to(
            self.device
        )

    @cached_property
    def head(self) -> LinearHead:
        """The trained linear head, on the device."""
        return self.model.fc

    @cached_property
    def splits(self) -> dict[str, LongTailedDataset]:
        """The images, opened only when features must be computed."""
        splits = open_data(self.run.config)
        self.run.check_data(splits)
        return splits

    @property
    def names(self) -> list[str]:
        """The splits of the run's data."""
        return list(self.run.data["splits"])

    def split(self, name: str) -> Features:
        """Return the features of ``train``, ``val`` or ``test``, computing them if need be.

        Raises:
            ValueError: The run's data have no such split, or changed since it was trained.
        """
        if name not in self.names:
            raise ValueError(f"--split: got {name!r}; the data of {self.run.path} have {', '.join(self.names)}")
        folder = self.run.path / "features"
        paths = {kind: folder / f"{name}.{kind}.npy" for kind in ("features", "labels")}
        key = self.key(name)
        if stored_key(folder / f"{name}.json") != key or not all(path.is_file() for path in paths.values()):
            self.compute(name, paths)
            checkpoint.write_json(folder / f"{name}.json", key)
        return Features(
            features=np.load(paths["features"], mmap_mode="r"), labels=np.ascontiguousarray(np.load(paths["labels"]))
        )

    def key(self, name: str) -> dict[str, Any]:
        """Return what the features of a split depend on."""
        config = self.run.config
        return {
            "weights": self.weights_hash,
            "data": self.run.data["splits"][name]["fingerprint"],
            "transform": [config.resize, config.image_size, *config.mean, *config.std],
        }

    @torch.inference_mode()
    def compute(self, name: str, paths: dict[str, Path]) -> None:
        """Run the backbone over a split and write features and labels."""
        config, dataset = self.run.config, self.splits[name]
        preprocess = Preprocess(config.mean, config.std).to(self.device)
        model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        began = time.perf_counter()
        loader = eval_loader(
            dataset,
            EvalTransform(size=config.image_size, resize=config.resize),
            batch_size=config.batch_size,
            device=self.device,
            backend=self.loader,
            num_threads=self.num_threads,
            memory_share=config.memory_share,
        )
        with contextlib.closing(loader), replacing(paths["features"]) as temporary:
            shape = (len(dataset), model.num_features)
            with temporary.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                for batch in loader:
                    file.write(model.features(preprocess(batch.images)).float().cpu().numpy().tobytes())
        with replacing(paths["labels"]) as temporary, temporary.open("wb") as file:
            np.save(file, dataset.labels)
        log.info("features of %s %s images: %.1f s", f"{len(dataset):,}", name, time.perf_counter() - began)


def stored_key(path: Path) -> Any:
    """Return the key under which features were stored, or None if there are none."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return json.loads(path.read_text())
    return None


def load_model(config: TrainConfig, tensors: dict[str, Tensor], num_classes: int, source: Path) -> Network:
    """Build the network of a run and fill it with weights, in eval mode.

    Raises:
        ValueError: The weights are another network's.
    """
    model = create_model(config.backbone, num_classes)
    checkpoint.load_into(model, tensors, source=source)
    return model.eval()
