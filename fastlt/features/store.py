"""The feature store: run the backbone over every image once, and keep the features."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoints import native
from ..checkpoints.formats.shards import bytes_of
from ..config import TrainConfig
from ..data.dataset import LongTailedDataset
from ..data.loaders.loader import Loader, eval_loader, view_loader
from ..data.transforms.augmentation import augmentation, eval_transform
from ..files import owned
from ..models import LinearHead, Network, create_model, in_head
from ..run import Run
from ..runtime.device import resolve_device
from ..runtime.log import log
from ..runtime.machine import resolve_threads
from ..runtime.output import quoted
from .arrays import Features, check_finite
from .extraction import Extractor, on_host
from .file import FeatureWriter, Stored, read_record

# Shapes: N samples, B a few of them, C classes, D feature width.

COMPUTED_IN = "computed_in"  # of a key: the arithmetic's precision, if it is not full fp32


class FeatureStore:
    """The features of a run's images under its best weights.

    They are computed on first use, in fp32 without TF32 unless a precision is given, and kept in the run folder with a
    key made of the weights, the data, the transform, the view and the precision; under any other key they are computed
    again, but features of full precision stand in for those of a lower one. View 0 is the evaluation transform; every
    other view is cropped, flipped and jittered as in stage 1, without RandAugment. An interrupted extraction continues
    where it stopped.

    Args:
        run: The run.
        device: Where the backbone runs; auto takes a CUDA device if there is one.
        loader: The image loader's name.
        num_threads: Loader threads, or None for one per processor.
        precision: fp32, tf32 or bf16, in which a GPU computes the training features, and for bf16 every device stores
            them; those of val and test stay fp32 in full, so that accuracies do not depend on it.

    Raises:
        FileNotFoundError: The run has no checkpoint of a finished epoch.
        ValueError: The checkpoint cannot be read.

    Attributes:
        run: The run.
        head: Its linear head, as trained.
        names: The splits of its data.

    Example:
        >>> from fastlt import Run
        >>> from fastlt.features import FeatureStore
        >>> store = FeatureStore(Run.open())  # doctest: +SKIP
        >>> features, labels = store.split("val").tensors(store.device)  # doctest: +SKIP
        >>> (store.head(features).argmax(1) == labels).float().mean()  # doctest: +SKIP
        tensor(0.4440)
    """

    def __init__(
        self,
        run: Run,
        *,
        device: torch.device | str = "auto",
        loader: str = "auto",
        num_threads: int | None = None,
        precision: str = "fp32",
    ) -> None:
        self.run, self.loader, self.precision = run, loader, precision
        self.device = resolve_device(device) if isinstance(device, str) else device
        self.num_threads = resolve_threads(num_threads)
        self.checkpoint = run.checkpoint("best")
        if not self.checkpoint.is_file():
            raise FileNotFoundError(
                f"{run.path}: got a run without a finished epoch; expected one; continue it with: fastlt train "
                f"--resume --out {quoted(run.path)}"
            )
        self.tensors, _, self.weights_hash = native.load_hashed(self.checkpoint)
        self.backbone_hash = self.weights_hash
        self.folder = run.path / "features"

    def with_backbone(
        self, tensors: Mapping[str, Tensor], name: str, *, backbone_hash: str | None = None
    ) -> FeatureStore:
        """Return the store of the same images under another checkpoint: itself if only the head differs.

        Args:
            tensors: The checkpoint's tensors, on any device.
            name: The folder within `features/` for a backbone that has none yet.
            backbone_hash: The `backbone_hash` of the store that the checkpoint was written from; None: tensors are
                compared.
        """
        backbone = {key: value.cpu() for key, value in tensors.items() if not in_head(key)}
        if backbone_hash is None and self.has_backbone(backbone):
            return self
        backbone_hash = backbone_hash or hash_tensors(backbone)
        if backbone_hash == self.backbone_hash:
            return self
        other = copy.copy(self)
        for cached in ("model", "extractor", "head"):
            other.__dict__.pop(cached, None)
        head = {key: value for key, value in self.tensors.items() if in_head(key)}
        other.tensors, other.backbone_hash = {**backbone, **head}, backbone_hash
        features = self.run.path / "features"
        folders = (
            path.parent
            for path in sorted(features.glob("*/*.json"))
            if (record := read_record(path)) and record.key.get("weights") == backbone_hash
        )
        other.folder = next(folders, features / name)
        return other

    def has_backbone(self, backbone: Mapping[str, Tensor]) -> bool:
        """Return whether tensors are those of this store's backbone.

        Args:
            backbone: Tensors on the CPU, by name.
        """
        return all(key in self.tensors and torch.equal(value, self.tensors[key]) for key, value in backbone.items())

    @cached_property
    def model(self) -> Network:
        """The trained network, in eval mode."""
        return load_model(self.run.config, self.tensors, len(self.run.data["class_names"]), self.checkpoint).to(
            self.device
        )

    @cached_property
    def extractor(self) -> Extractor:
        """What runs the backbone over images."""
        return Extractor(self.model, self.run.config, self.device)

    @cached_property
    def head(self) -> LinearHead:
        """The trained linear head, on the device."""
        return self.model.fc

    @cached_property
    def splits(self) -> dict[str, LongTailedDataset]:
        """The images, opened only when features must be computed."""
        return self.run.open_data()

    @property
    def names(self) -> list[str]:
        """The splits of the run's data."""
        return list(self.run.data["splits"])

    @property
    def validation_split(self) -> str:
        """The split by which classifiers are chosen: val or, by folds, train where there is no val."""
        return "val" if "val" in self.names else "train"

    def views(self, num_views: int) -> tuple[Features, ...]:
        """Return views of the training images, computing those that are not stored.

        Args:
            num_views: Their number.
        """
        return tuple(self.split("train", view) for view in range(num_views))

    def split(self, name: str, view: int = 0) -> Features:
        """Return the features of a split, computing them if they are not stored.

        Args:
            name: `train`, `val` or `test`.
            view: 0 for the evaluation transform, or another view of `train`.

        Returns:
            Features and labels, in the order of the data set.

        Raises:
            ValueError: The run's data have no such split, or changed since it was trained; or features are not finite.
        """
        if name not in self.names:
            raise ValueError(
                f"--split: got {name}; expected one of {', '.join(self.names)}, the splits of {self.run.path}"
            )
        key = self.key(name, view)
        stored = self.stored(name, key)
        exact = exactly(key)
        lower = [] if self.precision_of(name) == "fp32" else [exact | {COMPUTED_IN: self.precision_of(name)}]
        for each in (*lower, exact):
            with contextlib.suppress(FileNotFoundError, ValueError):
                features = self.stored(name, each).read(each)
                if fault := self.run.changes.get(name):
                    log.warning(
                        "%s: its %s data have changed (%s); figures are those of the images as they were when features "
                        "were computed",
                        self.run.path,
                        name,
                        fault,
                    )
                return features
        with owned(self.folder, wait=True):
            try:
                return stored.read(key)  # another process may have computed them meanwhile
            except FileNotFoundError:
                pass
            except ValueError as error:
                log.warning("%s", error)
            self.compute(name, view, stored)
            return stored.read(key)

    def stored(self, name: str, key: Mapping[str, Any]) -> Stored:
        """Return the files of a split's features under a key.

        Args:
            name: The split.
            key: What they depend on.
        """
        precision, view = key.get(COMPUTED_IN, key["precision"]), key["view"]
        stem = name + (f".view{view}" if view else "") + (f".{precision}" if precision != "fp32" else "")
        return Stored(
            array=self.folder / f"{stem}.features.npy",
            labels=self.folder / f"{name}.labels.npy",
            record=self.folder / f"{stem}.json",
        )

    def key(self, name: str, view: int = 0) -> dict[str, Any]:
        """Return what the features of a split depend on.

        Args:
            name: The split.
            view: The view.
        """
        config = self.run.config
        key = {
            "weights": self.backbone_hash,
            "data": self.run.data["splits"][name]["fingerprint"],
            "transform": [config.resize, config.image_size, *config.mean, *config.std],
            "precision": "bf16" if self.precision_of(name) == "bf16" else "fp32",
            "view": view,
        }
        if self.device.type == "cuda" and self.precision_of(name) != "fp32":
            key[COMPUTED_IN] = self.precision_of(name)
        if config.interpolation != "bilinear":  # keys without it are older than the setting
            key["interpolation"] = config.interpolation
        if view:
            key["augmentation"] = [*config.crop_scale, *config.crop_ratio, config.flip, config.color_jitter]
            key["seed"] = config.seed
        return key

    def precision_of(self, name: str) -> str:
        """Return the precision of a split's features: only those of training images have a choice.

        Args:
            name: The split.
        """
        return self.precision if name == "train" else "fp32"

    def compute(self, name: str, view: int, stored: Stored) -> None:
        """Run the backbone over a split and write features and labels, from where an earlier try stopped.

        Args:
            name: The split.
            view: The view.
            stored: Where they go.

        Raises:
            ValueError: Some features are not finite.
        """
        dataset, key = self.splits[name], self.key(name, view)
        began = time.perf_counter()
        stored.array.unlink(missing_ok=True)  # stale or damaged
        writer = FeatureWriter(stored.partial, stored.record, key, (len(dataset), self.model.num_features))
        if writer.num_done:
            log.info("features of %s: continuing after %s images", name, f"{writer.num_done:,}")
        hint = f"; {self.checkpoint} comes from a run that diverged: train again with a lower --lr"
        if writer.num_done < len(dataset):
            precision, num_images = self.precision_of(name), len(dataset) - writer.num_done
            with (
                writer,
                self.extractor.computing(precision),
                contextlib.closing(self.open(name, view, writer.num_done)) as loader,
            ):
                for features in on_host(map(writer.rounded, self.extractor.features(loader, num_images, precision))):
                    check_finite(features, f"features of {name}", hint)
                    writer.append(features)
        writer.finish(stored, dataset.labels)
        which = f" view {view}" if view else ""
        log.info("features of %s %s images%s: %.1f s", f"{len(dataset):,}", name, which, time.perf_counter() - began)

    def open(self, name: str, view: int, start: int) -> Loader:
        """Return the loader of the images of a view, in order.

        Args:
            name: The split.
            view: The view.
            start: The first image.
        """
        config, dataset = self.run.config, self.splits[name]
        if view:
            settings = self.loader_settings
            return view_loader(dataset, augmentation(config), view=view, seed=config.seed, start=start, **settings)
        return self.open_images(dataset, start)

    def open_images(self, dataset: LongTailedDataset, start: int = 0) -> Loader:
        """Return the loader of images under the evaluation transform, in order.

        Args:
            dataset: The images.
            start: The first image.
        """
        transform = eval_transform(self.run.config)
        return eval_loader(dataset, transform, indices=np.arange(start, len(dataset)), **self.loader_settings)

    @property
    def loader_settings(self) -> dict[str, Any]:
        """The settings of every loader; its batch size is stage 1's, divided by --accumulate."""
        config = self.run.config
        return {
            "batch_size": max(1, config.batch_size // config.accumulate),
            "device": self.device,
            "backend": self.loader,
            "num_threads": self.num_threads,
            "memory_share": config.memory_share,
        }


def exactly(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key of the same features, computed in full precision."""
    return {part: value for part, value in key.items() if part != COMPUTED_IN}


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names and contents."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(bytes_of(value).data)
    return digest.hexdigest()


def load_model(config: TrainConfig, tensors: dict[str, Tensor], num_classes: int, source: Path) -> Network:
    """Build the network of a run and fill it with weights, in eval mode.

    Raises:
        ValueError: The weights belong to another network.
    """
    model = create_model(config.backbone, num_classes, config.image_size)
    native.load_into(model, tensors, source=source)
    return model.eval()
