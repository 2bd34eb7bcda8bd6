"""Long-tailed data: splits, the order of their images, and the loaders that deliver them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dataset import LongTailedDataset, SkippedFile
    from .image import ImageInfo, decode_rgb, probe
    from .inspection.summary import describe
    from .layouts.split import SplitSummary, split_folder
    from .layouts.walk import LeftOut
    from .packs.read import open_pack
    from .packs.verify import verify_pack
    from .packs.write import PackSummary, pack
    from .sampler import LongTailSampler
    from .sampler_arguments import effective_number_weights
    from .splits import open_splits
    from .synthetic.any_shape import synthesize
    from .synthetic.glyphs import GlyphSpec, glyphs_lt

__all__ = [
    "GlyphSpec",
    "ImageInfo",
    "LeftOut",
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
    "GlyphSpec": "synthetic.glyphs",
    "glyphs_lt": "synthetic.glyphs",
    "ImageInfo": "image",
    "LeftOut": "layouts.walk",
    "decode_rgb": "image",
    "probe": "image",
    "open_splits": "splits",
    "PackSummary": "packs.write",
    "pack": "packs.write",
    "open_pack": "packs.read",
    "verify_pack": "packs.verify",
    "LongTailSampler": "sampler",
    "effective_number_weights": "sampler_arguments",
    "SplitSummary": "layouts.split",
    "describe": "inspection.summary",
    "split_folder": "layouts.split",
    "synthesize": "synthetic.any_shape",
}


def __getattr__(name: str) -> Any:
    """Import a public name's module on first use, so that importing the package is cheap."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
