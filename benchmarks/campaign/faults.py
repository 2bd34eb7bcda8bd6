"""Every write-side call of every command fails once: a full disk, an I/O error, a short write, a kill before or after.

Whatever the fault, the command says so in one line or does not mind; and repeating it gives what an uninterrupted
command gives, bit for bit, with nothing left over.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import io
import json
import random
import re
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import shim
from .cases import Case, cases, command, make_inputs, make_small
from .children import Outcome, fork
from .report import Finding, Row

WALL_S = 240
TIMES = ("images_per_s", "data_wait_share")  # of an epoch's record
VOLATILE = ("environment.json", "tensorboard", "written.json")  # the last keeps what outputs were before, too
ROUND = 6  # trials of a command before it is the next one's turn
DISPENSABLE = (("cache", "index"), ("runs",), ("runs", "last"))
Tree = dict[str, str]
_TEMPORARY = re.compile(r"^\.(.+?)(\.[0-9]+)?\.(partial|journal)$")


class FailsByItselfError(Exception):
    """A command or reader fails without any fault."""


@dataclass
class Bench:
    """A folder with the inputs, in which one command at a time runs in a working folder."""

    folder: Path
    references: dict[str, Tree] = field(default_factory=dict)
    unstable: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """The working folder."""
        return self.folder / "work"

    def run(self, case: Case, argv: tuple[str, ...], mode: str = "none", at: int = 0) -> tuple[Outcome, shim.Seen]:
        """Run a command in a forked child, with a fault at a call."""
        state = self.folder / "state"
        environment = shim.settings(self.work, state, mode, at)

        def call() -> None:
            shim.arm(environment)
            command(argv, self.work, case.environment(self.work))

        outcome = fork(call, self.folder, wall_s=WALL_S)
        return outcome, shim.seen(state)

    def succeed(self, case: Case, _: Path | None = None) -> shim.Seen:
        """Run a command that has to succeed."""
        outcome, seen = self.run(case, case.command)
        if outcome.status:
            raise FailsByItselfError(f"{case.name}: {outcome.describe()}")
        return seen

    def prepare(self) -> None:
        """Import what commands need, and make their inputs unless they are there."""
        warm_up()
        make_small()
        if not (self.folder / "inputs").is_dir():
            make_inputs(self.folder, self.succeed)
            self.make_halfway()

    def make_halfway(self) -> None:
        """Make a run that was killed in its second epoch."""
        case = next(case for case in cases() if case.name == "train")
        case.set_up(self.work)
        count = self.succeed(case).count
        for at in range(count // 3, count, 3):
            case.set_up(self.work)
            self.run(case, case.command, "before", at)
            if (self.work / "run/checkpoints/last.safetensors").is_file():
                break
        (self.work / "run").rename(self.folder / "inputs" / "halfway")

    def refer(self, case: Case) -> None:
        """Run a command twice without faults, and keep what it writes and what is not the same in both."""
        if case.name in self.references:
            return
        for _ in range(2):
            case.set_up(self.work)
            began = time.monotonic()
            self.counts[case.name] = self.succeed(case).count
            self.keep(case, time.monotonic() - began)

    def keep(self, case: Case, seconds: float) -> None:
        """Keep what an undisturbed command wrote, and what differs from an earlier time; and how long it took."""
        tree = snapshot(self.work)
        self.unstable[case.name] = differences(self.references.setdefault(case.name, tree), tree)
        self.seconds[case.name] = seconds

    def compare(self, case: Case) -> list[str]:
        """Return what distinguishes the working folder from what an uninterrupted command leaves."""
        found = differences(self.references[case.name], snapshot(self.work))
        return [each for each in found if each not in self.unstable[case.name]]

    def trial(self, case: Case, mode: str, at: int) -> tuple[str, str] | None:
        """Let one call fail, then repeat the command; return what is wrong, as (kind, detail)."""
        case.set_up(self.work)
        outcome, seen = self.run(case, case.command, mode, at)
        where = f"{mode} at {seen.call} {target_of(seen.path, self.work)}"
        killed = mode in shim.KILLS and outcome.status == -signal.SIGKILL  # or it lost a worker in another session
        if not killed and outcome.status and (fault := self.misreported(outcome, seen)):
            return "message", f"{where}: {fault}: {outcome.describe()}"
        if outcome.status:
            outcome, _ = self.run(case, case.retry(self.work))
            if outcome.status:
                return "unusable", f"after {where}, repeated: {outcome.describe()}"
        if found := [each for each in self.compare(case) if not excused(each, seen, self.work, mode)]:
            return "different", f"after {where}: {'; '.join(found[:4])}"
        return None

    def misreported(self, outcome: Outcome, seen: shim.Seen) -> str:
        """Return what is wrong with how a command reported a failed call; empty if nothing is."""
        lines = [line for line in outcome.stderr.splitlines() if line.startswith("fastlt: ")]
        if outcome.status != 2:
            return f"status {outcome.status}"
        if "Traceback" in outcome.stderr or len(lines) != 1:
            return f"{len(lines)} lines and {outcome.stderr.count('Traceback')} tracebacks"
        if ".partial" in lines[0]:
            return "names the temporary file"
        names = target_of(seen.path, self.work).parts
        if names[:2] in DISPENSABLE:  # their loss is a warning, and a later call failed for good
            return ""
        if names and not any(name in lines[0] for name in names):
            return "does not name the target"
        return ""


def snapshot(folder: Path) -> Tree:
    """Return a digest of everything below a folder by its path, without what depends on the time."""
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in sorted(folder.rglob("*"))
        if not any(part in VOLATILE for part in path.relative_to(folder).parts)
    }


def digest(path: Path) -> str:
    """Return what a path is, and a hash of its content."""
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "folder"
    content = path.read_bytes()
    if path.name == "metrics.jsonl":
        rows = [json.loads(line) for line in content.decode().splitlines()]
        content = json.dumps([{key: row[key] for key in row if key not in TIMES} for row in rows]).encode()
    elif path.suffix == ".npz":  # its members have times
        with np.load(io.BytesIO(content)) as arrays:
            content = b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))
    return hashlib.sha256(content).hexdigest()[:16]


def differences(expected: Tree, got: Tree) -> list[str]:
    """Return what distinguishes a tree from the expected one."""
    found = [f"no {path}" for path in expected if path not in got]
    found += [f"left {path}" for path in got if path not in expected]
    return found + [f"other {path}" for path in expected if path in got and got[path] != expected[path]]


def excused(difference: str, seen: shim.Seen, work: Path, mode: str) -> bool:
    """Return whether a difference could not be helped, or does not matter.

    What a failing disk did not remove stays, and a cache or the link to the last run may be missing. A lock that nobody
    holds is removed by the next owner.
    """
    what, _, path = difference.partition(" ")
    if what == "left" and path.endswith(".lock") and is_free(work / path):
        return True
    kept = what == "left" and seen.call.startswith(("unlink", "rmdir")) and work / path == seen.path
    lost = what == "no" and (path.startswith("cache") or path in ("runs", "runs/last"))
    return mode not in shim.KILLS and (kept or lost)


def is_free(lock: Path) -> bool:
    """Return whether nobody holds a lock."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def target_of(path: Path, work: Path) -> Path:
    """Return what a path will be called in the end, relative to the working folder."""
    parts = path.relative_to(work).parts if path.is_relative_to(work) else path.parts
    return Path(*(match[1] if (match := _TEMPORARY.match(part)) else part for part in parts))


def warm_up() -> None:
    """Import what the commands import, so that forked children need not."""
    import importlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (
            *("torch", "torch._dynamo", "matplotlib.pyplot", "PIL.Image", "fastlt", "fastlt.cli", "fastlt.reproduce"),
            *("msgspec", "msgspec.json", "encodings.cp437", "encodings.utf_8_sig", "torch.utils.tensorboard"),
            *("fastlt.data.synthetic.glyphs", "fastlt.data.synthetic.published_shape", "fastlt.data.packs.write"),
            *("fastlt.report.writing", "fastlt.inference.exporting", "fastlt.inference.prediction"),
            *("fastlt.rebalancing.checkpoint", "fastlt.training.trainer", "fastlt.evaluation.scoring"),
            *("rich.progress", "fastlt.data.layouts.split", "fastlt.data.inspection.summary"),
            *("fastlt.data.synthetic.any_shape", "fastlt.report.plots.accuracy"),
        ):
            with contextlib.suppress(ImportError):  # an extra may not be installed
                importlib.import_module(name)
        from fastlt.cli import COMMANDS

        for name in COMMANDS:
            importlib.import_module(f"fastlt.commands.{name.replace(' ', '_')}")
        from PIL import Image

        Image.init()
    gc.collect()
    gc.freeze()  # children then copy fewer pages
    num_threads = len(list(Path("/proc/self/task").iterdir()))
    if num_threads > 1:
        raise RuntimeError(f"{num_threads} threads before the fork; expected one")


def order(name: str, count: int, seed: int) -> list[tuple[str, int]]:
    """Return every (mode, n) of a command of `count` calls, shuffled, so that any first part is spread over all."""
    points = [(mode, at) for at in range(1, count + 1) for mode in shim.MODES]
    random.Random(f"{seed} {name}").shuffle(points)
    return points


def calls(bench: Bench, case: Case, row: Row, seed: int) -> int:
    """Return how many calls of a command can fail; none if it fails by itself."""
    try:
        bench.refer(case)
    except FailsByItselfError as error:
        row.add(Finding("fails by itself", str(error), replay=f"faults/{case.name}/none:0", seed=seed))
    return bench.counts.get(case.name, 0)


def campaign(folder: Path, *, until: float, seed: int, only: frozenset[str] = frozenset()) -> Iterator[Row]:
    """Run trials in rounds over all commands until a time of `time.monotonic`; yield a row a command."""
    bench = Bench(folder)
    bench.prepare()
    chosen = [case for case in cases() if not only or case.name in only]
    rows = {case.name: Row(part="faults", name=case.name) for case in chosen}
    points: dict[str, list[tuple[str, int]]] = {}
    while time.monotonic() < until and (not points or any(points.values())):
        for case in chosen:
            row = rows[case.name]
            if case.name not in points:
                points[case.name] = order(case.name, calls(bench, case, row, seed), seed)
                row.possible = len(points[case.name])
            for _ in range(min(ROUND, len(points[case.name]))):
                if time.monotonic() > until:
                    break
                mode, at = points[case.name].pop()
                row.trials += 1
                if fault := bench.trial(case, mode, at):
                    row.add(Finding(*fault, replay=f"faults/{case.name}/{mode}:{at}", seed=seed))
    yield from rows.values()


def replay(folder: Path, name: str, point: str, seed: int) -> str:
    """Repeat one trial; return what is wrong, or that nothing is."""
    bench = Bench(folder)
    bench.prepare()
    case = next(case for case in cases() if case.name == name)
    bench.refer(case)
    mode, _, at = point.partition(":")
    fault = bench.trial(case, mode, int(at))
    return "nothing wrong" if fault is None else ": ".join(fault)
