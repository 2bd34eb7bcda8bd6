"""Settle what a checkpoint does not hold: its preprocessing and the order of its classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import INTERPOLATIONS, TrainConfig
from ..config.adopt import AdoptConfig
from ..runtime.log import log

PREPROCESSING = ("image_size", "eval_resize", "mean", "std", "interpolation")
SQUEEZED_FROM = 384  # pixels
BILINEAR = "bilinear"
_PILLOW = ("nearest", "lanczos", BILINEAR, "bicubic", "box", "hamming")
"""Interpolations by PIL.Image.Resampling's numbers, as transformers writes them."""


def settle_preprocessing(
    path: Path, settings: Mapping[str, Any], pretrained: Mapping[str, Any], asked: AdoptConfig, *, force: bool
) -> dict[str, Any]:
    """Return sizes, mean, std and interpolation: flags first, then the checkpoint's own, then ImageNet's.

    Args:
        path: The checkpoint, for messages.
        settings: Its config.json and preprocessor_config.json.
        pretrained: timm's configuration of the network; empty for other ones.
        asked: The flags.
        force: Whether to go on with bilinear resizing where the checkpoint wants what fastlt does not have.

    Raises:
        ValueError: It wants an interpolation that fastlt does not have, or its files cannot be understood.
    """
    try:
        own = described(settings, pretrained)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: the preprocessing in its config.json or preprocessor_config.json cannot be understood ({error}); "
            "correct it, or name the weights file alone and give --image-size, --eval-resize, --mean and --std"
        ) from error
    defaults = TrainConfig()
    size = asked.image_size or own.get("image_size") or defaults.image_size
    resize = asked.eval_resize
    if resize is None and asked.image_size in (None, own.get("image_size")):
        resize = own.get("eval_resize")
        resize = resize and max(resize, size)
    interpolation = asked.interpolation or own.get("interpolation") or defaults.interpolation
    if interpolation not in INTERPOLATIONS:
        if not force:
            raise ValueError(
                f"--interpolation: {path} expects images resized with {interpolation} interpolation, but fastlt has "
                f"{' and '.join(INTERPOLATIONS)}: its features, and so its accuracies, would differ from those it has "
                "elsewhere; choose one of the two, or go on with bilinear by --force"
            )
        log.warning("%s: %s interpolation asked for; bilinear is used instead (--force)", path, interpolation)
        interpolation = BILINEAR
    if own.get("squeezed"):
        log.info(
            "%s: it squeezes images to a square; here their centre is cut out, which differs if they are none", path
        )
    found: dict[str, Any] = {
        "image_size": int(size),
        "eval_resize": None if resize is None else int(resize),
        "mean": asked.mean or own.get("mean") or defaults.mean,
        "std": asked.std or own.get("std") or defaults.std,
        "interpolation": interpolation,
    }
    result = TrainConfig(**found)
    given = [name for name in PREPROCESSING if getattr(asked, name) is not None]
    source = ["flags"] if given else []
    if len(given) < len(PREPROCESSING):
        source.append("its own configuration" if own else "ImageNet's defaults")
    log.info(
        "%s: short side to %d (%s), centre %d, mean %s, std %s (%s)",
        path,
        result.resize,
        result.interpolation,
        result.image_size,
        *(" ".join(f"{value:.3f}" for value in values) for values in (result.mean, result.std)),
        ", then ".join(source),
    )
    return found


def described(settings: Mapping[str, Any], pretrained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing that the checkpoint's own files, or timm, describe."""
    timms = settings.get("config", {}).get("pretrained_cfg") or pretrained
    if timms:
        size = int(timms.get("input_size", (3, 224, 224))[-1])
        crop = float(timms.get("crop_pct") or 0.875)
        squeezed = timms.get("crop_mode", "center") != "center"
        return {
            "image_size": size,
            "eval_resize": math.floor(size / crop),
            "mean": three(timms.get("mean")),
            "std": three(timms.get("std")),
            "interpolation": timms.get("interpolation"),
            "squeezed": squeezed,
        }
    processor = settings.get("preprocessor_config", {})
    if not processor:
        return {}
    wanted = processor.get("crop_size") or processor.get("size") or {}
    size = wanted if isinstance(wanted, int) else wanted.get("height") or wanted.get("shortest_edge") or 224
    resize = processor.get("size")
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
    share = processor.get("crop_pct") or (224 / 256 if "ConvNext" in kind else None)
    # transformers squeezes an image to a given height and width, and ConvNeXt's from 384 pixels on
    squeezed = (isinstance(resize, dict) and "height" in resize) or (bool(share) and size >= SQUEEZED_FROM)
    short = resize.get("shortest_edge", resize.get("height")) if isinstance(resize, dict) else resize
    if share and not processor.get("crop_size"):
        short = size if squeezed else int(size / share)
    plain = processor.get("do_normalize", True) is False
    return {
        "image_size": int(size),
        "eval_resize": None if short is None else int(short),
        "mean": (0.0, 0.0, 0.0) if plain else three(processor.get("image_mean")),
        "std": (1.0, 1.0, 1.0) if plain else three(processor.get("image_std")),
        "interpolation": _PILLOW[processor.get("resample", _PILLOW.index(BILINEAR))],
        "squeezed": squeezed,
    }


def three(values: Any) -> tuple[float, float, float] | None:
    """Return three numbers, or None."""
    if not isinstance(values, Sequence) or len(values) != 3:
        return None
    red, green, blue = (float(value) for value in values)
    return red, green, blue
