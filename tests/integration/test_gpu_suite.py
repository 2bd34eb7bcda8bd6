"""The one command for a GPU machine runs all its parts, here on a CPU and small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("ops", "step", "switches", "networks", "loader", "tune")
QUICK = (*COMMANDS, "lws", "end_to_end", "evaluation", "loss_curve", "profile", "candidates", "compile")
HEADLINE = "resnext50_32x4d"
NETWORKS = {"resnet50", HEADLINE, "resnext101_32x4d", "resnet152"}


@pytest.mark.slow
def test_every_part_runs_and_writes_its_figures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--device", "cpu", "--quick", "--only"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # Without correctness, which tests/kernels runs
    assert subprocess.run([*command, *QUICK], cwd=ROOT, env=environment, timeout=500, check=False).returncode == 0
    figures = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(figures) == set(QUICK)
    summary = (tmp_path / "summary.md").read_text()
    assert "Without figures" not in summary
    assert summary.count("\n## ") == 13
    assert figures["end_to_end"]["memory"]["images_per_s"] > 0
    assert figures["end_to_end"]["plain"]["images_per_s"] > 0
    assert figures["evaluation"]["compiled"]["compiles"]
    assert figures["evaluation"]["num_graphs"] == 1  # none for the smaller last batch
    assert figures["evaluation"]["compiled"]["head"] == figures["evaluation"]["eager"]["head"]
    assert sum(kernel["share"] for kernel in figures["profile"]["kernels"]) == pytest.approx(1, abs=0.2)
    assert sum("images_per_s" in row for row in figures["candidates"].values() if isinstance(row, dict)) == 9
    assert figures["tune"]["best"]["num_threads"] == 1
    assert [step["backbone"] for step in figures["compile"]["steps"] if step["seconds"] > 0] == ["resnet8", HEADLINE]
    gaps = {name: row["largest_gap"] for name, row in figures["loss_curve"].items() if name != "machine"}
    assert gaps.keys() == NETWORKS
    assert max(gaps.values()) < 0.5
    for name, number in (("step", 2), ("switches", 2), ("networks", 4)):
        rates = [row["images_per_s"] for row in figures[name]["results"]]
        assert len(rates) == number
        assert None not in rates
    assert {row["backbone"] for row in figures["networks"]["results"]} == NETWORKS
