"""Runs a call's rows in a worker process, keeps every figure at once, and goes on where a row crashes or hangs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from fastlt.files import replacing

from .machine import ROOT, Sensors
from .summary import MACHINE, page, unverified

Message = dict[str, Any]

START_S = 240  # importing PyTorch and the rows, on a machine that has never done it
PATIENCE_S, POLL_S = 5, 0.5  # for an orderly end; between looks at a silent process
SENSED_S = 2  # before a figure, when it was timed: what was compiled for it had come earlier
LOG_BYTES = 200_000  # of a log's end, in the archive
CACHE = Path(tempfile.gettempdir()) / "fastlt-benchmarks"  # compiled code, which a call's workers share
MODULES = tuple(f"benchmarks.gpu.{name}" for name in ("operations", "layers", "steps", "inputs"))


class Results:
    """The lines of a folder's results.jsonl, with the page and the archive made of them.

    Args:
        out: The folder; lines that are there are kept.
        archive: A .tar.gz of everything, or None.
    """

    def __init__(self, out: Path, archive: Path | None) -> None:
        self.out, self.archive, self.lines, self.renewed = out, archive, [], 0
        out.mkdir(parents=True, exist_ok=True)
        self.file, self.log = out / "results.jsonl", out / "log.txt"
        if self.file.is_file():
            text = self.file.read_text(encoding="utf-8", errors="replace")
            for line in text.splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # cut short by an earlier end
                    self.lines.append(json.loads(line))
            if text and not text.endswith("\n"):  # the next line must not become a part of it
                with self.file.open("a", encoding="utf-8") as file:
                    file.write("\n")

    def add(self, line: Message) -> None:
        """Keep a line; where it cannot be written, as on a full disk, it is printed."""
        self.lines.append(line)
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            print(f"{error}: {json.dumps(line)}", flush=True)

    def note(self, text: str) -> None:
        """Add a text to the log."""
        with self.log.open("a", encoding="utf-8", errors="replace") as file:
            file.write(text)

    def renew(self, *, anyway: bool = False) -> None:
        """Make page and archive anew, if there are new lines; or anyway, since the log may say more."""
        if self.renewed == len(self.lines) and not anyway:
            return
        self.renewed = len(self.lines)
        for make in (self.write_page, self.pack):
            try:
                make()
            except Exception as error:  # the next figures are worth more
                print(f"{make.__name__}: {type(error).__name__}: {error}", flush=True)

    def write_page(self) -> None:
        """Write summary.md."""
        with replacing(self.out / "summary.md") as partial:
            partial.write_text(page(self.lines), encoding="utf-8", errors="replace")  # of an error's message

    def pack(self) -> None:
        """Write the archive."""
        if self.archive is not None:
            self.archive.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.archive) as partial, tarfile.open(partial, "w:gz") as archive:
                for path in (self.file, self.out / "summary.md", self.log):
                    put(archive, path)

    def done(self) -> set[str]:
        """Return the rows that ended well."""
        ends = {line["row"]: line for line in self.lines if "ended_s" in line}
        return {name for name, line in ends.items() if not line["error"]}


def put(archive: tarfile.TarFile, path: Path) -> None:
    """Add a file's end to an archive, if there is such a file."""
    if path.is_file():
        content = path.read_bytes()[-LOG_BYTES if path.suffix == ".txt" else 0 :]
        entry = tarfile.TarInfo(path.name)
        entry.size, entry.mtime = len(content), int(time.time())
        archive.addfile(entry, io.BytesIO(content))


class Worker:
    """A process that measures rows; it ends, with all that it started, when the block ends.

    Args:
        arguments: Of `benchmarks.gpu.worker`.
        device: cuda or cpu.
        log: Where it prints.
    """

    def __init__(self, arguments: list[str], device: str, log: Path) -> None:
        self.messages: queue.Queue[Message | None] = queue.Queue()
        theirs = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        theirs |= {"TORCHINDUCTOR_CACHE_DIR": str(CACHE / "inductor"), "PYTHONUNBUFFERED": "1"}
        if device == "cpu":
            theirs["TRITON_INTERPRET"] = "1"
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "benchmarks.gpu.worker", "--channel", str(writing), *arguments]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=theirs, stdout=output, stderr=output, pass_fds=(writing,), process_group=0
            )
        os.close(writing)
        threading.Thread(target=self.listen, args=(reading,), daemon=True).start()

    def listen(self, reading: int) -> None:
        """Pass on what the process tells; None at its end."""
        with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(json.JSONDecodeError):  # it died as it wrote
                    self.messages.put(json.loads(line))
        self.messages.put(None)

    def is_silent(self) -> bool:
        """Return whether all that it told has been taken."""
        return self.messages.empty()

    def next(self, until: float) -> Message | None:
        """Return what the process tells next, None at its end, also if a child of it still could tell something.

        Raises:
            TimeoutError: It told nothing until this time of `time.monotonic`.
        """
        while True:
            ended, left_s = self.process.poll() is not None, until - time.monotonic()
            with contextlib.suppress(queue.Empty):
                return self.messages.get(timeout=max(0.0, min(left_s, POLL_S)))
            if ended:
                return None
            if left_s < POLL_S:
                raise TimeoutError

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, patience_s: float = 0.0) -> int | None:
        """End the process and its children, of which usually none is left; return its status, None if it cannot end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver that hangs may keep it
            self.process.wait(10)
        return self.process.returncode


class Call:
    """One call: its rows, one after the other, until they or the time are over.

    Args:
        arguments: Of the workers, without the rows to skip.
        device: cuda or cpu.
        results: Where figures go.
        sensors: The GPU's.
        limit_s: Seconds that all may take.
    """

    def __init__(self, arguments: list[str], device: str, results: Results, sensors: Sensors, limit_s: float) -> None:
        self.arguments, self.device, self.results, self.sensors = arguments, device, results, sensors
        self.ends = time.monotonic() + limit_s
        self.plan: dict[str, Message] = {}
        self.over = results.done() - {MACHINE}  # the same command once more may be on another one
        self.row: str | None = None
        self.began = self.since = time.monotonic()

    def run(self) -> bool:
        """Measure all rows that have no figures yet; return whether all of them ended well."""
        fruitless = 0
        while fruitless < 2 and time.monotonic() < self.ends:
            before = len(self.over)
            skip = ["--skip", *sorted(self.over)]
            with Worker([*self.arguments, *skip], self.device, self.results.log) as worker:
                ended = self.follow(worker)
            self.results.renew(anyway=True)
            if ended:
                break
            fruitless = fruitless + 1 if len(self.over) == before else 0
        left = [name for name in self.plan if name not in self.over]
        if left or not self.plan:
            print(f"left for the same command once more: {', '.join(left) or 'all'}", flush=True)
        return bool(self.plan) and self.plan.keys() <= self.results.done()

    def follow(self, worker: Worker) -> bool:
        """Keep what a worker tells until it ends, hangs or the time is over; return whether it came to its end."""
        self.row, self.began = None, time.monotonic()
        while True:
            if worker.is_silent():  # else many figures at once, as of checks, would wait for as many pages
                self.results.renew()
            limit_s = self.plan[self.row]["limit_s"] if self.row in self.plan else START_S
            until = min(self.began + limit_s, self.ends)
            try:
                message = worker.next(until)
            except TimeoutError:
                if self.row is not None:
                    why = "the call's time was over" if until == self.ends else "no end"
                    self.close(self.row, f"{why} after {time.monotonic() - self.began:.0f} s")
                return False
            if message is None:
                status = worker.end(PATIENCE_S)
                if self.row is not None:
                    self.close(self.row, f"the process ended with status {status}; log.txt says more")
                return False
            if "over" in message:
                worker.end(PATIENCE_S)
                return True
            self.take(message)

    def take(self, message: Message) -> None:
        """Keep one message."""
        if "plan" in message:
            self.plan = {row["row"]: row for row in message["plan"]}
        elif "begin" in message:
            self.row = message["begin"]
            self.began = self.since = time.monotonic()
        elif "end" in message:
            self.close(message["end"], message["error"])
        else:
            rests_on = list(self.plan[message["row"]]["operations"])
            # A short figure has no sample of its own time
            sensed = self.sensors.since(max(self.since, time.monotonic() - SENSED_S)) or self.sensors.now()
            line = message | sensed | ({"operations": rests_on} if rests_on else {})
            if doubts := unverified(rests_on, self.results.lines):
                line["unverified"] = doubts
            self.since = time.monotonic()
            self.results.add(line)

    def close(self, row: str, error: str | None) -> None:
        """Note that a row is over."""
        seconds = round(time.monotonic() - self.began, 1)
        self.results.add({"row": row, "ended_s": seconds, "error": error})
        self.over.add(row)
        self.row, self.began = None, time.monotonic()
        print(f"{row}: {error or 'ok'}, {seconds:.1f} s", flush=True)
