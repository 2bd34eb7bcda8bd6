"""All that needs a GPU, in three calls of at most nine minutes, each useful alone; the first is the most useful.

    python -m benchmarks.gpu --call a --out DIR/a --archive OUT/a.tar.gz --limit-s 540   # ceilings, kernels, layers
    python -m benchmarks.gpu --call b --out DIR/b --archive OUT/b.tar.gz --limit-s 540   # the training step
    python -m benchmarks.gpu --call c --out DIR/c --archive OUT/c.tar.gz --limit-s 540   # everything else

The same command again goes on with the rows of the folder that have no figures. On a CPU (`--device cpu`) the same rows
run at toy sizes. Nothing that fails, crashes or hangs stops more than its own row. A wrong kernel is reported, and its
figures are marked as unverified. Each figure is a line of results.jsonl as soon as it is known, with the GPU's clocks,
power and temperature, and summary.md and the archive, which holds everything, are made anew.

The source is enough: the C++ core is built by g++ if it is not there, without pip and without network, and PyTorch,
Triton, numpy, Pillow, safetensors and rich are all that must be installed; with torchvision, the step is set against
its network's. Take along in the root of the source, though Git ignores both:

- `.commit`, by `git describe --always --dirty --abbrev=12 > .commit`, since history stays behind;
- for call a, `.wheels/`, 40 MB of wheels for the Python there, by `pip download --no-deps --only-binary=:all:
  -d .wheels --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 NAME ...` of
  nvidia-nvimgcodec-cu13 and nvidia-nvjpeg (rates of decoding) and nvidia-cudnn-frontend (what cuDNN can fuse). Rows
  without them say so.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

from .machine import ROOT, Sensors, nvml, prepare
from .supervisor import CACHE, MODULES, Call, Results


def main() -> int:
    """Run one call."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--call", choices=("a", "b", "c"), required=True, help="which rows")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--archive", type=Path, help=".tar.gz of the results, renewed after every figure")
    parser.add_argument("--limit-s", type=float, default=540, help="seconds for all")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: toy sizes")
    parser.add_argument("--wheels", type=Path, default=ROOT / ".wheels", help="folder of wheels to use")
    parser.add_argument("--modules", nargs="+", default=MODULES, help=argparse.SUPPRESS)
    args, began = parser.parse_args(), time.monotonic()
    results = Results(args.out.resolve(), args.archive and args.archive.resolve())
    try:
        prepare()
    except Exception:  # rows that need no C++ are still measured
        traceback.print_exc()
        results.note(traceback.format_exc())
    arguments = ["--call", args.call, "--device", args.device, "--modules", *args.modules]
    arguments += ["--wheels", str(args.wheels.resolve()), "--site", str(CACHE / "site")]
    with Sensors(nvml() if args.device == "cuda" else None) as sensors:
        try:
            limit_s = args.limit_s - (time.monotonic() - began)
            return 0 if Call(arguments, args.device, results, sensors, limit_s).run() else 1
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main())
