"""Settle how images are prepared for a checkpoint from elsewhere: by flags, its own files, or ImageNet's defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import INTERPOLATIONS, TrainConfig
from ..config.checkpoint import CheckpointConfig
from ..runtime.log import log

PREPROCESSING = ("image_size", "eval_resize", "mean", "std", "interpolation")
SQUEEZED_FROM = 384  # pixels
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
    try:
        described = read_settings(settings, pretrained)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: got a config.json or preprocessor_config.json that cannot be understood ({error}); expected the "
            "preprocessing as timm or transformers writes it; correct it, or name the weights file alone and give "
            "--image-size, --eval-resize, --mean and --std"
        ) from error
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


def read_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing that timm's `pretrained_cfg` describes."""
    size = int(config.get("input_size", (3, 224, 224))[-1])
    crop = float(config.get("crop_pct") or 0.875)
    return {
        "image_size": size,
        "eval_resize": math.floor(size / crop),
        "mean": three(config.get("mean")),
        "std": three(config.get("std")),
        "interpolation": config.get("interpolation"),
        "squeezed": config.get("crop_mode", "center") != "center",
    }


def read_transformers(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing that transformers' preprocessor_config.json describes."""
    crop = processor.get("crop_size") or processor.get("size") or {}
    size = crop if isinstance(crop, int) else crop.get("height") or crop.get("shortest_edge") or 224
    resize = processor.get("size")
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
    share = processor.get("crop_pct") or (224 / 256 if "ConvNext" in kind else None)
    # transformers squeezes an image to a given height and width; its ConvNeXt does so from 384 pixels on
    squeezed = (isinstance(resize, dict) and "height" in resize) or (bool(share) and size >= SQUEEZED_FROM)
    short_side = resize.get("shortest_edge", resize.get("height")) if isinstance(resize, dict) else resize
    if share and not processor.get("crop_size"):
        short_side = size if squeezed else int(size / share)
    unnormalised = processor.get("do_normalize", True) is False
    return {
        "image_size": int(size),
        "eval_resize": None if short_side is None else int(short_side),
        "mean": (0.0, 0.0, 0.0) if unnormalised else three(processor.get("image_mean")),
        "std": (1.0, 1.0, 1.0) if unnormalised else three(processor.get("image_std")),
        "interpolation": _PILLOW[processor.get("resample", _PILLOW.index(BILINEAR))],
        "squeezed": squeezed,
    }


def three(values: Any) -> tuple[float, float, float] | None:
    """Return the value as three numbers, or None."""
    if not isinstance(values, Sequence) or len(values) != 3:
        return None
    red, green, blue = (float(value) for value in values)
    return red, green, blue
