"""The three calls for a GPU machine run all their rows, here on a CPU and at toy sizes."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLES = {
    "a": {"ceilings", "checks", "operations", "stage 2", "layers", "features", "inputs", "fusions"},
    "b": {"ceilings", "checks", "compile", "step", "profile", "end to end", "rivals", "batches"},
    "c": {
        "ceilings",
        "checks",
        "compile",
        "candidates",
        "more candidates",
        "networks",
        "switches",
        "loss curve",
        "inputs",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("call", TABLES)
def test_every_row_of_a_call_has_figures(call: str, tmp_path: Path) -> None:
    archive = tmp_path / "back" / "results.tar.gz"
    command = [sys.executable, "-m", "benchmarks.gpu", "--call", call, "--out", str(tmp_path / "out")]
    command += ["--archive", str(archive), "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300, check=False)
    assert done.returncode == 0
    with tarfile.open(archive) as packed:
        assert packed.getnames() == ["results.jsonl", "summary.md", "log.txt"]
        content = packed.extractfile("results.jsonl")
        assert content is not None
        lines = [json.loads(line) for line in content.read().splitlines()]
    assert (tmp_path / "out" / "results.jsonl").read_text().count("\n") == len(lines)
    figures = [line for line in lines if "name" in line]
    ended = {line["row"] for line in lines if "ended_s" in line}
    assert {line["row"] for line in figures} == ended
    assert {row.partition(": ")[0] for row in ended} == TABLES[call] | {"machine"}
    assert [line for line in lines if line.get("error") or line.get("unverified") or line.get("ok") is False] == []
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "did not end well" not in summary
    assert all(f"## {table}\n" in summary for table in TABLES[call])
    rates = [line["images_per_s"] for line in figures if "images_per_s" in line]
    assert all(rate > 0 for rate in rates)
    if call == "a":
        assert "All together:" in summary
    else:
        assert rates
