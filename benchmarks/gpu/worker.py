"""The process that measures: it tells what it will measure, then each figure as soon as it has it.

It is started by `supervisor`, which starts another one for the rows that are left if this one crashes or hangs.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fastlt.runtime.log import first_line
from fastlt.runtime.machine import describe_machine

from .machine import forget_block_sizes, unpack
from .rows import Figures, Row, Target, is_broken
from .summary import MACHINE

Say = Callable[[Figures], None]
BROKEN = 3


def rows_of(modules: list[str], call: str, target: Target) -> Iterator[Row]:
    """Yield the rows of a call, of each module's `rows`; a module that does not work is a row that says so."""
    for module in modules:
        try:
            yield from importlib.import_module(module).rows(call, target)
        except (Exception, SystemExit) as error:
            reason = RuntimeError(f"{type(error).__name__}: {first_line(error)}")
            reason.__cause__ = error

            def fail(reason: RuntimeError = reason) -> list[Figures]:
                raise reason

            yield Row(module, fail)


def measure(row: Row, say: Say) -> str | None:
    """Tell the figures of a row; return its error, or None."""
    try:
        for figure in row.figures():
            say({"row": row.name, **figure})
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {first_line(error)}"
    finally:
        gc.collect()
    return None


def work(rows: list[Row], skip: set[str], say: Say) -> None:
    """Measure the rows that are not to be skipped."""
    say({"plan": [{"row": row.name, "limit_s": row.limit_s, "operations": row.operations} for row in rows]})
    for row in rows:
        if row.name in skip:
            continue
        print(f"== {row.name}", flush=True)
        say({"begin": row.name})
        began = time.perf_counter()
        error = measure(row, say)
        broken = is_broken()
        say({"end": row.name, "error": error, "seconds": round(time.perf_counter() - began, 2)})
        if broken:
            os._exit(BROKEN)  # an orderly exit would use the device
    say({"over": True})


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--call", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--modules", nargs="+", required=True)
    parser.add_argument("--skip", nargs="*", default=[])
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--channel", type=int, required=True, help="file descriptor to tell figures through")
    args = parser.parse_args()
    unpack(args.wheels, args.site)
    if cache := os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        forget_block_sizes(Path(cache))  # a row that compiled side by side may have been killed
    with os.fdopen(args.channel, "w", encoding="utf-8", buffering=1) as channel:

        def say(message: Figures) -> None:
            channel.write(json.dumps(plain(message)) + "\n")

        target = Target(torch.device(args.device))
        machine = Row(MACHINE, lambda: [{"name": MACHINE, **describe_machine(target.device)}])
        work([machine, *rows_of(args.modules, args.call, target)], set(args.skip), say)


def plain(value: Any) -> Any:
    """Return a value as JSON has it; what it does not know becomes text."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


if __name__ == "__main__":
    main()
