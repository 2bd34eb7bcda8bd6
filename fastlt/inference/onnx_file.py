"""Write a network as an ONNX file, and compare it with PyTorch."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import naming
from ..runtime.log import log

# Shapes: N images, C classes, S image size.

AGREEMENT = 1e-4  # largest difference of ONNX Runtime's logits from PyTorch's, relative to the largest logit
OPSET = 18


def check_onnx() -> None:
    """Raise a ValueError unless the packages that write ONNX files are installed."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"--format: got onnx, but {' and '.join(missing)} cannot be imported; expected them installed; pip install "
            "'fastlt[onnx]'"
        )


def write_onnx(network: nn.Module, about: dict[str, Any], image_size: int, file: Path, *, shown: Path) -> float | None:
    """Write an ONNX file: images [N, 3, S, S], float32 and normalised, to logits [N, C]; any N.

    Args:
        network: The network.
        about: What the file says of itself.
        image_size: S.
        file: Where to write it.
        shown: Its final place, for messages.

    Returns:
        The largest difference of its logits in ONNX Runtime from PyTorch's, relative to the largest logit; None where
        ONNX Runtime is not installed.

    Raises:
        ValueError: They disagree.
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
    with naming(file):
        program.save(file, external_data=False)
    difference = compare_onnx(file, network, images)
    if difference is not None and difference > AGREEMENT:
        raise ValueError(
            f"{shown}: got logits that differ from PyTorch's by {difference:.1e} of the largest; expected at most "
            f"{AGREEMENT:g}, so nothing is written; try another version of onnxruntime, onnxscript or torch"
        )
    return difference


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence warnings of PyTorch's exporter that no user can act on: absent torchvision, its own idioms."""
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
    """Return by how much ONNX Runtime's logits differ from PyTorch's, relative to the largest; None if not installed.

    It runs the images and one more, to detect a graph that accepts only one number of images.
    """
    try:
        import onnxruntime
    except ImportError as error:
        log.info("onnxruntime cannot be imported (%s): the file was not compared with PyTorch", error)
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (images, torch.cat([images, images[:1].flip(3)])):
        ours = network(batch)
        theirs = torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])
        worst = max(worst, float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-30)))
    return worst
