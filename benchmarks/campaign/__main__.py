"""Kill every writing command, let its disk fail, and damage every file that is read: `make campaign MINUTES=10`.

    python -m benchmarks.campaign --minutes 10               # every part, a share of the time each
    python -m benchmarks.campaign --minutes 5 --only faults  # one part
    python -m benchmarks.campaign --replay faults/train/eio:17 --seed 0   # one trial again

`faults`: the n-th write-side call of every command fails, for every n. `kills`: real processes are killed. `fuzz`:
every reader gets mutated files. The status is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from . import faults, fuzz, kills, shim
from .report import Row, table

PARTS = {"faults": faults, "kills": kills, "fuzz": fuzz}


def write(file: Path, rows: list[Row]) -> None:
    """Write a record of the rows, with the command, the machine, the versions and the commit."""
    import torch

    from fastlt.run import environment
    from fastlt.runtime.machine import describe_machine

    record = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m benchmarks.campaign", *sys.argv[1:]]),
        "machine": describe_machine(torch.device("cpu")),
        "versions": environment()["versions"],
        "trials": sum(row.trials for row in rows),
        "findings": sum(len(row.findings) for row in rows),
        "rows": [row.to_json() for row in rows],
    }
    file.write_text(json.dumps(record, indent=1) + "\n")


def main() -> int:
    """Run the parts, or one trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10, help="time for all parts together")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults and mutations")
    parser.add_argument("--only", choices=list(PARTS), nargs="+", default=list(PARTS), help="run these parts")
    parser.add_argument("--names", nargs="+", default=[], help="run these commands and readers")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--replay", metavar="PART/NAME/POINT", help="run one trial again")
    args = parser.parse_args()
    with shim.loaded() as place:
        if args.replay:
            part, name, point = args.replay.split("/", 2)
            print(PARTS[part].replay(place, name, point, args.seed))
            return 0
        rows: list[Row] = []
        for number, part in enumerate(args.only):
            if number == 0:
                began = time.monotonic()
            until = began + 60 * args.minutes * (number + 1) / len(args.only)
            rows += PARTS[part].campaign(place, until=until, seed=args.seed, only=frozenset(args.names))
    print(table(rows))
    if args.out:
        write(args.out, rows)
    return int(any(row.findings for row in rows))


if __name__ == "__main__":
    sys.exit(main())
