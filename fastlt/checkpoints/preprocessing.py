"""Settle how images are prepared for a checkpoint from elsewhere: by flags, its own files, or ImageNet's defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from ..config import INTERPOLATIONS, TrainConfig
from ..config.base import check_full_range
from ..config.checkpoint import CheckpointConfig
from ..files import deciphering
from ..files.reading import convert
from ..runtime.log import log
from .reading import TIMM_ARGUMENT, TORCHVISION_ARGUMENT

PREPROCESSING = ("image_size", "eval_resize", "mean", "std", "interpolation")
SQUEEZED_FROM = 384  # pixels
MAX_SIDE = 2048  # pixels
BILINEAR = "bilinear"
FLAGS, ARGS, OWN = "flags", "its args", "its own configuration"
LIBRARY, USUAL = "timm's configuration", "ImageNet's defaults"
"""Where a setting can come from, as messages call it."""
_PILLOW = ("nearest", "lanczos", BILINEAR, "bicubic", "box", "hamming")
"""Interpolations by their numbers in PIL.Image.Resampling, which transformers writes."""


def settle_preprocessing(
    path: Path, settings: Mapping[str, Any], pretrained: Mapping[str, Any], options: CheckpointConfig, *, force: bool
) -> dict[str, Any]:
    """Return sizes, mean, std and interpolation: from flags first, then the checkpoint's own, then ImageNet's.

    Another image size than the checkpoint's own keeps the share of the image that the centre crop takes.

    Args:
        path: The checkpoint, for messages.
        settings: Its config.json and preprocessor_config.json, and the arguments of its training script.
        pretrained: timm's configuration of the network, also of one of ours that timm's script trained; else empty.
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
        described, origins = read_settings(path, settings, pretrained)
    defaults = TrainConfig()
    size = options.image_size or described.get("image_size") or defaults.image_size
    values: dict[str, Any] = {
        "image_size": int(size),
        "eval_resize": resize_for(size, described) if options.eval_resize is None else options.eval_resize,
        "mean": options.mean or described.get("mean") or defaults.mean,
        "std": options.std or described.get("std") or defaults.std,
        "interpolation": options.interpolation or described.get("interpolation") or defaults.interpolation,
    }
    origins |= {name: FLAGS for name in PREPROCESSING if getattr(options, name) is not None}
    if values["interpolation"] not in INTERPOLATIONS:
        asked = values["interpolation"]
        if not force:
            raise ValueError(
                f"--interpolation: got {asked} from {path}; expected one of {', '.join(INTERPOLATIONS)}, since "
                "with another its features and accuracies differ from those it has elsewhere; choose one, or go on "
                "with bilinear by --force"
            )
        log.warning("%s: %s interpolation asked for; bilinear is used instead (--force)", path, asked)
        values["interpolation"] = BILINEAR
    if described.get("squeezed"):
        log.info(
            "%s: its network sees whole images, squeezed to a square or with a border; fastlt cuts out the centre "
            "of those that are not square",
            path,
        )
    for name in ("mean", "std"):
        check_full_range(f"--{name}", values[name], source=f" from {path}")
    config = TrainConfig(**values)
    log.info(
        "%s: short side to %d (%s), centre %d, mean %s, std %s (%s)",
        path,
        config.resize,
        config.interpolation,
        config.image_size,
        *(" ".join(f"{value:.3f}" for value in channels) for channels in (config.mean, config.std)),
        tell(origins),
    )
    return values


def resize_for(size: int, described: Mapping[str, Any]) -> int | None:
    """Return the short side before a centre crop of a size: the described one, or one of which it is the same share."""
    resize, share = described.get("eval_resize"), described.get("share")
    if share and size != described["image_size"]:
        resize = math.floor(size / share + 1e-6)
    return None if resize is None else max(int(resize), int(size))


def tell(origins: Mapping[str, str]) -> str:
    """Return which settings come from where, in words."""
    places: dict[str, list[str]] = {}
    for name in PREPROCESSING:
        places.setdefault(origins.get(name, USUAL), []).append(name.replace("_", " ").replace("eval ", ""))
    if len(places) == 1:
        return next(iter(places))
    return "; ".join(f"{', '.join(names)}: {place}" for place, names in places.items())


def read_settings(
    path: Path, settings: Mapping[str, Any], pretrained: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return (the preprocessing that a checkpoint or timm describes, where each setting comes from); empty if none."""
    own = settings.get("config", {}).get("pretrained_cfg")
    arguments = settings.get("args", {})
    given = read_arguments(path, arguments)
    base = {**(own or pretrained)}
    if own or pretrained or given or TIMM_ARGUMENT in arguments:
        described = read_timm({**base, **given})
        if not base and TIMM_ARGUMENT not in arguments:
            described["interpolation"] = given.get("interpolation")
        place = OWN if own else LIBRARY if pretrained or TIMM_ARGUMENT in arguments else USUAL
        keys = ("input_size", "crop_pct", "mean", "std", "interpolation")
        origins = {
            name: ARGS if key in given else place
            for name, key in zip(PREPROCESSING, keys, strict=True)
            if described[name] is not None
        }
        return described, origins
    if processor := settings.get("preprocessor_config", {}):
        described = read_transformers(processor)
        return described, {name: OWN for name in PREPROCESSING if described[name] is not None}
    return {}, {}


def read_arguments(path: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the arguments of a training script say of the preprocessing, in the form of timm's `pretrained_cfg`.

    timm's script and torchvision's save them beside the weights, and others use the same names.
    """
    known: dict[str, Any] = {}
    for name, kind in ARGUMENTS.items():
        if arguments.get(name) in (None, ""):
            continue
        try:
            known[name] = convert(arguments[name], kind)
        except ValueError:
            kind_found = type(arguments[name]).__name__
            log.warning("%s: its args have %s, a %s that is not understood and left out", path, name, kind_found)
    given = {name: known[name] for name in ("crop_pct", "crop_mode", "interpolation") if known.get(name)}
    for name in ("mean", "std"):
        values = known.get(name, ())
        if len(values) in (1, 3):
            given[name] = values * (3 // len(values))
    side_of_crop = known.get("input_size", (0,))[-1] or known.get("img_size") or known.get(TORCHVISION_ARGUMENT)
    if side_of_crop:
        given["input_size"] = (3, side_of_crop, side_of_crop)
    resize = known.get("val_resize_size")
    if resize and side_of_crop and TORCHVISION_ARGUMENT in known:
        given["crop_pct"] = side_of_crop / resize
    return given


ARGUMENTS: dict[str, Any] = {
    "input_size": tuple[int, int, int],
    "img_size": int,
    "crop_pct": float,
    "crop_mode": str,
    "mean": tuple[float, ...],
    "std": tuple[float, ...],
    "interpolation": str,
    "val_crop_size": int,
    "val_resize_size": int,
}
"""The arguments of training scripts that are read, and their types."""


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
    """Return the preprocessing that timm's `pretrained_cfg` describes, with timm's defaults for what it leaves out."""
    config = convert(content, TimmConfig)
    size, share = side(config.get("input_size", (3, 224, 224))[-1]), share_of(config.get("crop_pct"))
    return {
        "image_size": size,
        "eval_resize": side(math.floor(size / share + 1e-6)),
        "share": share,
        "mean": channels(config.get("mean"), "mean"),
        "std": channels(config.get("std"), "std", positive=True),
        "interpolation": config.get("interpolation") or "bicubic",
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
        "share": size / side(short_side) if short_side else None,
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
