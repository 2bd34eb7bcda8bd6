"""README's table of ratios, from the newest records in results/: what `python -m benchmarks.table` writes last."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fastlt.report.markdown import rows

from . import records

BEGIN, END = "<!-- ratios of the newest records, written by benchmarks.table -->", "<!-- end of the ratios -->"
Medians = dict[str, float]


class Ratio(NamedTuple):
    """What was timed, against what, and the names of the benchmarks; the ratios are theirs over each of ours."""

    what: str
    against: str
    theirs: str
    ours: tuple[str, ...]


CPU = (
    Ratio(
        "class-balanced draws with replacement, 1 and 2 threads",
        "NumPy, vectorised",
        "test_draws[NumPy, with replacement]",
        ("test_draws[ours, with replacement]", "test_draws[ours, with replacement, 2 threads]"),
    ),
    Ratio(
        "",
        "`torch.utils.data.WeightedRandomSampler`",
        "test_draws[torch WeightedRandomSampler]",
        ("test_draws[ours, with replacement]",),
    ),
    Ratio(
        "class-balanced draws without replacement",
        "NumPy of the same law",
        "test_draws[NumPy, without replacement]",
        ("test_draws[ours, without replacement]",),
    ),
    Ratio(
        "four images a class, as the paper's code draws",
        "a class-aware sampler in Python",
        "test_draws[Python, class-aware in fours]",
        ("test_draws[ours, class-aware in fours]",),
    ),
    Ratio(
        "the demo's training step, eager / compiled",
        "plain fp32 NCHW eager",
        "test_step[plain]",
        ("test_step[fastlt eager]", "test_step[fastlt]"),
    ),
    Ratio(
        "training end to end on small images: memory / DALI / Pillow",
        "a plain trainer, DataLoader and Pillow, fp32 NCHW eager",
        "test_plain_trainer[plain]",
        ("test_trainer[memory]", "test_trainer[dali]", "test_trainer[pillow]"),
    ),
    Ratio(
        "training images out of memory, 48 to 32 pixels",
        "Pillow in two workers",
        "test_train[small-pillow]",
        ("test_train[small-memory]",),
    ),
    Ratio(
        "the same through DALI on the CPU",
        "Pillow in two workers",
        "test_train[small-pillow]",
        ("test_train[small-dali]",),
    ),
    Ratio(
        "photographs, 500 x 375 to 224, through DALI on the CPU",
        "Pillow in two workers",
        "test_train[photographs-pillow]",
        ("test_train[photographs-dali]",),
    ),
)


def medians(record: dict[str, Any]) -> Medians:
    """Return the median seconds of every benchmark of a record."""
    return {row["name"]: row["median_s"] for row in record["benchmarks"]}


def spread(ratios: list[float]) -> str:
    """Return the smallest and the largest ratio."""
    return f"{figure(min(ratios))} to {figure(max(ratios))}"


def figure(ratio: float) -> str:
    """Return a ratio with two digits."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}"


def exact_tau(times: Medians) -> list[tuple[str, str, str]]:
    """Return the rows of the exact tau curve, over all shapes that were timed."""
    ours, loop, product = (f"tau curve, {name}, " for name in ("fastlt tau_intervals", "21 products eager", "product"))
    shapes = [name.removeprefix(ours) for name in times if name.startswith(ours)]
    if not shapes:
        raise LookupError(ours)
    against_loop = [times[loop + shape] / times[ours + shape] for shape in shapes]
    against_product = [times[ours + shape] / times[product + shape] for shape in shapes]
    return [
        (
            "the exact accuracy at every tau (`tau_intervals`)",
            "21 products and argmaxes, a grid of 21 taus",
            f"{spread(against_loop)}x faster",
        ),
        ("", "one plain product of the same shape", f"{spread(against_product)}x its time"),
    ]


def compared(cpu: Medians, operations: Medians) -> list[tuple[str, str, str]]:
    """Return the rows (what, against what, ratio)."""
    ratios = [
        (row.what, row.against, " / ".join(f"{figure(cpu[row.theirs] / cpu[ours])}x" for ours in row.ours))
        for row in CPU
    ]
    return [*exact_tau(operations), *ratios]


def table(folder: Path) -> str:
    """Return the lines between the markers, from the newest records in a folder.

    Raises:
        LookupError: A benchmark is in none of the newest records; its name is the message.
    """
    cpu, operations = (records.newest(name, folder) for name in ("cpu", "ops-cpu"))
    if cpu is None or operations is None:
        raise LookupError("cpu" if cpu is None else "ops-cpu")
    same_torch = operations["versions"]["torch"] == cpu["versions"]["torch"]
    if not (same_torch and operations["hardware"].startswith(cpu["hardware"])):
        raise LookupError("both cpu and ops-cpu on one machine and PyTorch")
    versions = ", ".join(f"{name} {number}" for name, number in cpu["versions"].items() if name in ("python", "torch"))
    lines = [f"On {cpu['hardware']} ({versions}), medians, each ratio from one process:", ""]
    lines += rows(("", "against", "ratio"), compared(medians(cpu), medians(operations)), left=(0, 1))
    pages = (
        f"benchmarks/results/{name}-{record['date']}.md" for name, record in (("cpu", cpu), ("ops-cpu", operations))
    )
    lines += ["", "Tables: [cpu]({}) (`make benchmark`), [operations]({})".format(*pages)]
    lines += [f"(`{operations['command']}`)."]
    return "\n".join(lines)


def refresh(readme: Path, folder: Path) -> None:
    """Put the table between README's markers; raise as `table` does, and if there are no markers."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise LookupError(f"the markers in {readme.name}")
    readme.write_text(f"{before}{BEGIN}\n\n{table(folder)}\n\n{END}{after}", encoding="utf-8")
