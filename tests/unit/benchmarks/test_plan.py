"""Inductor's plan of a training step for an H200, at small depth: what it launches and moves, and in which layout."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Rows of the plan by variant: one block, in a process of its own, since it pretends to have a GPU."""
    out = tmp_path_factory.mktemp("plan") / "rows.json"
    command = [sys.executable, "-m", "benchmarks.plan", "--blocks", "1", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    return {row["variant"]: row for row in json.loads(out.read_text())}


@pytest.mark.slow
def test_the_default_step_jitters_by_our_operation_in_two_launches(rows: dict[str, Any]) -> None:
    before, default = rows["before"], rows["default"]
    assert "fastlt::jittered" not in before["kinds"]
    assert default["kinds"]["fastlt::jittered"]["launches"] == 2
    assert default["launches"] < before["launches"]
    assert default["mb_an_image"] < before["mb_an_image"]


@pytest.mark.slow
def test_the_candidates_for_a_gpu_launch_and_move_less(rows: dict[str, Any]) -> None:
    default, norm, combos = (rows[name] for name in ("default", "batch norm", "combo kernels"))
    assert combos["launches"] < default["launches"]
    assert rows["max pool"]["mb_an_image"] < default["mb_an_image"]
    assert rows["together"]["mb_an_image"] < norm["mb_an_image"]
    assert rows["together"]["launches"] < norm["launches"]
    # Three kernels of the operation for each of the five layers, which the plan counts by running the launchers
    assert norm["kinds"]["fastlt::batch_norm_relu"]["launches"] == 15
    assert norm["kinds"]["fastlt::batch_norm_relu_backward"]["launches"] == 15


@pytest.mark.slow
def test_every_convolution_is_in_channels_last_forward_and_backward(rows: dict[str, Any]) -> None:
    assert [row["not_channels_last"] for row in rows.values()] == [[]] * len(rows)


CONTIGUOUS = """
import json, sys
from benchmarks.plan.fake_gpu import DEVICE, Lowered, FakeTensorMode, lowering, on_the_card, pretend
pretend()
import torch
from benchmarks.plan.launches import not_channels_last
from fastlt.runtime.compiling import Compiler
network = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, groups=4), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
with lowering() as graphs, FakeTensorMode():
    compiled = torch.compile(on_the_card(network), dynamic=False, options=Compiler().options | json.loads(sys.argv[1]))
    try:
        compiled(torch.empty(2, 8, 9, 9, device=DEVICE))
    except Lowered:
        print(json.dumps([not_channels_last(graph) for graph in graphs]))
"""


def test_our_switch_makes_it_so() -> None:
    def contiguous(**options: bool) -> Any:
        command = [sys.executable, "-c", CONTIGUOUS, json.dumps(options)]
        return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)

    assert contiguous() == [[], []]
    forward, backward = contiguous(force_layout_optimization=False)
    assert backward == ["convolution_backward", "convolution_backward_1"]
    assert forward == ["convolution", "convolution_1"]
