"""`fastlt data verify`: what is as published, what is not, and what is missing."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlt.cli import dispatch
from fastlt.data import pack
from fastlt.data.inspection.verification import Verification
from fastlt.data.published.interface import DataOptions
from fastlt.data.published.listed import ListedSet, check_counts
from fastlt.data.published.specs import BENCHMARKS, Benchmark, SplitSpec
from fastlt.data.registry import PUBLISHED, open_named
from fastlt.data.synthetic.any_shape import count_profile


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


def small(benchmark: Benchmark) -> Benchmark:
    """What was published, if the benchmark were as small as its miniature."""
    numbers = {"train": (17, None), "val": (6, 2), "test": (6, 2)}
    splits = {
        name: SplitSpec(num_images=numbers[name][0], per_class=numbers[name][1], lists=spec.lists, sha256=spec.sha256)
        for name, spec in benchmark.splits.items()
    }
    return dataclasses.replace(benchmark, num_classes=3, max_count=9, min_count=3, groups=(0, 0, 3), splits=splits)


@pytest.fixture
def expected(miniature: Any) -> Benchmark:
    return small(BENCHMARKS[miniature.dataset])


def verify(benchmark: Benchmark, root: Path, lists: Path | None = None) -> Verification:
    return ListedSet(benchmark).verify(root, DataOptions(lists=lists))


def test_a_whole_benchmark_passes_in_every_layout(miniature: Any, expected: Benchmark) -> None:
    report = verify(expected, miniature.root, miniature.lists)
    assert report.problems == []
    assert report.num_missing == 0
    assert report.num_images["train"] == 17
    assert report.num_bytes == sum(path.stat().st_size for path in miniature.root.rglob("*.*") if path.is_file())
    assert report.decode_ms is not None
    assert report.decode_ms > 0
    assert {check.what for check in report.checks if check.ok is None} <= {"train list", "val list", "test list"}


def test_a_released_list_is_recognised(miniature: Any, expected: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = {spec.lists[0]: spec.sha256 for spec in expected.splits.values()}
    monkeypatch.setattr("fastlt.data.published.listed.list_hash", lambda source: sums.get(source.name))
    report = verify(expected, miniature.root, miniature.lists)
    assert all(check.ok for check in report.checks)


def test_what_is_missing_is_named_in_full(miniature: Any, expected: Benchmark) -> None:
    files = sorted(path for path in miniature.root.rglob("*.*") if path.is_file())
    gone, empty = files[1], files[-1]
    gone.unlink()
    empty.write_bytes(b"")
    report = verify(expected, miniature.root, miniature.lists)
    named = {path for paths in report.missing.values() for path in paths}
    assert named == {path.relative_to(miniature.root).as_posix() for path in (gone, empty)}
    assert report.problems == [f"2 of {len(files)} images are missing"]
    report = verify(dataclasses.replace(expected, num_classes=4), miniature.root, miniature.lists)
    assert report.problems[0] == f"2 of {len(files)} images are missing"
    assert len(report.problems) > 1


def test_other_numbers_are_told(miniature: Any, expected: Benchmark) -> None:
    wanted = dataclasses.replace(expected, max_count=10, groups=(1, 1, 1))
    report = verify(wanted, miniature.root, miniature.lists)
    assert report.problems == [
        "train largest class 9, expected 10",
        "train many / medium / few 0 / 0 / 3, expected 1 / 1 / 1",
    ]


def test_an_unreadable_image_of_the_sample_is_named(miniature: Any, expected: Benchmark) -> None:
    file = next(path for path in sorted(miniature.root.rglob("*.*")) if path.is_file())
    file.write_bytes(file.read_bytes()[:40])
    report = verify(expected, miniature.root, miniature.lists)
    assert len(report.unreadable) == 1
    assert report.unreadable[0].startswith(file.relative_to(miniature.root).as_posix())
    assert "sampled images cannot be decoded" in report.problems[0]


def test_a_pack_is_verified_too(miniature: Any, expected: Benchmark, tmp_path: Path) -> None:
    splits = open_named(miniature.dataset, miniature.root, DataOptions(lists=miniature.lists))
    pack(splits, tmp_path / "pack", dataset=miniature.dataset)
    assert verify(expected, tmp_path / "pack").problems == []
    other = next(name for name in BENCHMARKS if name != miniature.dataset)
    with pytest.raises(
        ValueError,
        match=rf"\b{miniature.dataset}\b.*--dataset {other}\b|--dataset: got {other}\b.*\b{miniature.dataset}\b",
    ):
        open_named(other, tmp_path / "pack")


def test_the_command_writes_json_and_a_file_of_what_is_missing(
    miniature: Any, expected: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(PUBLISHED, miniature.dataset, ListedSet(expected))
    command = ["data", "verify", "--dataset", miniature.dataset, "--data-root", str(miniature.root)]
    command += ["--lists", str(miniature.lists), "--json", str(tmp_path / "found.json")]
    dispatch(command)
    assert "next: fastlt train --dataset" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["problems"] == []
    files = sorted(path for path in miniature.root.rglob("*.*") if path.is_file())
    for file in files[:12]:
        file.unlink()
    with pytest.raises(ValueError, match=rf"{miniature.root}\b.*\b12 of {len(files)} images"):
        dispatch([*command, "--missing", str(tmp_path / "missing.txt")])
    out = capsys.readouterr().out
    assert out.count("missing (") == 10
    assert "... and 2 more" in out
    assert len((tmp_path / "missing.txt").read_text().splitlines()) == 12


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_published_numbers_agree_with_each_other(name: str) -> None:
    benchmark = BENCHMARKS[name]
    for spec in benchmark.splits.values():
        assert spec.per_class is None or spec.per_class * benchmark.num_classes == spec.num_images
    counts = count_profile(
        benchmark.num_classes,
        benchmark.splits["train"].num_images,
        max_count=benchmark.max_count,
        min_count=benchmark.min_count,
    )
    checks = check_counts(benchmark, "train", np.repeat(np.arange(benchmark.num_classes), counts))
    assert all(check.ok for check in checks if "few" not in check.what)
    assert benchmark.groups is None or sum(benchmark.groups) == benchmark.num_classes
