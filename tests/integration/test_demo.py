"""The promise on the README's first screen: the demo, whole."""

import json
import sys
from pathlib import Path

import pytest
import torch

from fastlt import cli
from fastlt.config import METHODS


@pytest.mark.slow
def test_the_demo_shows_the_papers_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fastlt", "demo", "--json", "results.json", "--out", "run"])
    torch.set_num_threads(2)
    try:
        cli.main()
    finally:
        torch.set_num_threads(1)
    rows = json.loads(Path("results.json").read_text())["results"]
    table = {row["method"]: row for row in rows if row["split"] == "test"}
    joint, tau = table["joint"], table["tau"]
    assert set(table) == {"joint", *METHODS}
    gains = {name: row["class_mean"]["value"] - joint["class_mean"]["value"] for name, row in table.items()}
    assert min(gains[name] for name in METHODS) >= 4, gains
    assert tau["selected_on"] == "val"
    assert tau["all"]["value"] - joint["all"]["value"] >= 4
    assert tau["few"]["value"] - joint["few"]["value"] >= 10
    last_epoch = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert last_epoch["train_accuracy"] > 90  # the joint network is converged, not crippled
    assert Path("run/report/index.html").is_file()
