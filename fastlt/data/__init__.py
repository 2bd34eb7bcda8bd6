"""Long-tailed data: splits, the order of their images, and the loaders that deliver them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dataset import LongTailedDataset, SkippedFile, open_splits
    from .glyphs import GlyphSpec, glyphs_lt
    from .image import ImageInfo, decode_rgb, probe
    from .packed import open_pack, verify_pack
    from .packing import PackSummary, pack
    from .sampler import LongTailSampler
    from .sampling import effective_number_weights
    from .split import SplitSummary, split_folder
    from .summary import describe
    from .synth import synthesize

__all__ = [
    "GlyphSpec",
    "ImageInfo",
    "LongTailSampler",
    "LongTailedDataset",
    "PackSummary",
    "SkippedFile",
    "SplitSummary",
    "decode_rgb",
    "describe",
    "effective_number_weights",
    "glyphs_lt",
    "open_pack",
    "open_splits",
    "pack",
    "probe",
    "split_folder",
    "synthesize",
    "verify_pack",
]

_HOMES = {
    "LongTailedDataset": "dataset",
    "SkippedFile": "dataset",
    "GlyphSpec": "glyphs",
    "glyphs_lt": "glyphs",
    "ImageInfo": "image",
    "decode_rgb": "image",
    "probe": "image",
    "open_splits": "dataset",
    "PackSummary": "packing",
    "pack": "packing",
    "open_pack": "packed",
    "verify_pack": "packed",
    "LongTailSampler": "sampler",
    "effective_number_weights": "sampling",
    "SplitSummary": "split",
    "describe": "summary",
    "split_folder": "split",
    "synthesize": "synth",
}


def __getattr__(name: str) -> Any:
    """Import a public name's module on first use, so that importing the package costs nothing."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
