"""Processes that make batches: their order, their errors, and their deaths."""

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlt.data.loaders.base import ahead
from fastlt.data.loaders.workers import Workers

SIZE = 100


def write_number(batch: int, memory: np.ndarray) -> int:
    memory[:] = batch
    return 10 * batch


def start(make: Callable[[int, np.ndarray], Any] = write_number, *, num_batches: int = 7, **options: int) -> Workers:
    settings = {"num_bytes": SIZE, "num_workers": 2, "depth": 2, **options}
    return Workers(make, num_batches=num_batches, **settings)


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait up to ten seconds."""
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("num_workers", "depth"), [(1, 1), (2, 2), (3, 1), (20, 4)])
def test_batches_come_in_order_from_any_number_of_processes(num_workers: int, depth: int) -> None:
    with start(num_workers=num_workers, depth=depth) as workers:
        seen = [(pixels.copy(), said) for pixels, said in workers]
    assert [said for _, said in seen] == [0, 10, 20, 30, 40, 50, 60]
    assert all((pixels == number).all() and len(pixels) == SIZE for number, (pixels, _) in enumerate(seen))


def test_processes_work_ahead_and_no_further() -> None:
    made = multiprocessing.get_context("fork").Value("i", 0)

    def make(batch: int, memory: np.ndarray) -> None:
        with made.get_lock():
            made.value += 1

    with start(make, num_batches=50, num_workers=2, depth=3) as workers:
        batches = iter(workers)
        next(batches)
        assert eventually(lambda: made.value == 6)
        time.sleep(0.1)
        assert made.value == 6
        next(batches)
        assert eventually(lambda: made.value == 7)


def kill(signum: int) -> Callable[[], None]:
    def die() -> None:
        faulthandler.disable()  # which would print the stack
        os.kill(os.getpid(), signum)

    return die


@pytest.mark.parametrize(
    ("die", "cause"),
    [
        (kill(signal.SIGBUS), "SIGBUS"),
        (kill(signal.SIGKILL), "SIGKILL.*memory"),
        (lambda: os._exit(3), "exit status 3"),
    ],
)
def test_a_process_that_dies_is_an_error_that_names_it(die: Callable[[], None], cause: str) -> None:
    def make(batch: int, memory: np.ndarray) -> int:
        if batch == 3:
            die()
        return batch

    with start(make, depth=1) as workers:
        batches = iter(workers)
        assert [said for _, said in (next(batches), next(batches))] == [0, 1]
        with pytest.raises(ValueError, match=rf"^--num-threads: got {cause}\b") as caught:
            list(batches)
    assert "loader process 2 of 2" in str(caught.value)


def test_a_death_is_noticed_while_another_process_hangs() -> None:
    def make(batch: int, memory: np.ndarray) -> int:
        if batch == 1:
            kill(signal.SIGBUS)()
        time.sleep(1000)
        return batch

    began = time.monotonic()
    with start(make) as workers, pytest.raises(ValueError, match=r"SIGBUS in loader process 2 of 2\b"):
        next(iter(workers))
    assert time.monotonic() - began < 30


def test_a_signal_ends_the_wait_and_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Stopped), start(lambda batch, memory: time.sleep(1000)) as workers:
            next(iter(workers))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert not multiprocessing.active_children()


def test_errors_arrive_as_they_are_or_in_words() -> None:
    class LocalError(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("cannot be pickled")

    for error, kind, words in (
        (ValueError("--x: got y"), ValueError, "--x: got y"),
        (KeyError("absent"), KeyError, "absent"),
        (MemoryError("no room"), MemoryError, "room"),
        (FileNotFoundError(2, "No such file", "a.jpg"), FileNotFoundError, "a.jpg"),
        (LocalError("own"), RuntimeError, "LocalError: own"),
    ):

        def make(batch: int, memory: np.ndarray, error: Exception = error) -> None:
            raise error

        with start(make) as workers, pytest.raises(kind, match=words):
            next(iter(workers))


def test_an_iteration_left_early_ends_its_processes() -> None:
    with start(num_batches=100) as workers:
        next(iter(workers))
    assert not multiprocessing.active_children()
    forgotten = start(num_batches=100).__enter__()
    next(iter(forgotten))
    del forgotten
    gc.collect()
    assert eventually(lambda: not multiprocessing.active_children())


SCRIPT = """
import os, sys, time
from fastlt.data.loaders.workers import Workers

def make(batch, memory):
    return os.getpid()

workers = Workers(make, num_batches=100, num_bytes=10, num_workers=2, depth=2).__enter__()
batches = iter(workers)
print(next(batches)[1], next(batches)[1], flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("how", ["the script ends", "SIGKILL"])
def test_processes_end_with_the_program(how: str) -> None:
    delay = "0" if how == "the script ends" else "1000"
    program = subprocess.Popen([sys.executable, "-c", SCRIPT, delay], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    pids = [int(word) for word in program.stdout.readline().split()]
    assert len(set(pids)) == 2
    if how == "SIGKILL":
        program.kill()
    program.wait(30)
    program.stdout.close()

    def ended(pid: int) -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
        return True

    assert eventually(lambda: all(map(ended, pids)))


def test_a_thread_that_ended_without_a_word_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.data.loaders.base.threading.Thread.run", lambda self: None)
    with pytest.raises(RuntimeError, match="counting"):
        next(ahead(iter(range(3)), depth=1, name="counting"))
