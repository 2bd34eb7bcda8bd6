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
from ..evaluation.choice import default_method
from ..evaluation.classifier import MODEL, Classifier, open_classifier
from ..features.store import FeatureStore
from ..files import making, owned, read_json, replacing_set, reserved, write_json
from ..models import HEAD, LinearHead, Network
from ..run import Run
from .onnx_file import check_onnx, write_onnx

SUFFIXES = {"torchvision": ".pth", "safetensors": "", "onnx": ".onnx"}
ABOUT = ".json"


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
        ValueError: The destination exists, or another process writes it; something is not installed, or ONNX Runtime
            disagrees with PyTorch.
    """
    config = config or ExportConfig()
    store = FeatureStore(run, device=torch.device("cpu"))
    method = default_method(store, config.method)
    out = config.out or run.path / "export" / f"{method}{SUFFIXES[config.format]}"
    if config.format == "onnx":
        check_onnx()
    with owned(out.parent) if config.out is None else reserved(out):
        if config.out is not None:
            check_unused(config)
        classifier = open_classifier(store, method)
        difference = write(classifier, config, out)
    return Exported(method=method, format=config.format, path=out, difference=difference)


def check_unused(config: ExportConfig) -> None:
    """Raise a ValueError unless --out names a new file or folder, with another suffix than the file beside it."""
    out = config.out
    assert out is not None
    if out.exists():
        raise ValueError(f"--out: got {out}, which exists; expected a free name; choose another, or remove it")
    if config.format != "safetensors" and out.suffix == ABOUT:
        raise ValueError(
            f"--out: got {out}; expected another suffix than {ABOUT}, which the file with the classes gets; choose one"
        )


def write(classifier: Classifier, config: ExportConfig, out: Path) -> float | None:
    """Write the network and, before it, what describes it, so that neither is ever beside another export's.

    Returns:
        The difference of an ONNX file's logits from PyTorch's, if they were compared.
    """
    network = folded(classifier)
    about = describe(classifier, network)
    if config.format == "safetensors":
        tensors, metadata = exported_tensors(network), {"method": classifier.method}
        with making(out) as folder, replacing_set(folder / MODEL) as partial:
            write_json(partial / "config.json", about)
            native.save(partial / MODEL, tensors, metadata)
        return None
    description = out.with_suffix(ABOUT)
    if config.out is not None and description.exists() and not is_export(description):
        raise ValueError(f"--out: got {out}, beside which {description} exists; expected a free name; choose another")
    with replacing_set(out) as partial:
        write_json(partial / description.name, about)
        if config.format == "onnx":
            return write_onnx(network, about, classifier.store.run.config.image_size, partial / out.name, shown=out)
        native.save_pickled(
            partial / out.name, {key: value.clone() for key, value in exported_tensors(network).items()}
        )
    return None


def is_export(description: Path) -> bool:
    """Return whether a file describes an export, which was interrupted if it stands alone."""
    try:
        return "fastlt" in read_json(description)
    except ValueError:
        return False


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
