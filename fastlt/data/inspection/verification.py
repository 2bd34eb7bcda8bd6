"""The comparison of a data set with its published numbers, and what all comparisons share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..image import decode_bytes, is_of_machine, why
from ..packs.read import open_pack
from .overlap import Images, check_overlap

_NUM_SAMPLED = 32


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was checked.

    Attributes:
        what: Split and quantity.
        expected: The published value.
        found: The value here.
        ok: Whether they agree; None where a difference is worth a note but not a fault.
    """

    what: str
    expected: str
    found: str
    ok: bool | None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The outcome of a comparison.

    Attributes:
        dataset: Name of the benchmark.
        root: The data root.
        num_images: Images listed, by split.
        checks: Everything that was compared.
        missing: Listed files that do not exist or are empty, relative to the root, by split.
        unreadable: Files of the sample that cannot be decoded, and why.
        num_bytes: Size of all files that exist.
        decode_ms: Mean time to decode a file on one core, over a sample; None where there is nothing to decode.
        num_sampled: Size of that sample.
        indices: Hash of the chosen images, where a long tail was cut out of a balanced set.
    """

    dataset: str
    root: Path
    num_images: dict[str, int]
    checks: tuple[Check, ...]
    missing: dict[str, tuple[str, ...]]
    unreadable: tuple[str, ...]
    num_bytes: int
    decode_ms: float | None
    num_sampled: int
    indices: str | None = None

    @property
    def num_missing(self) -> int:
        """Number of files that do not exist or are empty."""
        return sum(map(len, self.missing.values()))

    @property
    def problems(self) -> list[str]:
        """What is wrong, each in a few words; empty for the complete published data set."""
        wrong = [f"{check.what} {check.found}, expected {check.expected}" for check in self.checks if check.ok is False]
        if self.num_missing:
            wrong.insert(0, f"{self.num_missing:,} of {sum(self.num_images.values()):,} images are missing")
        if self.unreadable:
            wrong.append(f"{len(self.unreadable)} of {self.num_sampled} sampled images cannot be decoded")
        return wrong

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self) | {"root": str(self.root), "problems": self.problems}


def check_count(what: str, expected: int, count: int) -> Check:
    """Compare a number with the published one."""
    return Check(what=what, expected=f"{expected:,}", found=f"{count:,}", ok=expected == count)


def check_shared(splits: Mapping[str, Images]) -> list[Check]:
    """Return a note for each way in which a data set holds images more than once."""
    overlap = check_overlap(splits)
    counts = {f"{split} images in {earlier} too": count for (split, earlier), count in overlap.shared.items()}
    counts |= {f"{split} images listed again": count for split, count in overlap.repeated.items()}
    if overlap.num_contradictions:
        counts["images with several labels"] = overlap.num_contradictions
    return [Check(what=what, expected="0", found=f"{count:,}", ok=None) for what, count in counts.items()]


def verify_pack(name: str, root: Path, check: Callable[[str, np.ndarray], list[Check]]) -> Verification:
    """Compare a pack with what was published.

    Args:
        name: The data set.
        root: The pack.
        check: A function that compares a split, given its name and labels (int64 [N]).
    """
    splits = open_pack(root, dataset=name)
    checks = [compared for split, dataset in splits.items() for compared in check(split, dataset.labels)]
    checks += check_shared(splits)
    train = splits["train"]
    sample = spread(np.arange(len(train))).tolist()
    decode_ms, unreadable = decode_sample({train.paths[at]: partial(train.read, at) for at in sample})
    return Verification(
        dataset=name,
        root=root,
        num_images={split: len(dataset) for split, dataset in splits.items()},
        checks=tuple(checks),
        missing={},
        unreadable=unreadable,
        num_bytes=sum((root / f"{split}.tar").stat().st_size for split in splits),
        decode_ms=decode_ms,
        num_sampled=len(sample),
    )


def spread(indices: np.ndarray) -> np.ndarray:
    """Return at most 32 of the indices, evenly spread: int64 [*]."""
    if len(indices) <= _NUM_SAMPLED:
        return indices
    chosen: np.ndarray = indices[np.linspace(0, len(indices) - 1, _NUM_SAMPLED).astype(np.int64)]
    return chosen


def decode_sample(sample: Mapping[str, Callable[[], bytes]]) -> tuple[float | None, tuple[str, ...]]:
    """Decode a sample; return the mean milliseconds per image on one core, and the files that cannot be decoded."""
    unreadable: list[str] = []
    elapsed_s, num_decoded = 0.0, 0
    for name, read in sample.items():
        try:
            content = read()
            if num_decoded == 0:
                decode_bytes(content)  # the first call also loads the decoders
            start_s = time.perf_counter()
            decode_bytes(content)
        except (OSError, ValueError) as error:
            if is_of_machine(error):
                raise
            unreadable.append(f"{name} ({why(error)})")
        else:
            elapsed_s += time.perf_counter() - start_s
            num_decoded += 1
    return (1000 * elapsed_s / num_decoded if num_decoded else None), tuple(unreadable)
