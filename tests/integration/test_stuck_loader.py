"""Commands whose loader dies or hangs: one line within seconds, and signals that act while a batch is awaited."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastlt import Run

SCRIPT = """
import json, os, signal, sys, threading, time
from pathlib import Path
from fastlt import cli
from fastlt.data.loaders import pillow

how, number, after, commands = json.loads(sys.argv[1])
read, parent, marker, seen = pillow.read_or_reason, os.getpid(), Path("marker").absolute(), 0

def stuck(dataset, index):
    global seen
    if os.getpid() != parent:
        seen += 1
        if seen > after:
            if how == "die":
                os.kill(os.getpid(), number)
            marker.touch()
            time.sleep(1000)
    return read(dataset, index)

def send():
    while not marker.exists():
        time.sleep(0.05)
    marker.unlink()
    time.sleep(0.3)  # the parent waits now
    os.kill(parent, number)

pillow.read_or_reason = stuck
for command in commands:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)  # the previous command ignored them in the end
    if how == "hang":
        threading.Thread(target=send, daemon=True).start()
    sys.argv = ["fastlt", *command]
    status = 0
    try:
        cli.main()
    except SystemExit as stop:
        status = stop.code
    print(f"status {status}", file=sys.stderr, flush=True)
"""
pytestmark = pytest.mark.slow
TRAIN = "train --dataset folder --backbone resnet8 --epochs 2 --batch-size 32 --lr 0.1 --image-size 32"
HERE = "--device cpu --num-threads 1 --loader pillow"
BATCH = 32


def statuses(folder: Path, how: str, number: int, commands: list[str], *, after: int = 0) -> list[tuple[str, str]]:
    """Return (last line of standard error, status) of each command, whose loader's first process dies or hangs."""
    script = [sys.executable, "-c", SCRIPT, json.dumps([how, number, after, [line.split() for line in commands]])]
    with (folder / "err").open("w") as stderr:
        process = subprocess.Popen(
            script, cwd=folder, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
        )
        try:
            out, _ = process.communicate(timeout=100)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    lines = (folder / "err").read_text().splitlines()
    places = [index for index, line in enumerate(lines) if line.startswith("status ")]
    found = [(lines[index - 1] if index else "", lines[index]) for index in places]
    assert len(found) == len(commands), (out, lines)
    return [
        (f"{said}\n{out}" if "benchmark" in line else said, end)
        for line, (said, end) in zip(commands, found, strict=True)
    ]


def commands(run: Run, data_root: Path) -> list[str]:
    """Return every command that loads images; the run has no features yet."""
    return [
        f"{TRAIN} {HERE} --data-root {data_root} --out new",
        f"evaluate {run.path} {HERE}",
        f"rebalance {run.path} --method ncm {HERE}",
        f"predict {run.path} {data_root / 'test'} {HERE}",
        "benchmark loader --images 16 --batch-size 8 --image-size 32 --device cpu --num-threads 1",
    ]


def test_a_dead_loader_process_ends_every_command_with_a_line(run_copy: Run, data_root: Path, tmp_path: Path) -> None:
    *ends, benchmark = statuses(tmp_path, "die", signal.SIGKILL, commands(run_copy, data_root))
    for said, status in ends:
        assert status == "status 2"
        assert said.startswith("fastlt: --num-threads: got SIGKILL in loader process 1 of 1 ")
    assert benchmark[1] == "status 0"  # the other loaders are timed
    assert "pillow: --num-threads: got SIGKILL" in benchmark[0]
    assert "\nplain DataLoader" in benchmark[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_every_command_while_it_waits(
    run_copy: Run, data_root: Path, tmp_path: Path, number: int
) -> None:
    lines = commands(run_copy, data_root)
    chosen = lines if number == signal.SIGTERM else lines[:2]
    for said, status in statuses(tmp_path, "hang", number, chosen):
        assert status == f"status {128 + number}"
        assert said.startswith("fastlt: ")


def test_a_training_that_waits_saves_what_it_has(data_root: Path, tmp_path: Path) -> None:
    train = f"{TRAIN} {HERE} --data-root {data_root}"
    ((said, status),) = statuses(tmp_path, "hang", signal.SIGTERM, [f"{train} --out new"], after=5 * BATCH)
    assert status == "status 143"
    assert "stopped by SIGTERM at step 5 of " in said
    done = statuses(tmp_path, "", 0, [f"{train} --out new --resume", f"{train} --out whole"], after=10**9)
    assert [status for _, status in done] == ["status 0", "status 0"]
    weights = [(tmp_path / name / "checkpoints" / "best.safetensors").read_bytes() for name in ("new", "whole")]
    assert weights[0] == weights[1]


def can_mount() -> bool:
    """Return whether this process may give a child a /dev/shm of its own."""
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /dev/shm"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
def test_a_small_dev_shm_is_enough(run_copy: Run, data_root: Path, tmp_path: Path) -> None:
    script = (
        "mount -t tmpfs -o size=64k tmpfs /dev/shm && "
        f"{sys.executable} -m fastlt evaluate {run_copy.path} {HERE} --split test && "
        f"{sys.executable} -m fastlt benchmark loader --images 16 --batch-size 8 --device cpu --num-threads 1"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "plain DataLoader: it may need 10 MB of /dev/shm, which has 0 MB free" in done.stdout
