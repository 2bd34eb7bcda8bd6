"""The sampler against NumPy, torch.utils.data.WeightedRandomSampler and a Python class-aware sampler, in one process.

`pytest benchmarks/bench_sampler.py` prints the ratios as well. FASTLT_BENCH_SCALE=1 adds 10^8 samples and 10^6 classes,
which takes a few minutes and 3 GB.
"""

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from fastlt import _C
from fastlt.data import LongTailSampler

NUM_DRAWS = 65_536
SCALE = bool(os.environ.get("FASTLT_BENCH_SCALE"))


def inaturalist_counts() -> np.ndarray:
    """Return counts shaped like iNaturalist 2018's: 437,513 images of 8142 classes, 2 to 1000 each."""
    many, medium, few = (np.linspace(0, 1, k, endpoint=False) for k in (842, 4076, 3224))
    low, high = 0.2, 5.0
    for _ in range(60):
        power = (low + high) / 2
        parts = 2 + 18 * few, 20 * 5.05**medium**1.1, 101 * 10**many**power
        counts = np.concatenate([np.floor(part).astype(np.int64) for part in parts])
        low, high = (power, high) if counts.sum() > 437_513 else (low, power)
    counts[-1] = 1000
    counts[-300] += 437_513 - counts.sum()
    return np.random.default_rng(0).permutation(counts)


def lognormal_counts(num_samples: int, num_classes: int) -> np.ndarray:
    counts = np.random.default_rng(0).lognormal(size=num_classes)
    counts = np.maximum(1, (counts * (num_samples / counts.sum())).astype(np.int64))
    counts[0] += max(0, num_samples - counts.sum())
    return counts


class NumpyDraws:
    """The same laws, vectorised in NumPy as well as we can; ids are 64-bit, as torch's loaders want them."""

    def __init__(self, labels: np.ndarray) -> None:
        self.counts = np.bincount(labels)
        self.order = np.argsort(labels, kind="stable")
        self.start = np.cumsum(self.counts) - self.counts
        self.rng = np.random.default_rng(0)

    def with_replacement(self) -> np.ndarray:
        """Draw classes, then images of them, each uniformly."""
        c = self.rng.integers(0, len(self.counts), NUM_DRAWS)
        return self.order[self.start[c] + (self.rng.random(NUM_DRAWS) * self.counts[c]).astype(np.int64)]

    def start_cycles(self) -> None:
        """Shuffle every class; a run does so once, and again for each class that is used up."""
        self.shuffled, self.used = self.order.copy(), np.zeros(len(self.counts), dtype=np.int64)
        self.reshuffle(np.arange(len(self.counts)))
        self.cycle, self.at = self.rng.permutation(len(self.counts)), 0

    def without_replacement(self) -> np.ndarray:
        """Draw classes and images in shuffled cycles, one cycle of the classes at a time."""
        parts, left = [], NUM_DRAWS
        while left:
            c = self.cycle[self.at : self.at + left]
            parts.append(self.shuffled[self.start[c] + self.used[c]])
            self.used[c] += 1
            done = c[self.used[c] == self.counts[c]]
            if len(done):
                self.reshuffle(done)
            self.at += len(c)
            left -= len(c)
            if self.at == len(self.counts):
                self.cycle, self.at = self.rng.permutation(len(self.counts)), 0
        return np.concatenate(parts)

    def reshuffle(self, classes: np.ndarray) -> None:
        """Shuffle some classes, all in one sort."""
        counts = self.counts[classes]
        owner = np.repeat(np.arange(len(classes)), counts)
        places = np.arange(len(owner)) + np.repeat(self.start[classes] - np.cumsum(counts) + counts, counts)
        self.shuffled[places] = self.shuffled[places[np.argsort(owner + self.rng.random(len(owner)))]]
        self.used[classes] = 0


class PythonCycle:
    """Endless shuffled cycles through a list."""

    def __init__(self, items: list[int], rng: random.Random) -> None:
        self.items, self.rng, self.at = items, rng, len(items)

    def __next__(self) -> int:
        if self.at == len(self.items):
            self.rng.shuffle(self.items)
            self.at = 0
        self.at += 1
        return self.items[self.at - 1]


def python_class_aware(labels: np.ndarray, samples_per_class: int) -> Iterator[int]:
    """Yield one index at a time from lists of shuffled cycles, as class-aware sampling is usually written."""
    rng = random.Random(0)
    images: list[list[int]] = [[] for _ in range(labels.max() + 1)]
    for i, label in enumerate(labels.tolist()):
        images[label].append(i)
    cycles = [PythonCycle(items, rng) for items in images]
    classes = PythonCycle(list(range(len(cycles))), rng)
    while True:
        cycle = cycles[next(classes)]
        for _ in range(samples_per_class):
            yield next(cycle)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    counts = inaturalist_counts()
    return np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))


def draws(
    labels: np.ndarray, *, num_threads: int = 1, simd: _C.Simd | None = None, **options: object
) -> Callable[[], np.ndarray]:
    """Return a function that draws the next 65,536 samples."""
    core = LongTailSampler(labels, batch_size=512, num_epochs=90, **options)._core
    first = iter(range(0, 2**62, NUM_DRAWS))
    simd = _C.best_simd() if simd is None else simd
    return lambda: core.draw(next(first), NUM_DRAWS, num_threads=num_threads, simd=simd)


def contenders(labels: np.ndarray) -> dict[str, Callable[[], object]]:
    numpy_draws = NumpyDraws(labels)
    numpy_draws.start_cycles()
    stream = python_class_aware(labels, 4)
    weights = torch.from_numpy(1 / np.bincount(labels)[labels])
    weighted = torch.utils.data.WeightedRandomSampler(weights, NUM_DRAWS)
    balanced = {"sampling": "class_balanced"}
    fours = draws(labels, samples_per_class=4, **balanced)
    return {
        "NumPy, with replacement": numpy_draws.with_replacement,
        "NumPy, without replacement": numpy_draws.without_replacement,
        "Python, class-aware in fours": lambda: [next(stream) for _ in range(NUM_DRAWS)],
        "torch WeightedRandomSampler": lambda: list(weighted),
        "ours, with replacement": draws(labels, replacement=True, **balanced),
        "ours, with replacement, 2 threads": draws(labels, replacement=True, num_threads=2, **balanced),
        "ours, with replacement, AVX2": draws(labels, replacement=True, simd=_C.Simd.avx2, **balanced),
        "ours, with replacement, scalar": draws(labels, replacement=True, simd=_C.Simd.scalar, **balanced),
        "ours, without replacement": draws(labels, **balanced),
        "ours, without replacement, 2 threads": draws(labels, num_threads=2, **balanced),
        "ours, without replacement, AVX2": draws(labels, simd=_C.Simd.avx2, **balanced),
        "ours, without replacement, scalar": draws(labels, simd=_C.Simd.scalar, **balanced),
        "ours, class-aware in fours": fours,
        "ours, class-aware in fours, as a list": lambda: fours().tolist(),
        "ours, instances": draws(labels),
        "ours, square root": draws(labels, sampling="square_root"),
        "ours, progressive": draws(labels, sampling="progressively_balanced"),
    }


NAMES = list(contenders(np.zeros(1, dtype=np.int64)))
RATIOS = [
    # ours, baseline, target
    ("ours, with replacement", "NumPy, with replacement", 3),
    ("ours, with replacement, 2 threads", "NumPy, with replacement", 6),
    ("ours, without replacement", "NumPy, without replacement", 5),
    ("ours, without replacement", "NumPy, with replacement", 1),
    ("ours, without replacement, 2 threads", "NumPy, without replacement", 10),
    ("ours, class-aware in fours", "Python, class-aware in fours", 40),
    ("ours, class-aware in fours, as a list", "Python, class-aware in fours", None),
    ("ours, with replacement", "torch WeightedRandomSampler", None),
]


def interleaved_medians(functions: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Return the median seconds of each function, all measured in turns, so that a busy machine disturbs them alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, function in functions.items():
            num_calls, num_warm = (1, 0) if name.startswith(("Python", "torch")) else (20, 3)
            for _ in range(num_warm):  # the other contenders have emptied the caches
                function()
            for _ in range(num_calls):
                start = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def show(lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("\n" + "\n".join(lines))


@pytest.mark.parametrize("name", NAMES)
def test_draws(benchmark, labels, name):
    benchmark.extra_info["draws"] = NUM_DRAWS
    benchmark.pedantic(contenders(labels)[name], rounds=25, warmup_rounds=2)


def test_ratios(labels, capsys):
    """Measure everything in turns; print nanoseconds per sample and how many times faster each is than its baseline."""
    medians = interleaved_medians(contenders(labels), seconds=30)
    lines = [f"{name:40} {seconds / NUM_DRAWS * 1e9:8.2f} ns a sample" for name, seconds in medians.items()]
    for ours, theirs, target in RATIOS:
        aim = "" if target is None else f", target {target}"
        lines.append(f"{ours} over {theirs}: {medians[theirs] / medians[ours]:.2f}x{aim}")
    load = os.getloadavg()[0]
    show([*lines, f"load of the machine: {load:.2f} on {os.cpu_count()} processors"], capsys)


def gather_from(*tables: np.ndarray) -> Callable[[], None]:
    """Read random entries of each table in NumPy's fastest way: no checks of bounds, nothing allocated."""
    rng = np.random.default_rng(3)
    places = [itertools.cycle(rng.integers(0, len(table), (200, NUM_DRAWS))) for table in tables]
    out = np.empty(NUM_DRAWS, dtype=np.uint32)

    def gather() -> None:
        for table, at in zip(tables, places, strict=True):
            np.take(table, next(at), out=out, mode="clip")

    return gather


SHAPES = [(10_000, 10), (100_000, 1000), (1_000_000, 10_000), (10_000_000, 100_000)]


def test_scale(capsys):
    """Measure nanoseconds per sample, also less gathers from equally large tables, memory per sample, and construction.

    A class-balanced draw reads one entry of a table of the classes and one of a table of the samples. "less N" is what
    it costs beyond one plain random gather from as many entries as there are samples; "less N, C" beyond that and one
    from as many entries as there are classes.
    """
    lines = []
    for num_samples, num_classes in [*SHAPES, *([(100_000_000, 1_000_000)] if SCALE else [])]:
        counts = lognormal_counts(num_samples, num_classes)
        labels = np.repeat(np.arange(num_classes, dtype=np.int32), counts)
        np.random.default_rng(2).shuffle(labels)
        start = time.perf_counter()
        sampler = LongTailSampler(labels, sampling="class_balanced", batch_size=512, num_threads=2)
        construction_s = time.perf_counter() - start
        table = sampler._index.order
        num_bytes = table.nbytes + (8 + 4) * num_classes
        numpy_draws = NumpyDraws.__new__(NumpyDraws)
        numpy_draws.counts, numpy_draws.start = counts, np.cumsum(counts) - counts
        numpy_draws.order, numpy_draws.rng = table.astype(np.int64), np.random.default_rng(0)
        ours = {
            "with replacement": {"replacement": True},
            "without replacement": {},
            "with replacement, AVX2": {"replacement": True, "simd": _C.Simd.avx2},
            "without replacement, AVX2": {"simd": _C.Simd.avx2},
            "with replacement, 2 threads": {"replacement": True, "num_threads": 2},
        }
        functions = {
            "NumPy, with replacement": numpy_draws.with_replacement,
            "gather N": gather_from(table),
            "gathers N, C": gather_from(table, numpy_draws.start.astype(np.uint32)),
            **{name: draws(labels, sampling="class_balanced", **options) for name, options in ours.items()},
        }
        times = interleaved_medians(functions, seconds=3)
        ns = {name: seconds / NUM_DRAWS * 1e9 for name, seconds in times.items()}
        lines.append(
            f"{len(labels):,} samples, {num_classes:,} classes: constructed in {construction_s:.3f} s, "
            f"{num_bytes / len(labels):.2f} bytes a sample, "
            f"{ns['NumPy, with replacement'] / ns['with replacement']:.2f}x NumPy"
        )
        for name, value in ns.items():
            less = f", less N {value - ns['gather N']:5.1f}, less N, C {value - ns['gathers N, C']:5.1f}"
            lines.append(f"  {name:28} {value:5.1f} ns{less if name in ours else ''}")
    show(lines, capsys)
