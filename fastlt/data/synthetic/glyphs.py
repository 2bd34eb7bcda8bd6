"""glyphs_lt, the embedded data set: a hundred characters in the fonts that matplotlib ships, with a long tail."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ...files import make_once
from ...runtime.cache import cache_dir
from ..dataset import LongTailedDataset
from ..splits import open_splits
from .painting import FACES, Look, Style
from .processes import Task, paint_all

CHARACTERS = "ABCEIKMOPQSVWXYΞΠΣΦΨαδζλμςτωДЖЙЛЧЩЪЫЮЉҢҲьњћәerztÆþƷ2479#$%&*+=@~¿¶§¢£€©«±¤>→√∞∂⊃≥⊗◊■□▲▼☺☼♀♂♠♥♪♫♮☀♁♃♆"
"""A hundred characters; no two look alike in any of the fonts, mirrored or not."""

_VERSION = 1
_STREAMS = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True, kw_only=True)
class GlyphSpec:
    """What glyphs_lt is made of.

    Attributes:
        max_count: Train images of the largest class.
        min_count: Train images of the smallest class; the counts in between fall exponentially.
        val_per_class: Val images of each class.
        test_per_class: Test images of each class.
        seed: Key of all draws, and of the assignment of counts to characters.
        look: How the images are painted.
    """

    max_count: int = 400
    min_count: int = 4
    val_per_class: int = 20
    test_per_class: int = 30
    seed: int = 0
    look: Look = field(default_factory=Look)


def glyphs_lt(
    spec: GlyphSpec | None = None,
    *,
    num_workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, LongTailedDataset]:
    """Open glyphs_lt; the first call paints it into the cache folder.

    Args:
        spec: What to paint; by default the data set of the recipe `glyphs_lt`.
        num_workers: Processes that paint; by default one per processor.
        progress: Called with the number of images painted since its last call.

    Returns:
        "train", "val" and "test".

    Raises:
        OSError: The cache folder cannot be written or the disk is full.
    """
    return open_splits(build_glyphs_lt(spec, num_workers=num_workers, progress=progress))


def build_glyphs_lt(
    spec: GlyphSpec | None = None,
    *,
    num_workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Paint glyphs_lt into the cache folder unless it is there: `train/<class>/<image>`, `val/...`, `test/...`.

    An interruption leaves nothing half done. A second process waits for the first one's result.

    Args:
        spec: As for `glyphs_lt`.
        num_workers: As for `glyphs_lt`.
        progress: As for `glyphs_lt`.

    Returns:
        The data root.
    """
    import PIL

    spec = spec or GlyphSpec()
    # Another version of Pillow may rasterise or encode to other bits, so its files are another data set
    identity = json.dumps([_VERSION, PIL.__version__, CHARACTERS, asdict(spec)], sort_keys=True)
    root = cache_dir() / "datasets" / f"glyphs_lt-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

    def fill(folder: Path) -> None:
        tasks = [
            Task(
                style=Style(character=character),
                folder=f"{split}/U+{ord(character):04X}",
                stream=_STREAMS[split],
                label=label,
                start=0,
                stop=count,
            )
            for split, counts in split_counts(spec).items()
            for label, (character, count) in enumerate(zip(sorted(CHARACTERS), counts.tolist(), strict=True))
        ]
        for task in tasks:
            (folder / task.folder).mkdir(parents=True)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in sorted(CHARACTERS)), encoding="utf-8")
        fonts = font_folder()
        paint_all(
            tasks, folder, look=spec.look, fonts=fonts, seed=spec.seed, num_workers=num_workers, progress=progress
        )

    make_once(root, fill)
    return root


def split_counts(spec: GlyphSpec) -> dict[str, np.ndarray]:
    """Return the number of images of each class, by split: int64 [100], classes in the order of their code points."""
    num_classes = len(CHARACTERS)
    rank = np.argsort(np.random.Philox(key=spec.seed, counter=[0, 0, 0, len(_STREAMS)]).random_raw(num_classes))
    falling = spec.max_count * (spec.min_count / spec.max_count) ** (np.arange(num_classes) / (num_classes - 1))
    return {
        "train": np.rint(falling).astype(np.int64)[rank],
        "val": np.full(num_classes, spec.val_per_class, np.int64),
        "test": np.full(num_classes, spec.test_per_class, np.int64),
    }


def font_folder() -> Path:
    """Return the folder of the DejaVu fonts that matplotlib ships.

    Raises:
        FileNotFoundError: This matplotlib was installed without them.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    if missing := [face for face in FACES if not (folder / face).is_file()]:
        raise FileNotFoundError(
            f"{folder}: got no {', '.join(missing)}; expected the DejaVu fonts; reinstall matplotlib from its wheel"
        )
    return folder
