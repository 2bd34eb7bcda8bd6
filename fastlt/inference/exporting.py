"""Write a run's network for other programs: with a rebalanced classifier folded in, under their names."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import native
from ..config import ExportConfig
from ..evaluation.classifier import Classifier, default_method, open_classifier
from ..features.store import FeatureStore
from ..files import write_json
from ..models import HEAD, LinearHead, Network
from ..run import Run
from .onnx_file import check_onnx, write_onnx

SUFFIXES = {"torchvision": ".pth", "safetensors": "", "onnx": ".onnx"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The file that was written; `difference` is the largest of its logits from PyTorch's, None if not compared."""

    method: str
    format: str
    path: Path
    difference: float | None = None


def export(run: Run, config: ExportConfig | None = None) -> Exported:
    """Write a run's network with one of its classifiers as its last layer.

    A file with the classes and the preprocessing is written beside it: `<stem>.json`, or config.json in a folder; an
    ONNX file holds them as well. An ONNX file is compared with PyTorch if ONNX Runtime is installed.

    Args:
        run: The run; its data are not needed.
        config: The classifier, the format and the destination.

    Returns:
        The classifier and the file that was written.

    Raises:
        FileNotFoundError: The run has no such classifier.
        ValueError: The destination exists, something is not installed, or ONNX Runtime disagrees with PyTorch.
    """
    config = config or ExportConfig()
    method = default_method(run, config.method)
    out = config.out or run.path / "export" / f"{method}{SUFFIXES[config.format]}"
    if config.out is not None and out.exists():
        raise ValueError(f"--out: got {out}, which exists; expected a free name; choose another, or remove it")
    if config.format == "onnx":
        check_onnx()
    classifier = open_classifier(FeatureStore(run, device=torch.device("cpu")), method)
    network = folded(classifier)
    about = describe(classifier, network)
    difference = None
    if config.format == "onnx":
        difference = write_onnx(network, about, run.config.image_size, out)
    elif config.format == "safetensors":
        native.save(out / "model.safetensors", exported_tensors(network), {"method": method})
        write_json(out / "config.json", about)
    else:
        native.save_pickled(out, {key: value.clone() for key, value in exported_tensors(network).items()})
    if config.format != "safetensors":
        write_json(out.with_suffix(".json"), about)
    return Exported(method=method, format=config.format, path=out, difference=difference)


def folded(classifier: Classifier) -> Network:
    """Return the network with the classifier as its last layer, a bias included, in eval mode."""
    network = copy.deepcopy(classifier.store.model).eval()
    weight, bias = classifier.head.weight.detach(), classifier.head.bias
    # Last layers of torchvision have a bias; zeros change nothing
    network.fc = LinearHead(weight.clone(), torch.zeros(len(weight)) if bias is None else bias.detach().clone())
    return network


def exported_tensors(network: Network) -> dict[str, Tensor]:
    """Return the network's tensors under torchvision's names, or under timm's for a network of timm's."""
    names = network.checkpoint_names()
    return {names[key]: value for key, value in network.state_dict().items()}


def describe(classifier: Classifier, network: Network) -> dict[str, Any]:
    """Return the network's name, classes and preprocessing under timm's keys, and how the classifier was made."""
    config, class_names = classifier.store.run.config, classifier.store.run.data["class_names"]
    crop = config.image_size / config.resize
    if math.floor(config.image_size / crop) != config.resize:
        crop = math.nextafter(crop, 0.0)  # readers divide by it and round down
    return {
        "architecture": config.backbone.removeprefix("timm:"),
        "num_classes": len(class_names),
        **({"model_args": network.arguments} if network.arguments else {}),
        "num_features": network.num_features,
        "label_names": list(class_names),
        "pretrained_cfg": {
            "input_size": [3, config.image_size, config.image_size],
            "crop_pct": crop,
            "crop_mode": "center",
            "interpolation": config.interpolation,
            "mean": list(config.mean),
            "std": list(config.std),
            "num_classes": len(class_names),
            "classifier": network.checkpoint_names()[f"{HEAD}.weight"].removesuffix(".weight"),
        },
        "fastlt": {
            "method": classifier.method,
            "params": classifier.params,
            "selection": classifier.selection,
            "run": config.fingerprint(),
        },
    }
