"""Settle how images are prepared for a checkpoint from elsewhere: by flags, its own files, or ImageNet's defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from ..config import INTERPOLATIONS, TrainConfig
from ..config.checkpoint import CheckpointConfig
from ..files import deciphering
from ..files.reading import convert
from ..runtime.log import log

PREPROCESSING = ("image_size", "eval_resize", "mean", "std", "interpolation")
SQUEEZED_FROM = 384  # pixels
MAX_SIDE = 2048  # pixels
BILINEAR = "bilinear"
_PILLOW = ("nearest", "lanczos", BILINEAR, "bicubic", "box", "hamming")
"""Interpolations by their numbers in PIL.Image.Resampling, which transformers writes."""


def settle_preprocessing(
    path: Path, settings: Mapping[str, Any], pretrained: Mapping[str, Any], options: CheckpointConfig, *, force: bool
) -> dict[str, Any]:
    """Return sizes, mean, std and interpolation: from flags first, then the checkpoint's own, then ImageNet's.

    Args:
        path: The checkpoint, for messages.
        settings: Its config.json and preprocessor_config.json.
        pretrained: timm's configuration of the network; empty for other networks.
        options: The flags.
        force: Whether to resize bilinearly if the checkpoint needs an interpolation that fastlt does not have.

    Raises:
        ValueError: The checkpoint needs an interpolation that fastlt does not have, or its files cannot be understood.
    """
    with deciphering(
        path,
        expected="the preprocessing in config.json or preprocessor_config.json as timm or transformers writes it",
        remedy="correct it, or name the weights file alone and give --image-size, --eval-resize, --mean and --std",
    ):
        described = read_settings(settings, pretrained)
    defaults = TrainConfig()
    size = options.image_size or described.get("image_size") or defaults.image_size
    resize = options.eval_resize
    if resize is None and options.image_size in (None, described.get("image_size")):
        resize = described.get("eval_resize")
        resize = resize and max(resize, size)
    interpolation = options.interpolation or described.get("interpolation") or defaults.interpolation
    if interpolation not in INTERPOLATIONS:
        if not force:
            raise ValueError(
                f"--interpolation: got {interpolation} from {path}; expected one of {', '.join(INTERPOLATIONS)}, since "
                "with another its features and accuracies differ from those it has elsewhere; choose one, or go on "
                "with bilinear by --force"
            )
        log.warning("%s: %s interpolation asked for; bilinear is used instead (--force)", path, interpolation)
        interpolation = BILINEAR
    if described.get("squeezed"):
        log.info(
            "%s: it squeezes images to a square; fastlt cuts out their centre, which differs if they are not square",
            path,
        )
    values: dict[str, Any] = {
        "image_size": int(size),
        "eval_resize": None if resize is None else int(resize),
        "mean": options.mean or described.get("mean") or defaults.mean,
        "std": options.std or described.get("std") or defaults.std,
        "interpolation": interpolation,
    }
    config = TrainConfig(**values)
    given = [name for name in PREPROCESSING if getattr(options, name) is not None]
    sources = ["flags"] if given else []
    if len(given) < len(PREPROCESSING):
        sources.append("its own configuration" if described else "ImageNet's defaults")
    log.info(
        "%s: short side to %d (%s), centre %d, mean %s, std %s (%s)",
        path,
        config.resize,
        config.interpolation,
        config.image_size,
        *(" ".join(f"{value:.3f}" for value in channels) for channels in (config.mean, config.std)),
        ", then ".join(sources),
    )
    return values


def read_settings(settings: Mapping[str, Any], pretrained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing that the checkpoint's own files or timm describe; empty if neither does."""
    timm_config = settings.get("config", {}).get("pretrained_cfg") or pretrained
    processor = settings.get("preprocessor_config", {})
    if timm_config:
        return read_timm(timm_config)
    return read_transformers(processor) if processor else {}


class TimmConfig(TypedDict, total=False):
    """What is taken from timm's `pretrained_cfg`."""

    input_size: tuple[int, int, int]
    crop_pct: float | None
    crop_mode: str | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    interpolation: str | None


class Processor(TypedDict, total=False):
    """What is taken from transformers' preprocessor_config.json."""

    size: int | dict[str, int | None] | None
    crop_size: int | dict[str, int | None] | None
    crop_pct: float | None
    image_processor_type: str | None
    feature_extractor_type: str | None
    do_normalize: bool | None
    image_mean: tuple[float, float, float] | None
    image_std: tuple[float, float, float] | None
    resample: int | None


def read_timm(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing that timm's `pretrained_cfg` describes."""
    config = convert(content, TimmConfig)
    size = side(config.get("input_size", (3, 224, 224))[-1])
    return {
        "image_size": size,
        "eval_resize": side(math.floor(size / share_of(config.get("crop_pct")))),
        "mean": channels(config.get("mean"), "mean"),
        "std": channels(config.get("std"), "std", positive=True),
        "interpolation": config.get("interpolation"),
        "squeezed": config.get("crop_mode", "center") != "center",
    }


def read_transformers(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing that transformers' preprocessor_config.json describes."""
    processor = convert(content, Processor)
    resize = processor.get("size")
    crop = processor.get("crop_size") or resize or {}
    size = side(crop if isinstance(crop, int) else crop.get("height") or crop.get("shortest_edge") or 224)
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
    share = processor.get("crop_pct") or (224 / 256 if "ConvNext" in kind else None)
    # transformers squeezes an image to a given height and width; its ConvNeXt does so from 384 pixels on
    squeezed = (isinstance(resize, dict) and "height" in resize) or (bool(share) and size >= SQUEEZED_FROM)
    short_side = resize.get("shortest_edge", resize.get("height")) if isinstance(resize, dict) else resize
    if share and not processor.get("crop_size"):
        short_side = size if squeezed else int(size / share_of(share))
    unnormalised = processor.get("do_normalize", True) is False
    resample = processor.get("resample")
    return {
        "image_size": size,
        "eval_resize": None if short_side is None else side(short_side),
        "mean": (0.0, 0.0, 0.0) if unnormalised else channels(processor.get("image_mean"), "image_mean"),
        "std": (1.0, 1.0, 1.0) if unnormalised else channels(processor.get("image_std"), "image_std", positive=True),
        "interpolation": BILINEAR if resample is None else dict(enumerate(_PILLOW))[resample],
        "squeezed": squeezed,
    }


def side(pixels: int) -> int:
    """Return the side of an image.

    Raises:
        OverflowError: It is not positive, or would take gigabytes.
    """
    if not 0 < pixels <= MAX_SIDE:
        raise OverflowError(f"a side of {pixels:.6g} pixels, where 1 to {MAX_SIDE} are possible")
    return pixels


def share_of(share: float | None) -> float:
    """Return the part of the short side that is cut out, by default 0.875.

    Raises:
        OverflowError: It is no fraction.
    """
    share = share or 0.875
    if not 0.01 <= share <= 100:
        raise OverflowError(f"crop_pct is {share}")
    return share


def channels(
    values: tuple[float, float, float] | None, name: str, *, positive: bool = False
) -> tuple[float, float, float] | None:
    """Return a mean or, positive, a standard deviation.

    Raises:
        OverflowError: It is no such number.
    """
    if values and not all(math.isfinite(value) and (value > 0 or not positive) for value in values):
        raise OverflowError(f"{name} is {list(values)}")
    return values
