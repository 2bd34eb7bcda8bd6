"""Processes are killed at random times: alone, two of the same command at once, launchers and ranks; and signalled.

Repeating the command gives what an uninterrupted one gives, bit for bit. A child that is killed alone is forked from a
process that has imported everything, so that the kill hits the work; signals and launchers get programs of their own.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from .cases import CPU, TRAIN, Case, cases, command
from .children import Child, Outcome, program
from .faults import WALL_S, Bench, FailsByItselfError
from .report import Finding, Row

EXPLICIT = (  # what the small recipe says, for processes that do not know it
    *("--backbone", "resnet8", "--image-size", "16", "--eval-resize", "16", "--batch-size", "8", "--lr", "0.05"),
    *("--precision", "fp32", "--loader", "memory", "--num-threads", "1", "--log-every", "1", "--no-compile"),
)
LONG = Case(
    name="signals",
    command=(*TRAIN, "--out", "run", "--epochs", "30"),
    resume=("train", "--resume", "--out", "run", *CPU),
)
RANKS = Case(
    name="ranks",
    command=(*TRAIN, *EXPLICIT, "--out", "run", "--epochs", "30", "--gpus", "2"),
    resume=("train", "--resume", "--out", "run", *CPU, "--gpus", "2"),
)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
QUIET_S = 20  # in which every process of a killed launcher has to end


def start(bench: Bench, case: Case, argv: tuple[str, ...], number: int = 0, *, fresh: bool = False) -> Child:
    """Start a command in the working folder, forked or as a program of its own."""
    environment = case.environment(bench.work)
    logs = bench.folder / f"logs-{number}"
    if fresh:
        return Child(program(("-m", "benchmarks.campaign.cases", *argv), bench.work, environment), logs)
    return Child(lambda: command(argv, bench.work, environment), logs)


def misbehaved(outcome: Outcome, allowed: tuple[int, ...]) -> str:
    """Return what is wrong with how a process ended; empty if nothing is."""
    if "Traceback" in outcome.stderr or outcome.status not in allowed:
        return outcome.describe()
    return ""


def settle(bench: Bench, case: Case, what: str, *, fresh: bool = False) -> tuple[str, str] | None:
    """Repeat a command; return what is wrong with what it then leaves."""
    outcome = start(bench, case, case.retry(bench.work), fresh=fresh).wait(WALL_S)
    if outcome.status:
        return "unusable", f"after {what}, repeated: {outcome.describe()}"
    if found := bench.compare(case):
        return "different", f"after {what}: {'; '.join(found[:4])}"
    return None


def kill(bench: Bench, case: Case, draws: random.Random) -> tuple[str, str] | None:
    """Kill a command, or one or both of two at once, after a random time."""
    case.set_up(bench.work)
    style = draws.choice(("one alone", "both of two", "the first of two", "the second of two"))
    children = [start(bench, case, case.command, number) for number in range(1 if style == "one alone" else 2)]
    time.sleep(draws.uniform(0, bench.seconds[case.name] * len(children)))
    doomed = {"the first of two": children[:1], "the second of two": children[1:]}.get(style, children)
    for child in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    for child in children:
        outcome = child.wait(WALL_S)
        if child not in doomed and (fault := misbehaved(outcome, (0, 2))):
            return "message", f"{style} killed, the other: {fault}"
    return settle(bench, case, f"{style} killed")


def interrupt(bench: Bench, draws: random.Random) -> tuple[str, str] | None:
    """Send a signal to a training, at any time or while it trains."""
    LONG.set_up(bench.work)
    child = start(bench, LONG, LONG.command, fresh=True)
    wait_until_training(bench, child, draws)
    signum = draws.choice(SIGNALS)
    os.kill(child.pid, signum)
    outcome = child.wait(WALL_S)
    began = (bench.work / "run" / "metrics.jsonl").is_file()
    if fault := misbehaved(outcome, (0, 128 + signum) if began else (0, 128 + signum, -signum)):
        return "message", f"{signum.name}: {fault}"
    return settle(bench, LONG, signum.name)


def kill_ranks(bench: Bench, draws: random.Random) -> tuple[str, str] | None:
    """Kill the launcher of two processes, or one of them."""
    RANKS.set_up(bench.work)
    child = start(bench, RANKS, RANKS.command, fresh=True)
    wait_until_training(bench, child, draws)
    ranks = descendants(child.pid)
    victim = draws.choice([child.pid, *ranks])
    what = "the launcher" if victim == child.pid else f"process {ranks.index(victim) + 1} of {len(ranks)}"
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    outcome = child.wait(WALL_S)
    until = time.monotonic() + QUIET_S
    while left := [pid for pid in ranks if is_alive(pid)]:
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return "orphans", f"{what} killed: {len(left)} processes go on after {QUIET_S} s"
        time.sleep(0.2)
    if victim != child.pid and (fault := misbehaved(outcome, (0, 2))):
        return "message", f"{what} killed: {fault}"
    return settle(bench, RANKS, f"{what} killed", fresh=True)


def wait_until_training(bench: Bench, child: Child, draws: random.Random) -> None:
    """Wait a random time, mostly until some moment of the training proper."""
    early = draws.random() < 0.2
    until = time.monotonic() + (draws.uniform(0, 5) if early else WALL_S)
    while time.monotonic() < until and child.runs():
        if not early and (bench.work / "run" / "config.json").is_file():
            time.sleep(draws.uniform(0, 4))
            return
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """Return the children of a process, theirs, and so on."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                found += [child, *descendants(child)]
    return found


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has only not been waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def refer_fresh(bench: Bench, case: Case) -> None:
    """Run a training as a program of its own without faults, and keep what it writes."""
    if case.name not in bench.references:
        case.set_up(bench.work)
        outcome = start(bench, case, case.command, fresh=True).wait(WALL_S)
        if outcome.status:
            raise FailsByItselfError(f"{case.name}: {outcome.describe()}")
        bench.keep(case, outcome.seconds)


def run_trial(bench: Bench, name: str, number: int, seed: int) -> tuple[str, str] | None:
    """Run one trial of a command, by its number."""
    draws = random.Random(f"{seed} {name} {number}")
    if name in (LONG.name, RANKS.name):
        refer_fresh(bench, LONG if name == LONG.name else RANKS)
        return (interrupt if name == LONG.name else kill_ranks)(bench, draws)
    (case,) = [case for case in cases() if case.name == name]
    bench.refer(case)
    return kill(bench, case, draws)


def campaign(folder: Path, *, until: float, seed: int, only: frozenset[str] = frozenset()) -> Iterator[Row]:
    """Kill every command in turn until a time of `time.monotonic`; yield a row a command."""
    bench = Bench(folder)
    bench.prepare()
    names = [case.name for case in (*cases(), LONG, RANKS) if not only or case.name in only]
    rows = {name: Row(part="kills", name=name) for name in names}
    number = 0
    while time.monotonic() < until:
        for name in names:
            if time.monotonic() > until:
                break
            rows[name].trials += 1
            try:
                fault = run_trial(bench, name, number, seed)
            except FailsByItselfError as error:
                fault = "fails by itself", str(error)
            if fault:
                rows[name].add(Finding(*fault, replay=f"kills/{name}/{number}", seed=seed))
        number += 1
    yield from rows.values()


def replay(folder: Path, name: str, point: str, seed: int) -> str:
    """Repeat one trial, as far as times repeat; return what is wrong, or that nothing is."""
    bench = Bench(folder)
    bench.prepare()
    fault = run_trial(bench, name, int(point), seed)
    return "nothing wrong" if fault is None else ": ".join(fault)
