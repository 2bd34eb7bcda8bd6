"""What a GPU run does with a part whose time is up."""

import argparse
import importlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlt.timing.step import VARIANTS

WORKER = "import subprocess, sys; w = subprocess.Popen(['sleep', '60']); print(w.pid, flush=True); w.wait()"


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture
def gpu(script: Callable[[str], Any]) -> Any:
    return script("gpu.__main__")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="asks Linux for processes")
def test_its_workers_end_with_it(gpu: Any, tmp_path: Path) -> None:
    args = argparse.Namespace(out=tmp_path, device="cpu")
    assert gpu.run("part", args, "-c", WORKER, limit_s=1.0) == 124
    worker = int((tmp_path / "part.txt").read_text())
    until = time.monotonic() + 5
    while is_alive(worker) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(worker)
    assert gpu.run("part", args, "-c", "raise SystemExit(3)", limit_s=30.0) == 3


def test_a_part_without_time_is_left_for_another_run(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def run(name: str, args: argparse.Namespace, *command: str, limit_s: float) -> int:
        ran.append(name)
        return 0

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "LIMIT_S", gpu.LEAST_S - 1)
    args = argparse.Namespace(out=tmp_path, device="cpu", quick=True, only=["step", "profile"])
    assert gpu.run_all(args) == 0
    assert ran == []
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: no time left; the same command goes on with it" for name in ("step", "profile")
    ]


def test_the_same_command_goes_on_with_what_has_not_ended_well(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(name: str, args: argparse.Namespace, *command: str, limit_s: float) -> int:
        ran.append(name)
        return 124 if name == "profile" and ran.count(name) == 1 else 0

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "has_dali", lambda: False)
    args = argparse.Namespace(out=tmp_path, device="cpu", quick=True, only=None)
    names = [name for name, _, _ in gpu.jobs(args) if name != "tune"]  # nothing to tune without it
    assert gpu.run_all(args) == 1
    checks, timed = ran[: 1 + len(gpu.CHECKS)], ran[1 + len(gpu.CHECKS) :]
    assert set(checks) == {"correctness", *gpu.CHECKS}
    assert timed == [name for name in names if name not in gpu.CHECKS]
    assert gpu.run_all(args) == 0
    assert gpu.run_all(args) == 0
    assert ran[len(names) + 1 :] == ["correctness", "profile", "correctness"]
    args.only = ["step"]
    assert gpu.run_all(args) == 0
    assert ran[-1] == "step"


def test_the_variants_that_only_a_gpu_times_exist(gpu: Any) -> None:
    assert {variant for _, variants in gpu.MATRIX.values() for variant in variants} <= {*VARIANTS}


def test_what_the_wanted_parts_time_is_compiled_ahead_in_their_order(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = importlib.import_module("benchmarks.gpu.parts")
    ahead = importlib.import_module("benchmarks.gpu.compile_ahead")
    compiled: list[Any] = []

    def compile_all(steps: list[Any], device: str, batch_size: int, image_size: int) -> Iterator[Any]:
        compiled.extend(steps)
        yield steps[0], 0.0, "no compiler"

    monkeypatch.setattr(ahead, "compile_all", compile_all)
    args = argparse.Namespace(device="cpu", quick=False, ahead=["profile", "step", "candidates", "switches"])
    [figures] = list(parts.part_compile(args))
    assert figures == {
        "steps": [{"backbone": "resnext50_32x4d", "variant": "fastlt", "candidate": "", "error": "no compiler"}]
    }
    assert [step.variant for step in compiled if not step.candidate] == [
        "fastlt",
        "torchvision compiled",
        "fastlt CUDA graphs",
        "fastlt deterministic",
        "fastlt NCHW",
    ]
    candidates = importlib.import_module("benchmarks.gpu.candidates")
    assert [step.candidate for step in compiled[2:-3]] == [*candidates.CANDIDATES, *candidates.INDUCTOR]


def test_choices_made_while_others_ran_are_forgotten(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, choice = tmp_path / "ab" / "kernel.py", tmp_path / "ab" / "kernel.best_config"
    kept.parent.mkdir()

    def run(name: str, args: argparse.Namespace, *command: str, limit_s: float) -> int:
        if name == "compile":
            kept.touch()
            choice.touch()
        else:
            assert name in ("correctness", *gpu.CHECKS) or not choice.exists()
        return 0

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "CACHE", tmp_path)
    args = argparse.Namespace(out=tmp_path, device="cpu", quick=True, only=None)
    assert gpu.run_all(args) == 0
    assert kept.exists()


@pytest.mark.parametrize("wrong", [False, True])
def test_only_what_is_right_gets_timed(gpu: Any, wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run(name: str, args: argparse.Namespace, *command: str, limit_s: float) -> int:
        ran.append(name)
        return int(wrong and name == "correctness")

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu, "has_dali", lambda: True)
    args = argparse.Namespace(out=tmp_path, device="cpu", quick=True, only=None)
    assert gpu.run_all(args) == int(wrong)
    checks = {"correctness", *gpu.CHECKS}
    assert set(ran[: len(checks)]) == checks
    assert set(ran[len(checks) :]) == (set() if wrong else {name for name, _, _ in gpu.jobs(args)} - checks)


def test_a_part_that_there_is_not_is_refused(gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = argparse.Namespace(out=tmp_path, device="cpu", quick=True, only=["profile", "everything"])
    assert gpu.run_all(args) == 2
    assert re.search("^--only: got everything.* profile", capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
