"""The one command for a GPU machine runs all its parts, here on a CPU and small."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_part_runs_and_writes_its_figures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--device", "cpu", "--quick"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, timeout=500, check=False
    )
    assert done.returncode == 0
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    parts = {"lws", "end_to_end", "evaluation", "loss_curve", "profile", "candidates"}
    assert set(found) == {"ops", "step", "loader", "tune", *parts}
    summary = (tmp_path / "summary.md").read_text()
    assert "Without figures: switches, networks." in summary  # left out of the quick run
    assert summary.count("\n## ") == 8
    assert found["end_to_end"]["memory"]["images_per_s"] > 0
    assert found["end_to_end"]["plain"]["images_per_s"] > 0
    assert found["evaluation"]["compiled"]["compiles"]
    assert found["evaluation"]["num_graphs"] == 1  # none for the smaller last batch
    assert found["evaluation"]["compiled"]["head"] == found["evaluation"]["eager"]["head"]
    assert sum(kernel["share"] for kernel in found["profile"]["kernels"]) == pytest.approx(1, abs=0.2)
    assert sum("images_per_s" in row for row in found["candidates"].values() if isinstance(row, dict)) == 10
    assert found["tune"]["best"]["num_threads"] == 1
    assert found["loss_curve"]["resnet8"]["largest_gap"] < 0.5
    assert len(found["step"]["results"]) == 2


@pytest.mark.slow
def test_a_part_is_run_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--device", "cpu", "--quick", "--only"]
    settings: Any = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "timeout": 200, "check": False}
    done = subprocess.run([*command, "profile", "everything"], capture_output=True, text=True, **settings)
    assert done.returncode == 2
    assert "--only: got everything; choose of ops, step" in done.stdout
    assert subprocess.run([*command, "profile"], **settings).returncode == 0
    assert [path.name for path in tmp_path.glob("*.json")] == ["profile.json"]
    assert "Where the step's time goes" in (tmp_path / "summary.md").read_text()
