"""Synthetic long-tailed data sets of any shape, to test speed and scale without the original images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...config import check_range
from ...files import check_empty, owned, replacing, sweep
from ..layouts.layout import UNFINISHED
from .glyphs import CHARACTERS, font_folder
from .painting import MARK_BITS, Look, Style
from .processes import Task, paint_all

INKS = {
    "black": (20, 20, 20),
    "red": (190, 20, 20),
    "green": (0, 115, 0),
    "blue": (20, 20, 200),
    "purple": (120, 0, 150),
    "brown": (110, 60, 0),
    "teal": (0, 105, 115),
    "orange": (205, 85, 0),
    "pink": (215, 0, 115),
    "grey": (100, 100, 100),
}
"""Colours that tell classes apart once the characters run out."""

MAX_CLASSES = len(CHARACTERS) * len(INKS) << MARK_BITS
"""The number of combinations of character, colour and mark."""

_RECORD = "synth.json"
_STREAMS = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True, kw_only=True)
class SynthSpec:
    """Shape of a synthetic data set: `num_images` train images in `num_classes` classes, and balanced val and test."""

    num_classes: int
    num_images: int
    max_count: int
    min_count: int
    val_per_class: int
    test_per_class: int
    seed: int
    look: Look


def synthesize(
    out: Path | str,
    *,
    num_classes: int,
    num_images: int,
    max_count: int,
    min_count: int,
    size: int = 32,
    val_per_class: int = 3,
    test_per_class: int = 5,
    seed: int = 0,
    num_workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write a glyph set of the given shape as `train/<class>/<image>`, `val/...` and `test/...`.

    Up to a hundred classes are told apart by the character alone, in random colours; more classes also by its colour,
    and beyond a thousand by a mark below it. Repeat an interrupted call to continue where it stopped.

    Args:
        out: Folder of the data set: absent, empty, or begun by the same call.
        num_classes: C, at most `MAX_CLASSES`.
        num_images: Train images of all classes together.
        max_count: Train images of the largest class.
        min_count: Train images of the smallest class.
        size: Side of an image in pixels.
        val_per_class: Val images of each class.
        test_per_class: Test images of each class; 0 for no test split.
        seed: Key of all draws, and of the assignment of counts to classes.
        num_workers: Processes that paint; by default one per processor.
        progress: Called with the number of images done since its last call.

    Returns:
        The data root, `out`.

    Raises:
        ValueError: No counts meet these numbers, `out` holds another data set, or another process writes to it.
        OSError: `out` cannot be written or the disk is full.
    """
    out = Path(out)
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"--classes: got {num_classes}; expected 1 to {MAX_CLASSES}")
    check_range("--size", size, low=8, unit="pixels")
    check_range("--val-per-class", val_per_class, low=1)
    check_range("--test-per-class", test_per_class, low=0)
    spec = SynthSpec(
        num_classes=num_classes,
        num_images=num_images,
        max_count=max_count,
        min_count=min_count,
        val_per_class=val_per_class,
        test_per_class=test_per_class,
        seed=seed,
        look=Look(size=size),
    )
    counts = count_profile(num_classes, num_images, max_count=max_count, min_count=min_count)
    if out.exists() and not out.is_dir():
        check_empty("OUT", out)
    with owned(out):
        _claim(out, spec)
        tasks = list(_tasks(spec, counts, out))
        folders = list(dict.fromkeys(out / task.folder for task in tasks))
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        with replacing(out / "classes.txt") as partial:
            names = (class_name(label, num_classes) for label in range(num_classes))
            partial.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        fonts = font_folder()
        paint_all(tasks, out, look=spec.look, fonts=fonts, seed=seed, num_workers=num_workers, progress=progress)
        for folder in folders:  # only now: painters of a process that was killed may live a moment longer
            sweep(folder)
        _place(out)
    return out


def count_profile(num_classes: int, num_images: int, *, max_count: int, min_count: int) -> np.ndarray:
    """Return counts that fall from `max_count` to `min_count` and add up to `num_images` exactly.

    The count at rank x in [0, 1] is max_count (min_count / max_count)^(x^p): exponential for p = 1; p is chosen so that
    the counts add up.

    Returns:
        int64 [num_classes], falling.

    Raises:
        ValueError: No counts between the two add up to `num_images`.
    """
    if not 1 <= min_count <= max_count or num_classes < 1:
        raise ValueError(
            f"--min: got {min_count} with --max {max_count} for {num_classes} classes; expected 1 <= min <= max"
        )
    inner = num_classes - 2
    if inner < 0:
        lowest = highest = max_count
        if max_count != min_count:
            raise ValueError(f"--min: got {min_count} with --max {max_count} for one class; expected the same number")
    else:
        lowest = max_count + min_count + inner * min_count
        highest = max_count + min_count + inner * max_count
    if not lowest <= num_images <= highest:
        raise ValueError(
            f"--images: got {num_images}; expected {lowest} to {highest}, what {num_classes} classes of {min_count} to "
            f"{max_count} images have together; change --images, --max or --min"
        )
    if inner <= 0:
        return np.array([max_count, min_count][:num_classes], np.int64)

    rank = np.arange(1, num_classes - 1) / (num_classes - 1)
    total = num_images - max_count - min_count
    low, high = -30.0, 30.0
    for _ in range(100):
        middle = (low + high) / 2
        if _falling(rank, middle, max_count, min_count).sum() < total:
            low = middle
        else:
            high = middle
    exact = _falling(rank, low, max_count, min_count)
    counts = np.floor(exact).astype(np.int64)
    # Images lost by rounding down go to the largest remainders; at the ends of the range, wherever there is room
    while (lacking := total - int(counts.sum())) != 0:
        step = 1 if lacking > 0 else -1
        room = np.flatnonzero(counts < max_count if step > 0 else counts > min_count)
        order = room[np.argsort(step * (counts[room] - exact[room]), kind="stable")]
        counts[order[: abs(lacking)]] += step
    return np.concatenate([[max_count], np.sort(counts)[::-1], [min_count]]).astype(np.int64)


def class_style(label: int, num_classes: int) -> Style:
    """Return what the images of a class look like; no two classes have the same character, colour and mark."""
    character = CHARACTERS[label % len(CHARACTERS)]
    if num_classes <= len(CHARACTERS):
        return Style(character=character)
    rest = label // len(CHARACTERS)
    inks = tuple(INKS.values())
    return Style(character=character, ink=inks[rest % len(inks)], mark=rest // len(inks))


def class_name(label: int, num_classes: int) -> str:
    """Return the name of a class: its character, then its colour and mark where they tell classes apart."""
    style = class_style(label, num_classes)
    colour = next((name for name, ink in INKS.items() if ink == style.ink), None)
    return " ".join([style.character, *([colour] if colour else []), *([str(style.mark)] if style.mark else [])])


def _falling(rank: np.ndarray, log_power: float, max_count: int, min_count: int) -> np.ndarray:
    values = max_count * (min_count / max_count) ** (rank ** math.exp(log_power))
    return np.clip(values, min_count, max_count)


def _tasks(spec: SynthSpec, counts: np.ndarray, out: Path) -> Iterator[Task]:
    """Yield what to paint; a split that is not there yet is painted aside, so that no part of it counts as a set."""
    rank = np.argsort(np.random.Philox(key=spec.seed, counter=[0, 0, 0, len(_STREAMS)]).random_raw(spec.num_classes))
    per_split = {"train": counts[rank].tolist(), "val": spec.val_per_class, "test": spec.test_per_class}
    width = max(4, len(str(spec.num_classes - 1)))
    for split, number in per_split.items():
        place = split if (out / split).is_dir() else f"{UNFINISHED}/{split}"
        for label in range(spec.num_classes):
            stop = number[label] if isinstance(number, list) else number
            if stop:
                yield Task(
                    style=class_style(label, spec.num_classes),
                    folder=f"{place}/{label:0{width}d}",
                    stream=_STREAMS[split],
                    label=label,
                    start=0,
                    stop=stop,
                )


def _claim(out: Path, spec: SynthSpec) -> None:
    """Record what `out` will hold, or check that an interrupted call recorded the same."""
    record = out / _RECORD
    text = json.dumps(asdict(spec), indent=2) + "\n"
    if record.is_file():
        if record.read_bytes() != text.encode():
            raise ValueError(f"OUT: got {out}, which holds a synthetic data set of another shape; give another folder")
        return
    check_empty("OUT", out)
    with replacing(record) as partial:
        partial.write_text(text, encoding="utf-8")


def _place(out: Path) -> None:
    """Move the splits that were painted aside to their places; train, by which a data set is found, comes last."""
    aside = out / UNFINISHED
    for split in reversed(_STREAMS):
        if (aside / split).is_dir():
            (aside / split).rename(out / split)
    if aside.is_dir():
        aside.rmdir()
