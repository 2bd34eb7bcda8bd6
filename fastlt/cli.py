"""The `fastlt` command. It parses arguments first, and imports PyTorch only when a command needs it."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from .config import check_choice

USER_ERROR = 2
TRACEBACK = "FASTLT_TRACEBACK"

COMMANDS = {
    "demo": "train and rebalance on the embedded data set, with a report: start here",
    "train": "stage 1: train a network on a long-tailed data set",
    "rebalance": "stage 2: rebalance the classifier of a trained run",
    "evaluate": "accuracy of a run: many, medium, few, all",
    "predict": "classify images with a run: class, probability, top 5",
    "export": "write a run's network for torchvision, timm or ONNX",
    "reproduce": "the paper's table: every sampling, every classifier",
    "report": "write a run's report: a page with tables and pictures",
    "data info": "show the long tail of a data set",
    "data verify": "check a benchmark's images and lists: counts, checksums, what is missing",
    "data pack": "pack a data set into plain tars with offsets, optionally with smaller images",
    "data split": "split class folders into train, val and test lists",
    "data synth": "write a made-up data set of any shape",
    "recipes": "list the recipes, or print one",
    "benchmark step": "time the training step on this machine, switch by switch",
    "benchmark loader": "time the image loaders on this machine, stage by stage",
    "doctor": "what is installed, what works, what to do about the rest",
}
"""Command -> its purpose. `data info` is the function `run` in commands/data_info.py, and so on."""


def usage() -> str:
    """Return the text of `fastlt --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: fastlt COMMAND [OPTIONS]",
            "",
            "Train image recognition on long-tailed data, then rebalance the classifier.",
            "",
            *lines,
            "",
            "fastlt COMMAND --help lists a command's options; fastlt --version prints the version.",
        ]
    )


def dispatch(argv: Sequence[str]) -> None:
    """Run the command that `argv` names.

    Raises:
        ValueError: There is no such command.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if argv[0] == "--version":
        print(f"fastlt {importlib.metadata.version('fastlt')}")
        return
    name, rest = argv[0], argv[1:]
    if name in {command.split()[0] for command in COMMANDS if " " in command}:
        if not rest or rest[0] in ("-h", "--help"):
            print(usage())
            return
        name, rest = f"{name} {rest[0]}", rest[1:]
    check_choice("command", name, COMMANDS)
    importlib.import_module(f".commands.{name.replace(' ', '_')}", __package__).run(rest)


def main() -> None:
    """Run the `fastlt` command; a user's mistake ends in one line and status 2, never in a traceback."""
    from .commands.common import console
    from .runtime.log import configure_logging

    configure_logging(console)
    try:
        dispatch(sys.argv[1:])
    except ValueError as error:
        fail(str(error), USER_ERROR)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = os.strerror(error.errno)
            fail(f"{where}{reason}; free some space and run the command again (train: add --resume)", USER_ERROR)
        fail(f"{where}{error.strerror}" if where else str(error), USER_ERROR)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except Exception as error:
        if str(error).startswith("DataLoader worker"):  # PyTorch raises it in the middle of other work
            cause = str(error).strip().rstrip(".")
            fail(
                f"{cause}, perhaps for lack of memory; try fewer --num-threads or --loader dali (train: with --resume)",
                USER_ERROR,
            )
        if type(error).__name__ == "OutOfMemoryError":  # PyTorch's type, which this module must not import
            cause = str(error).partition(". GPU")[0].strip()
            fail(
                f"{cause}; stop what else uses the GPU's memory (nvidia-smi lists it), or add --device cpu", USER_ERROR
            )
        signum = getattr(error, "signum", None)
        if signum is None:
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # everything is saved, so a second Ctrl-C has nothing to stop
        fail(str(error), 128 + signum)


def fail(message: str, status: int) -> None:
    """Print one line, after the traceback if FASTLT_TRACEBACK is set, and exit."""
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    print(f"fastlt: {message}", file=sys.stderr)
    raise SystemExit(status)
