"""Check every kernel on one device against float64, and print a line for each check.

    TRITON_INTERPRET=1 python tests/kernels/correctness.py              # the interpreter, on any machine
    python tests/kernels/correctness.py --device cuda                   # the compiled kernels

The checks are those of checks_<module>.py beside this file: each has `groups(device)`, the longest first.

A result may be twice as far from float64 as PyTorch's own in the same type, plus a little. Inputs are fresh and
shapes odd, uninitialised memory is NaN, and each kernel runs twice: its bits must not change.
"""

import argparse
import functools
import itertools
import multiprocessing
import os
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from checking import Check, Group, modules
from fastlt.kernels.launch_linear import INTERPRETED


def groups(device: str) -> list[Group]:
    """Return the groups of all modules, each module's longest among the first."""
    rounds = itertools.zip_longest(*(module.groups(device) for module in modules()))
    return [group for group in itertools.chain.from_iterable(rounds) if group]


def run(device: str, number: int) -> list[Check]:
    """Run one group of checks; an exception is a failure of the group, and the others go on."""
    torch.use_deterministic_algorithms(True)  # with it, uninitialised memory is filled with NaN
    label, check, args = groups(device)[number]
    try:
        results = check(*args)
        checks = [results] if isinstance(results, tuple) else list(results)
    except Exception:
        return [(f"{check.__name__} {label}", False, traceback.format_exc())]
    return [(f"{name} {label}".strip(), good, text) for name, good, text in checks]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu: under TRITON_INTERPRET=1")
    parser.add_argument("--jobs", type=int, help="processes that compile and check side by side; by default 8 on a GPU")
    args = parser.parse_args()
    if (args.device == "cpu") != INTERPRETED:
        parser.error("set TRITON_INTERPRET=1 for --device cpu, and unset it for --device cuda")
    jobs = args.jobs or (min(8, os.cpu_count() or 1) if args.device == "cuda" else 1)
    check, numbers = functools.partial(run, args.device), range(len(groups(args.device)))
    failed = 0
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for name, good, text in itertools.chain.from_iterable(
            map(check, numbers) if jobs == 1 else pool.map(check, numbers)
        ):
            failed += not good
            print("ok  " if good else "FAIL", name, text, flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
