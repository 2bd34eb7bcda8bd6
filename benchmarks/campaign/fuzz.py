"""Every reader gets mutated files: it returns a value or says in one line what is wrong, soon and in little memory."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import shutil
import sys
import time
import traceback
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import readers
from .cases import Case, command, make_fixtures
from .children import TIMEOUT, Outcome, fork
from .faults import Bench, FailsByItselfError
from .mutations import RAN_CODE, bombs, mutate
from .readers import Reader, digest
from .report import Finding, Row

CPU_S, WALL_S, MEMORY_MB = 10, 60, 512
READ, REFUSED, UNDOCUMENTED = 0, 2, 3
BATCH, TURN_S = 16, 2.0  # inputs of a child; the time of a reader before it is the next one's turn


@dataclass(frozen=True)
class Target:
    """A reader, a private copy of the folder that it reads, and what it should return."""

    reader: Reader
    folder: Path
    original: Path
    content: bytes
    value: str
    fixed: tuple[bytes, ...]
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def input(self, seed: int, number: int, other: bytes) -> bytes:
        """Return the damaged file of a trial."""
        if number < len(self.fixed):
            return self.fixed[number]
        return mutate(self.content, self.reader.kind, random.Random(f"{seed} {self.reader.name} {number}"), other)

    def renew(self) -> None:
        """Bring the folder back to how it was, which usually it is except for the damaged file."""
        if self.folder.is_dir() and stamps(self.folder) == self.stamps:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.original, self.folder, symlinks=True)
        self.stamps.clear()
        self.stamps.update(stamps(self.folder))

    @contextlib.contextmanager
    def holding(self, content: bytes) -> Iterator[None]:
        """Put a damaged file into the folder inside a block."""
        self.renew()
        file = self.folder / self.reader.file
        before = file.stat()
        file.write_bytes(content)
        yield
        if file.is_file():
            file.write_bytes(self.content)
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    def is_silent(self, content: bytes, value: str) -> bool:
        """Return whether a damaged file was read as another value though a checksum could have told."""
        return self.reader.sealed and value != self.value and not is_resealed(content)

    def passes(self, contents: Sequence[bytes]) -> bool:
        """Return whether nothing is wrong with several damaged files that one child reads; else `trial` says what."""

        def call() -> None:
            for content in contents:
                with self.holding(content):
                    status, value = judge(self.reader, self.folder)
                if status not in (READ, REFUSED) or (status == READ and self.is_silent(content, value)):
                    raise SystemExit(UNDOCUMENTED)

        outcome = fork(call, self.folder.parent, wall_s=WALL_S, cpu_s=CPU_S)
        return not outcome.status and outcome.peak_mb <= MEMORY_MB and "Traceback" not in outcome.stderr

    def trial(self, content: bytes) -> tuple[str, str] | None:
        """Read a damaged file; return what is wrong, as (kind, detail)."""
        with self.holding(content):
            outcome = read(self.reader, self.folder)
        if outcome.status == TIMEOUT:
            return "slow", outcome.describe()
        if outcome.peak_mb > MEMORY_MB:
            return "memory", f"{outcome.peak_mb:.0f} MB; {outcome.describe()}"
        if outcome.status == RAN_CODE:
            return "ran code", outcome.describe()
        if outcome.status == READ:
            return ("silent", "another value") if self.is_silent(content, value_in(outcome)) else None
        if outcome.status != REFUSED or "Traceback" in outcome.stderr:
            return "undocumented", outcome.describe()
        return None


def is_resealed(content: bytes) -> bool:
    """Return whether a mutation made the checksums of a zip file right again, so that nothing can tell it."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.testzip() is None
    except Exception:
        return False


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of everything in a folder."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*") if not path.is_dir()
    }


def read(reader: Reader, folder: Path) -> Outcome:
    """Read a folder in a forked child; its status says what came of it."""

    def call() -> None:
        status, value = judge(reader, folder)
        print(f"VALUE {value}", end="")
        raise SystemExit(status)

    return fork(call, folder.parent, wall_s=WALL_S, cpu_s=CPU_S)


def value_in(outcome: Outcome) -> str:
    """Return the hash of the value that a child read."""
    return outcome.stdout.rpartition("VALUE ")[2]


def judge(reader: Reader, folder: Path) -> tuple[int, str]:
    """Read a folder in this process; return READ, REFUSED or UNDOCUMENTED, and a hash of the value."""
    try:
        return READ, digest(reader.read(folder))
    except SystemExit as error:
        return int(error.code or READ), ""
    except Exception as error:
        print(describe(error), file=sys.stderr)
        return (REFUSED if is_documented(error) else UNDOCUMENTED), ""


def is_documented(error: Exception) -> bool:
    """Return whether an exception is one that the documentation allows, and says in one line what is wrong."""
    if isinstance(error, OSError):
        return error.errno is not None or type(error) is FileNotFoundError
    text = str(error)
    return type(error) is ValueError and "\n" not in text and ("expected" in text or "got" in text)


def describe(error: Exception) -> str:
    """Return an exception and the place in fastlt that let it through, in one line."""
    lines = traceback.extract_tb(error.__traceback__)
    place = next((line for line in reversed(lines) if "fastlt" in line.filename), lines[-1])
    return f"{type(error).__name__}: {str(error)[:160]!r} in {Path(place.filename).name}:{place.lineno}"


def targets(bench: Bench) -> Iterator[Target]:
    """Yield every reader, after reading the undamaged file."""
    inputs = bench.folder / "inputs"

    def run(argv: tuple[str, ...], folder: Path) -> None:
        outcome = fork(
            lambda: command(argv, folder, {"FASTLT_CACHE": str(bench.folder / "cache")}), bench.folder, wall_s=240
        )
        if outcome.status:
            raise FailsByItselfError(f"{' '.join(argv)}: {outcome.describe()}")

    if not (inputs / "pack").is_dir():
        make_fixtures(inputs, run)
        make_index(bench)
        make_half_pack(bench)
    place = bench.folder / "fuzz"
    place.mkdir(exist_ok=True)
    for reader in itertools.chain(readers.run_folder(), readers.checkpoints(), readers.data(inputs), readers.images()):
        original = inputs / reader.folder
        folder = place / reader.folder
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder, symlinks=True)
        outcome = read(reader, folder)
        if outcome.status:
            print(f"{reader.name} fails by itself and is left out: {outcome.describe()}", flush=True)
            continue
        content = (original / reader.file).read_bytes()
        yield Target(
            reader=reader,
            folder=folder,
            original=original,
            content=content,
            value=value_in(outcome),
            fixed=(*reader.extra, *bombs(content, reader.kind)),
        )


def make_index(bench: Bench) -> None:
    """Let the index of the images be cached."""
    inputs = bench.folder / "inputs"
    (reader,) = [reader for reader in readers.data(inputs) if reader.name == "index cache"]
    read(reader, inputs / "indexed")


def make_half_pack(bench: Bench) -> None:
    """Keep a pack that was killed in the middle."""
    case = Case(
        name="half-pack", command=("data", "pack", "../inputs/data", "--out", "pack", "--num-threads", "1"), inputs=()
    )
    case.set_up(bench.work)
    count = bench.succeed(case).count
    for at in range(1, count):
        case.set_up(bench.work)
        bench.run(case, case.command, "before", at)
        if all((bench.work / "pack" / name).is_file() for name in readers.journals()) and (
            (bench.work / "pack" / readers.journals()[0]).stat().st_size
        ):
            break
    shutil.rmtree(bench.folder / "inputs" / "half-pack")
    (bench.work / "pack").rename(bench.folder / "inputs" / "half-pack")


def campaign(folder: Path, *, until: float, seed: int, only: frozenset[str] = frozenset()) -> Iterator[Row]:
    """Read mutated files, the readers in turn, until a time of `time.monotonic`; yield a row a reader."""
    chosen = [target for target in prepared(folder) if not only or target.reader.name in only]
    rows = [Row(part="fuzz", name=target.reader.name) for target in chosen]
    turns = itertools.cycle(zip(chosen, rows, [*chosen[1:], *chosen[:1]], strict=True))
    while chosen and time.monotonic() < until:
        target, row, following = next(turns)
        ends = min(until, time.monotonic() + TURN_S)
        while time.monotonic() < ends:
            numbers = range(row.trials, row.trials + BATCH)
            inputs = {number: target.input(seed, number, following.content) for number in numbers}
            row.trials += BATCH
            if not target.passes([*inputs.values()]):
                for number, content in inputs.items():
                    if fault := target.trial(content):
                        row.add(Finding(*fault, replay=f"fuzz/{row.name}/{number}", seed=seed))
    yield from rows


def prepared(folder: Path) -> list[Target]:
    """Make the inputs, and return every reader."""
    bench = Bench(folder)
    bench.prepare()
    return list(targets(bench))


def replay(folder: Path, name: str, point: str, seed: int) -> Any:
    """Repeat one trial; return what is wrong, or that nothing is."""
    everything = prepared(folder)
    (at,) = [at for at, target in enumerate(everything) if target.reader.name == name]
    following = everything[(at + 1) % len(everything)]
    fault = everything[at].trial(everything[at].input(seed, int(point), following.content))
    return "nothing wrong" if fault is None else ": ".join(fault)
