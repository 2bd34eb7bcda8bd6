"""The `fastlt` command. It parses arguments first, and imports PyTorch only when a command needs it."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys

from .runtime.process import end_with_parent, handle, is_writer, raise_on_signals, signal_behind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

USER_ERROR = 2
RUNS = "runs"  # where runs go without --out
TRACEBACK = "FASTLT_TRACEBACK"
OUT_OF_MEMORY = ("can't start new thread", "can't allocate memory", "not enough memory")  # Python's and PyTorch's words

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
    from .commands.common import console

    if not argv or argv[0] in ("-h", "--help", "help"):
        console.print(usage(), soft_wrap=True)
        return
    if argv[0] == "--version":
        from importlib.metadata import version

        console.print(f"fastlt {version('fastlt')}")
        return
    name, rest = argv[0], argv[1:]
    if name in {command.split()[0] for command in COMMANDS if " " in command}:
        if not rest or rest[0] in ("-h", "--help"):
            console.print(usage(), soft_wrap=True)
            return
        name, rest = f"{name} {rest[0]}", rest[1:]
    from .config import check_choice
    from .runtime.cache import give_libraries_a_cache

    check_choice("command", name, COMMANDS)
    check_working_folder()
    give_libraries_a_cache()
    importlib.import_module(f".commands.{name.replace(' ', '_')}", __package__).run(rest)


def check_working_folder() -> None:
    """Raise a ValueError if the working folder has been deleted, which crashes libraries."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        raise ValueError("PWD: got a working folder that was deleted; expected one that exists; change to it") from None


def main() -> None:
    """Run the `fastlt` command; a user's mistake ends in one line and status 2, never in a traceback.

    A signal ends in one line and status 128 + its number.
    """
    received = raise_on_signals()  # before anything is imported that takes time
    try:
        end_with_parent()
        run(sys.argv[1:])
    except (Exception, KeyboardInterrupt) as error:
        report(error, received)
    finally:
        handle(signal.SIG_DFL)  # the interpreter is about to end, without more to say


def run(argv: Sequence[str]) -> None:
    """Run a command, and write what it printed."""
    from .commands.common import console
    from .runtime.log import configure_logging
    from .runtime.output import flush, prepare_output

    prepare_output()
    configure_logging(console)
    try:
        dispatch(argv)
    except SystemExit:
        flush()
        raise
    flush()


def report(error: BaseException, received: Sequence[int]) -> NoReturn:
    """End the process with a line that says what went wrong; what nobody foresaw is raised as it is.

    Args:
        error: What a command raised.
        received: The signals that arrived.
    """
    from .runtime.cache import advice
    from .runtime.output import OUTPUT

    stop = signal_behind(error)
    signum = getattr(stop, "signum", None) or next(iter(received), None)
    if signum is not None:
        handle(signal.SIG_IGN)  # everything is saved, so a further Ctrl-C has nothing to stop
        if not is_writer():
            raise SystemExit(128 + signum)
        fail(str(stop or "interrupted"), 128 + signum)
    if isinstance(error, KeyboardInterrupt):
        fail("interrupted", 128 + signal.SIGINT)
    if isinstance(error, OSError):
        if isinstance(error, BrokenPipeError) and error.filename == OUTPUT:
            raise SystemExit(128 + signal.SIGPIPE)  # the reader of the output has left, as `head` does
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = os.strerror(error.errno)
            fail(f"{where}{reason}; free some space and run the command again (train: add --resume)", USER_ERROR)
        if not where:
            fail(str(error), USER_ERROR)
        hint = advice(error.filename) or way_out(error, sys.argv[1:])
        fail(f"{where}{error.strerror}{hint}", USER_ERROR)
    if isinstance(error, UnicodeError):
        fail(f"{error}; if it is no UTF-8, correct it, else set PYTHONUTF8=1", USER_ERROR)
    if isinstance(error, ValueError):
        fail(name_null(error), USER_ERROR)
    if isinstance(error, ImportError):
        fail(f"{error}; fastlt doctor tells which libraries work", USER_ERROR)
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        cause = str(error).strip() or "an array does not fit"
        fail(f"memory: got too little ({cause}); free some, or raise the limit (ulimit)", USER_ERROR)
    if type(error).__name__ == "OutOfMemoryError":  # PyTorch's type, which this module must not import
        cause = str(error).partition(". GPU")[0].strip()
        fail(f"{cause}; stop what else uses the GPU's memory (nvidia-smi lists it), or add --device cpu", USER_ERROR)
    raise error


def way_out(error: OSError, argv: Sequence[str]) -> str:
    """Return what to do about a path that cannot be written because of where it lies; nothing for any other error."""
    from pathlib import Path

    denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    if error.errno in (errno.EEXIST, errno.ENOTDIR) and any(argument.partition("=")[0] == "--out" for argument in argv):
        return "; a file is in the way of a folder: give another path with --out"
    if denied and list(argv[:2]) == ["data", "split"] and Path(error.filename).name == "lists":
        return "; name a folder for the lists that can be written with --out"
    if not denied or not Path(error.filename).is_relative_to(RUNS):
        return ""
    if argv and argv[0] in ("train", "demo", "reproduce"):
        return "; name a folder that can be written with --out"
    return (
        "; work in a folder that can be written" if Path(error.filename) in (Path(RUNS), Path(RUNS) / "adopted") else ""
    )


def name_null(error: ValueError) -> str:
    """Return the message of an error; Python's "embedded null byte" names no path, so this looks for it."""
    if str(error) != "embedded null byte":
        return str(error)
    import traceback

    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, str | os.PathLike) and "\0" in str(value):
                return f"{value}: got a NUL character in a path; expected none; correct the file that names it"
    return str(error)


def fail(message: str, status: int) -> NoReturn:
    """Print one line, after the traceback if FASTLT_TRACEBACK is set, and exit."""
    import contextlib

    from .runtime.output import one_line

    if os.environ.get(TRACEBACK):
        import traceback

        traceback.print_exc()
    with contextlib.suppress(OSError):  # nobody reads it
        print(f"fastlt: {one_line(message)}", file=sys.stderr)
    raise SystemExit(status)
