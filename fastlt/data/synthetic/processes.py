"""Paint many images in worker processes, which any program can start, even without a `__main__` guard."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ...runtime.machine import resolve_threads
from ...runtime.process import PARENT, end_with_parent
from .painting import Look, Style, paint

_CHUNK = 64
_DONE = "done"
_ENDED = "a painting process ended early"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Images of one class to paint.

    Attributes:
        style: What the class looks like.
        folder: The folder to write to, relative to the data set; it must exist.
        stream: The split's number, part of the key of every draw.
        label: The class.
        start: First image.
        stop: One past the last image.
    """

    style: Style
    folder: str
    stream: int
    label: int
    start: int
    stop: int


def image_name(number: int) -> str:
    """Return the name of an image's file in its class folder."""
    return f"{number:06d}.jpg"


def paint_all(
    tasks: Iterable[Task],
    out: Path,
    *,
    look: Look,
    fonts: Path,
    seed: int,
    num_workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Paint the images of all tasks. Existing images are kept, so that an interrupted call can be repeated.

    Args:
        tasks: What to paint.
        out: The folder of the data set.
        look: How to paint.
        fonts: The folder of the font files.
        seed: Key of all draws.
        num_workers: Processes; by default one per processor, at most 16; 1 paints in this process.
        progress: Called with the number of images done since its last call.

    Raises:
        OSError: An image could not be written; for a full disk the message says how to continue.
    """
    chunks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    num_chunks = 0
    for task in tasks:
        for start in range(task.start, task.stop, _CHUNK):
            stop = min(start + _CHUNK, task.stop)
            chunks.put(
                Task(
                    style=task.style,
                    folder=task.folder,
                    stream=task.stream,
                    label=task.label,
                    start=start,
                    stop=stop,
                )
            )
            num_chunks += 1
    workers = max(1, min(resolve_threads(num_workers), num_chunks))
    tell = progress or (lambda count: None)
    if workers == 1:
        for _ in range(num_chunks):
            task = chunks.get()
            try:
                _paint_task(task, out, look, fonts, seed)
            except OSError as error:
                raise _explain(error, out) from None
            tell(task.stop - task.start)
        return

    results: queue.SimpleQueue[int | OSError] = queue.SimpleQueue()
    setting = {"out": str(out), "look": asdict(look), "fonts": str(fonts), "seed": seed}
    command = [sys.executable, "-c", f"from {__name__} import work; work()"]
    painters = [
        # In their own sessions, so that Ctrl-C reaches only this process, which then ends them
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
            start_new_session=True,
        )
        for _ in range(workers)
    ]
    threads = [
        threading.Thread(target=_serve, args=(painter, setting, chunks, results), daemon=True) for painter in painters
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in range(num_chunks):
            result = results.get()
            if isinstance(result, OSError):
                raise _explain(result, out)
            tell(result)
    finally:
        for painter in painters:
            painter.kill()
            painter.wait()
        for thread in threads:
            thread.join()
        for painter in painters:
            for pipe in (painter.stdin, painter.stdout):
                # Input that a dead painter has not read can no longer be flushed
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()


def work() -> None:
    """Paint the tasks that arrive on standard input, each as a line of JSON, until it or the parent ends."""
    end_with_parent()
    setting = json.loads(sys.stdin.readline())
    fields = setting["look"]
    fields.update({name: tuple(fields[name]) for name in ("extent", "ink", "ground")})
    look = Look(**fields)
    for line in sys.stdin:
        fields = json.loads(line)
        style = fields.pop("style")
        style["ink"] = None if style["ink"] is None else tuple(style["ink"])
        try:
            _paint_task(
                Task(style=Style(**style), **fields),
                Path(setting["out"]),
                look,
                Path(setting["fonts"]),
                setting["seed"],
            )
            reply = _DONE
        except OSError as error:
            reply = json.dumps([error.errno, error.strerror, error.filename])
        print(reply, flush=True)


def _environment() -> dict[str, str]:
    """Return an environment in which painters import this very package, compute in one thread and end with us."""
    package_home = str(Path(__file__).resolve().parents[3])
    paths = [package_home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", PARENT: str(os.getpid())}


def _serve(
    painter: subprocess.Popen[str],
    setting: dict[str, object],
    chunks: queue.SimpleQueue[Task],
    results: queue.SimpleQueue[int | OSError],
) -> None:
    """Give one painter chunk after chunk, and pass on its replies."""
    assert painter.stdin is not None
    assert painter.stdout is not None
    try:
        painter.stdin.write(json.dumps(setting) + "\n")
        while True:
            try:
                task = chunks.get_nowait()
            except queue.Empty:
                return
            painter.stdin.write(json.dumps(asdict(task)) + "\n")
            painter.stdin.flush()
            reply = painter.stdout.readline().strip()
            if reply == _DONE:
                results.put(task.stop - task.start)
            else:
                results.put(OSError(*json.loads(reply)) if reply else OSError(errno.EPIPE, _ENDED))
                return
    except (OSError, ValueError) as error:
        results.put(OSError(errno.EPIPE, f"{_ENDED} ({error})"))


def _paint_task(task: Task, out: Path, look: Look, fonts: Path, seed: int) -> None:
    folder = out / task.folder
    partial = folder / f".{os.getpid()}.partial"
    try:
        for number in range(task.start, task.stop):
            file = folder / image_name(number)
            if file.is_file() and file.stat().st_size:  # a power cut may leave an empty one
                continue
            partial.write_bytes(
                paint(task.style, look, fonts, seed=seed, stream=task.stream, label=task.label, number=number)
            )
            partial.replace(file)
    except OSError as error:
        # Not the temporary file that the error names, if any
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(folder)) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _explain(error: OSError, out: Path) -> OSError:
    """Return an error that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space and repeat the command, which continues there"
        return OSError(error.errno, f"the disk is full ({error.strerror}); {remedy}", error.filename or out)
    remedy = "expected a folder that can be written"
    return OSError(error.errno, f"cannot write images ({error.strerror}); {remedy}", error.filename or out)
