"""Commands in unusual surroundings: they work, or say in a line what to set."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fastlt import Run

STRANGE = "狐 [red] \x1b[31m"
NOBODY = ("unshare", "--user", "--map-user=54321")
"""Runs a command as a user whom the system does not know, without rights beyond those of the owner of the files."""


def can_be_nobody() -> bool:
    return shutil.which("unshare") is not None and subprocess.run([*NOBODY, "true"], check=False).returncode == 0


needs_nobody = pytest.mark.skipif(not can_be_nobody(), reason="the system does not let users change into others")


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run `fastlt` in a child process in the test's folder; a setting of None is taken out of the environment."""

    def run(
        *arguments: object, through: tuple[str, ...] = (), **settings: str | None
    ) -> subprocess.CompletedProcess[bytes]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "FASTLT_CACHE": str(tmp_path / "cache")} | settings
        command = [*through, sys.executable, "-m", "fastlt", *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            check=False,
            env={name: value for name, value in environment.items() if value is not None},
        )

    return run


Call = Callable[..., subprocess.CompletedProcess[bytes]]


@needs_nobody
def test_a_user_whom_nobody_knows_makes_a_report(run_copy: Run, tmp_path: Path, call: Call) -> None:
    (tmp_path / "tmp").mkdir()
    settings = {"HOME": None, "FASTLT_CACHE": None, "XDG_CACHE_HOME": None, "TMPDIR": str(tmp_path / "tmp")}
    done = call("report", run_copy.path, through=NOBODY, **settings)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"set FASTLT_CACHE" in done.stdout
    assert (run_copy.path / "report/index.html").is_file()


@pytest.fixture
def strange_names(tmp_path: Path) -> Path:
    """Two classes whose names hold what a terminal must not be sent, markup, and bytes that are no text."""
    root = tmp_path / "images"
    for split in ("train", "val"):
        for name in (STRANGE.encode(), b"bad\xff"):
            folder = os.path.join(os.fsencode(root), split.encode(), name)  # noqa: PTH118 - pathlib takes no bytes
            os.makedirs(folder)  # noqa: PTH103
            Image.new("RGB", (8, 8)).save(os.fsdecode(folder + b"/one.png"))
    return root


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"COLUMNS": "0"},
        {"COLUMNS": "1", "TERM": "dumb"},
    ],
)
def test_strange_names_are_shown_everywhere(settings: dict[str, str], strange_names: Path, call: Call) -> None:
    done = call("data", "info", strange_names, **settings)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"[red] \x1b[31m (1)" in done.stdout
    assert rb"bad\udcff (1)" in done.stdout
    assert b"\x1b" not in done.stdout


def test_a_deleted_working_folder_is_one_line(tmp_path: Path, call: Call) -> None:
    script = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    done = call("recipes", through=("sh", "-c", script, "sh"))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"fastlt: PWD: ")


def test_too_little_memory_is_one_line(run_copy: Run, call: Call) -> None:
    done = call("evaluate", run_copy.path, through=("sh", "-c", 'ulimit -v 400000; exec "$@"', "sh"))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"fastlt: ")
    assert done.stderr.count(b"\n") == 1


@needs_nobody
def test_a_folder_that_cannot_be_written_is_named_and_not_what_is_in_it(
    run_copy: Run, tmp_path: Path, call: Call
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    commands = {
        "new": ("data", "synth", locked / "new", "--classes", 2, "--images", 9, "--max", 6, "--min", 3),
        "out.json": ("recipes", "--json", locked / "out.json"),
    }
    for name, command in commands.items():
        done = call(*command, through=NOBODY)
        assert done.returncode == 2
        assert done.stderr.startswith(f"fastlt: {locked / name}: Permission denied".encode()), done.stderr
        assert done.stderr.count(b"\n") == 1
