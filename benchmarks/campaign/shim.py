"""Compile faults.c, load it, and tell it which call is to fail."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")
LIBRARY = "FAULTS_LIBRARY"
MODES = ("full", "eio", "short", "before", "after")
KILLS = ("before", "after")
_STATE = struct.Struct("ll16s496s")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the library saw: how many calls, how many it made fail, and the call that was aimed at."""

    count: int
    hits: int
    call: str
    path: Path


def build(folder: Path) -> Path:
    """Compile the library into a folder."""
    library = folder / "faults.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


@contextlib.contextmanager
def loaded() -> Iterator[Path]:
    """Run this program again with the library loaded, unless it is; then yield a temporary folder."""
    if LIBRARY not in os.environ:
        library = build(Path(tempfile.mkdtemp(prefix="campaign-")).resolve())
        added = {"LD_PRELOAD": str(library), LIBRARY: str(library), "OMP_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, "-m", __package__, *sys.argv[1:]], {**os.environ, **added})
    folder = Path(os.environ[LIBRARY]).parent
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settings(root: Path, state: Path, mode: str = "none", at: int = 0) -> dict[str, str]:
    """Return the environment of a command whose `at`-th call below `root` is to fail, with a fresh state file."""
    state.write_bytes(bytes(_STATE.size))
    return {"FAULTS_ROOT": str(root), "FAULTS_STATE": str(state), "FAULTS_MODE": mode, "FAULTS_AT": str(at)}


def arm(environment: dict[str, str]) -> None:
    """Let calls of this process, forked from one with the library, be counted and fail."""
    os.environ.update(environment)
    ctypes.CDLL(os.environ[LIBRARY]).faults_arm()


def seen(state: Path) -> Seen:
    """Read what the library saw."""
    count, hits, call, path = _STATE.unpack(state.read_bytes())
    texts = [os.fsdecode(text.partition(b"\0")[0]) for text in (call, path)]
    return Seen(count=count, hits=hits, call=texts[0], path=Path(texts[1]))
