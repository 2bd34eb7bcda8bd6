"""Hand a run's network to other programs: its rebalanced classifier folded in, under names that they know."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import native
from ..config import ExportConfig
from ..evaluation.classifier import Classifier, default_method, open_classifier
from ..features.store import FeatureStore
from ..files import replacing, write_json
from ..models import HEAD, LinearHead, Network
from ..run import Run
from ..runtime.log import log

# Shapes: N images, C classes, S image size.

SUFFIXES = {"torchvision": ".pth", "safetensors": "", "onnx": ".onnx"}
AGREEMENT = 1e-4  # of logits in ONNX Runtime with PyTorch's, relative to the largest
OPSET = 18


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written; `difference` is the largest of an ONNX file's logits, None where nothing was compared."""

    method: str
    format: str
    path: Path
    difference: float | None = None


def export(run: Run, config: ExportConfig | None = None) -> Exported:
    """Write a run's network with one of its classifiers as its last layer.

    A file with the classes and the preprocessing stands beside it (`<stem>.json`; a folder's config.json; an ONNX
    file has them inside as well). An ONNX file is run by ONNX Runtime, where it is installed, and compared.

    Args:
        run: The run; its data are not needed.
        config: Which classifier, which format, where to.

    Returns:
        The classifier and the file that was written.

    Raises:
        FileNotFoundError: The run has no such classifier.
        ValueError: The place is taken, something is not installed, or ONNX Runtime disagrees with PyTorch.
    """
    config = config or ExportConfig()
    method = default_method(run, config.method)
    out = config.out or run.path / "export" / f"{method}{SUFFIXES[config.format]}"
    if config.out is not None and out.exists():
        raise ValueError(f"--out: got {out}, which exists; choose another name, or remove it")
    if config.format == "onnx":
        check_onnx()
    classifier = open_classifier(FeatureStore(run, device=torch.device("cpu")), method)
    network = folded(classifier)
    about = description(classifier, network)
    difference = None
    if config.format == "onnx":
        difference = write_onnx(network, about, run.config.image_size, out)
    elif config.format == "safetensors":
        tensors = plain_names(network)
        native.save(out / "model.safetensors", tensors, {"method": method})
        write_json(out / "config.json", about)
    else:
        native.save_pickled(out, {key: value.clone() for key, value in plain_names(network).items()})
    if config.format != "safetensors":
        write_json(out.with_suffix(".json"), about)
    return Exported(method=method, format=config.format, path=out, difference=difference)


def folded(classifier: Classifier) -> Network:
    """Return the network with the classifier as its last layer, a bias included, in eval mode."""
    network = copy.deepcopy(classifier.store.model).eval()
    weight, bias = classifier.head.weight.detach(), classifier.head.bias
    # torchvision's last layers have a bias; zeros change nothing
    network.fc = LinearHead(weight.clone(), torch.zeros(len(weight)) if bias is None else bias.detach().clone())
    return network


def plain_names(network: Network) -> dict[str, Tensor]:
    """Return the network's tensors under torchvision's names, or under timm's for a network of timm's."""
    names = network.checkpoint_names()
    return {names[key]: value for key, value in network.state_dict().items()}


def description(classifier: Classifier, network: Network) -> dict[str, Any]:
    """Return the network's name, classes and preprocessing in timm's words, and how the classifier was made."""
    config, names = classifier.store.run.config, classifier.store.run.data["class_names"]
    share = config.image_size / config.resize
    if math.floor(config.image_size / share) != config.resize:
        share = math.nextafter(share, 0.0)  # readers divide and round down
    return {
        "architecture": config.backbone.removeprefix("timm:"),
        "num_classes": len(names),
        **({"model_args": network.arguments} if network.arguments else {}),
        "num_features": network.num_features,
        "label_names": list(names),
        "pretrained_cfg": {
            "input_size": [3, config.image_size, config.image_size],
            "crop_pct": share,
            "crop_mode": "center",
            "interpolation": config.interpolation,
            "mean": list(config.mean),
            "std": list(config.std),
            "num_classes": len(names),
            "classifier": network.checkpoint_names()[f"{HEAD}.weight"].removesuffix(".weight"),
        },
        "fastlt": {
            "method": classifier.method,
            "params": classifier.params,
            "selection": classifier.selection,
            "run": config.fingerprint(),
        },
    }


def check_onnx() -> None:
    """Raise a ValueError unless what writes ONNX files is installed."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"--format: got onnx, but {' and '.join(missing)} cannot be imported; install: pip install 'fastlt[onnx]'"
        )


def write_onnx(network: nn.Module, about: dict[str, Any], image_size: int, out: Path) -> float | None:
    """Write an ONNX file: images [N, 3, S, S], float32 and normalised, to logits [N, C]; any N.

    Returns:
        The largest difference of its logits in ONNX Runtime from PyTorch's, relative to the largest logit; None where
        ONNX Runtime is not installed.

    Raises:
        ValueError: They disagree; nothing is written.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, image_size, image_size, generator=generator)
    with quiet_exporter():
        program = torch.onnx.export(
            network,
            (images,),
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
    with replacing(out) as temporary:
        program.save(temporary, external_data=False)
        difference = compare_onnx(temporary, network, images)
        if difference is not None and difference > AGREEMENT:
            raise ValueError(
                f"{out}: got logits that differ from PyTorch's by {difference:.1e} of the largest; expected at most "
                f"{AGREEMENT:g}, so nothing is written; try another version of onnxruntime, onnxscript or torch"
            )
    return difference


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep PyTorch's exporter from warning of what no user of ours can change: absent torchvision, its own idioms."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@torch.inference_mode()
def compare_onnx(path: Path, network: nn.Module, images: Tensor) -> float | None:
    """Return by how much ONNX Runtime's logits of N images, and of N + 1, differ, relative to the largest logit."""
    try:
        import onnxruntime
    except ImportError as error:
        log.info("onnxruntime cannot be imported (%s): the file is not compared with PyTorch", error)
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (images, torch.cat([images, images[:1].flip(3)])):
        ours = network(batch)
        theirs = torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])
        worst = max(worst, float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-30)))
    return worst
