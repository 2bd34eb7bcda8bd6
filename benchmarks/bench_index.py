"""Index building: probing image files for the first time, and opening them from the cache.

`FASTLT_BENCH_FILES` sets how many files there are (default 5000). Results hold `num_files` and `s_per_100k_files`.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from fastlt.data.index import index_files
from fastlt.data.synthetic.glyphs import font_folder
from fastlt.data.synthetic.painting import Look, Style, paint

NUM_FILES = int(os.environ.get("FASTLT_BENCH_FILES", "5000"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    look = Look(size=224)
    samples = [
        paint(Style(character="A"), look, font_folder(), seed=0, stream=0, label=0, number=number)
        for number in range(16)
    ]
    paths = tuple(f"{number // 1000:04d}/{number:07d}.jpg" for number in range(NUM_FILES))
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(samples[number % len(samples)])
    return root, paths


def record(benchmark):
    benchmark.extra_info["num_files"] = NUM_FILES
    benchmark.extra_info["s_per_100k_files"] = benchmark.stats.stats.median * 100_000 / NUM_FILES


@pytest.mark.parametrize("num_threads", [None, 1, 2, 8])
def test_probe_files(benchmark, files, num_threads):
    root, paths = files
    index = benchmark(index_files, root, paths, source="benchmark", cache=False, num_threads=num_threads)
    assert index.native.all()
    record(benchmark)


def test_open_from_cache(benchmark, files, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTLT_CACHE", str(Path(tmp_path) / "cache"))
    root, paths = files
    index_files(root, paths, source="benchmark")
    index = benchmark(index_files, root, paths, source="benchmark")
    assert np.all(index.sizes == 224)
    record(benchmark)
