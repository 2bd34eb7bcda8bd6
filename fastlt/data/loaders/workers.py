"""Processes that make batches ahead in memory of their own; one that dies ends the iteration at once.

The batches do not pass through /dev/shm, which has 64 MB in a container and no room for them: they lie in anonymous
memory that parent and children share, which only the machine's memory limits.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...runtime.process import SIGNALS

Make = Callable[[int, NDArray[np.uint8]], Any]
PARENT_CHECK_S = 5.0
CAUSES = {
    "SIGKILL": ", perhaps for lack of memory",
    "SIGBUS": ", perhaps for lack of memory, or as a file shrank while it was read",
}


class _Failure(NamedTuple):
    error: BaseException


class Workers:
    """Processes that make the batches 0 .. num_batches - 1 in turn; a context manager that ends them.

    Batch b is made by process b % num_workers, which works on its next `depth` batches meanwhile.

    Args:
        make: Called in a process with a batch's number and memory to fill, uint8 [num_bytes]; what it returns, small,
            comes with the batch. Its errors are raised in the parent.
        num_batches: Number of batches.
        num_bytes: Bytes of the largest batch.
        num_workers: Number of processes.
        depth: Batches that each process keeps ready.
    """

    def __init__(self, make: Make, *, num_batches: int, num_bytes: int, num_workers: int, depth: int) -> None:
        self._make, self._num_batches, self._depth = make, num_batches, depth
        self._num_workers = max(1, min(num_workers, num_batches))
        # The system gives this memory page by page, as it is written
        self._memory = np.frombuffer(mmap.mmap(-1, self._num_workers * depth * num_bytes), np.uint8)
        self._places = self._memory.reshape(self._num_workers, depth, num_bytes)
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> Workers:
        # A parent that ends in the middle of an iteration would wait for them
        self._end = util.Finalize(self, _end, (self._processes, self._pipes), exitpriority=10)
        context = multiprocessing.get_context("fork")  # which is what shares the memory
        # Until they ignore them: those sent to all processes are for the parent, which saves its state and ends us
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            for number in range(self._num_workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=self._work, args=(number, theirs, [*self._pipes, ours]), daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
                self._pipes.append(ours)
        except BaseException:
            self._end()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], Any]]:
        """Yield each batch's memory and what came with it; the memory is overwritten when the next batch is asked for.

        Raises:
            ValueError: A process was killed; the message says which and by what.
        """
        for batch in range(self._num_batches):
            worker, turn = batch % self._num_workers, batch // self._num_workers
            result = self._receive(worker)
            if isinstance(result, _Failure):
                raise result.error
            yield self._places[worker, turn % self._depth], result
            with contextlib.suppress(OSError):  # it has died, which matters if another batch is due from it
                self._pipes[worker].send(None)

    def _receive(self, worker: int) -> Any:
        """Return the next thing that a process sends, as long as all live."""
        pipe = self._pipes[worker]
        ready = connection.wait([pipe, *(process.sentinel for process in self._processes)])
        with contextlib.suppress(EOFError, OSError):
            if pipe in ready:
                return pipe.recv()
        raise ValueError(self._loss())

    def _loss(self) -> str:
        """Return what there is to say about the first dead process."""
        dead = connection.wait([process.sentinel for process in self._processes], timeout=1)
        for process in self._processes:
            if process.sentinel in dead:
                process.join(1)
        codes = [process.exitcode for process in self._processes]
        number = next((number for number, code in enumerate(codes) if code is not None), 0)
        code, pid = codes[number], self._processes[number].pid
        cause = _name(-code) if code is not None and code < 0 else f"exit status {code}"
        return (
            f"--num-threads: got {cause} in loader process {number + 1} of {self._num_workers} (pid {pid})"
            f"{CAUSES.get(cause, '')}; expected all of them to live; give fewer --num-threads, or another --loader "
            "(train: go on with --resume)"
        )

    def _work(self, number: int, pipe: Connection, parents_ends: list[Connection]) -> None:
        """Make this process's batches, in the process."""
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for end in parents_ends:
            end.close()  # else the parent's death would go unnoticed
        with contextlib.suppress(EOFError, OSError):
            for turn, batch in enumerate(range(number, self._num_batches, self._num_workers)):
                if turn >= self._depth:
                    _wait_for_parent(pipe)
                _send(pipe, self._result(batch, self._places[number, turn % self._depth]))
            while True:
                _wait_for_parent(pipe)

    def _result(self, batch: int, memory: NDArray[np.uint8]) -> Any:
        try:
            return self._make(batch, memory)
        except BaseException as error:
            error.add_note(traceback.format_exc())
            return _Failure(error)


def _wait_for_parent(pipe: Connection) -> None:
    """Wait until the parent has taken a batch; raise an EOFError when it has ended."""
    parent = os.getppid()
    while not pipe.poll(PARENT_CHECK_S):
        if os.getppid() != parent:
            raise EOFError
    pipe.recv()


def _send(pipe: Connection, result: Any) -> None:
    """Send a result, or what is left of an error that cannot be sent."""
    try:
        pipe.send(result)
    except (TypeError, AttributeError, ValueError) as error:
        cause = result.error if isinstance(result, _Failure) else error
        pipe.send(_Failure(RuntimeError(f"{type(cause).__name__}: {cause}")))


def _end(processes: list[BaseProcess], pipes: list[Connection]) -> None:
    """End the processes, whatever they do."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    for pipe in pipes:
        pipe.close()


def _name(signum: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(signum).name
    return f"signal {signum}"
