"""Run something in a child of its own: forked from this warm process, or a new Python; and say how it ended."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 124
LOGS = ("stdout.txt", "stderr.txt")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended: its status (minus a signal's number; 124 for one that took too long), its output, its cost."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    peak_mb: float
    """Most memory above that of this process when it forked."""

    def describe(self) -> str:
        """Return the status and the end of the output, in one line."""
        if self.status == TIMEOUT:
            return f"still running after {self.seconds:.0f} s"
        how = signal.Signals(-self.status).name if self.status < 0 else f"status {self.status}"
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return " ".join([how, *lines[-1:]])[:300]


class Child:
    """A forked child in a process group of its own.

    Args:
        call: What it runs; a SystemExit is its status, another exception is status 1. This process must have one
            thread only, since a fork copies no others.
        logs: A folder for its output.
        cpu_s: Seconds of processor time until it is killed.
    """

    def __init__(self, call: Callable[[], Any], logs: Path, *, cpu_s: int | None = None) -> None:
        logs.mkdir(exist_ok=True)
        self.logs, self.before_kb, self.began = logs, resident_kb(), time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(run_child(call, logs, cpu_s))
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)

    def runs(self) -> bool:
        """Return whether it has not ended yet."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self, wall_s: float) -> Outcome:
        """Wait for its end, or end it when the time is up; and end what is left of its group."""
        with killing(self.pid, wall_s) as killed:
            _, code, usage = os.wait4(self.pid, 0)
        end_group(self.pid)
        status = os.waitstatus_to_exitcode(code)
        return Outcome(
            status=TIMEOUT if killed or status == -signal.SIGXCPU else status,
            stdout=(self.logs / LOGS[0]).read_text(errors="replace"),
            stderr=(self.logs / LOGS[1]).read_text(errors="replace"),
            seconds=time.monotonic() - self.began,
            peak_mb=max(0, usage.ru_maxrss - self.before_kb) / 1024,
        )


def program(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Callable[[], Any]:
    """Return a function for a child that becomes a new Python with the repository's modules."""

    def call() -> None:
        os.chdir(folder)
        os.execve(sys.executable, [sys.executable, *command], {**os.environ, "PYTHONPATH": str(ROOT), **environment})

    return call


def fork(call: Callable[[], Any], logs: Path, *, wall_s: float, cpu_s: int | None = None) -> Outcome:
    """Run a function in a child, and wait for it."""
    return Child(call, logs, cpu_s=cpu_s).wait(wall_s)


def run_child(call: Callable[[], Any], logs: Path, cpu_s: int | None) -> int:
    """Run a function in this forked child; return its status."""
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for descriptor, name in enumerate(LOGS, 1):
            file = os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, descriptor)
            os.close(file)
        if cpu_s is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
        call()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return status


@contextlib.contextmanager
def killing(group: int, wall_s: float) -> Iterator[list[int]]:
    """Kill a process group when the time is up; yield a list that is then not empty."""
    killed: list[int] = []

    def ring(signum: int, _: object) -> None:
        killed.append(signum)
        end_group(group)

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, wall_s)
    try:
        yield killed
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def end_group(group: int) -> None:
    """Kill a process group, of which usually nothing is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def resident_kb() -> int:
    """Return this process's memory, kB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024
