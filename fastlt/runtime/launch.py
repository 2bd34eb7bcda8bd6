"""`--gpus N`: torchrun starts the command N times on this machine; there is no launcher of our own."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Sequence

import torch

from ..config import TrainConfig

TORCHRUN_CATCHES = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def check_gpus(config: TrainConfig) -> None:
    """Raise a ValueError unless this machine has the GPUs asked for; on the CPU any number of processes may train."""
    assert config.gpus is not None
    num_visible = torch.cuda.device_count()
    if config.device == "cpu":
        return
    if config.device.startswith("cuda:"):
        raise ValueError(
            f"--device: got {config.device} with --gpus {config.gpus}; each process has a GPU of its own: drop one"
        )
    if config.gpus > num_visible:
        raise ValueError(
            f"--gpus: got {config.gpus}, but {num_visible} CUDA devices are visible; give at most so many, or "
            "--device cpu"
        )


def flags(config: TrainConfig, base: TrainConfig) -> list[str]:
    """Return the arguments of `fastlt train` that turn `base`, the settings it would have without them, into these.

    Args:
        config: The settings wanted.
        base: Those of the recipe, or of the run that goes on.
    """
    arguments = ["--dataset", config.dataset]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "dataset" or value == getattr(base, field.name):
            continue
        name = field.name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no-{name}")
        else:
            arguments += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return arguments


def launch(argv: Sequence[str], num_processes: int) -> int:
    """Run `fastlt` with these arguments in `num_processes` processes; where all went well, more may follow.

    Returns:
        The exit status: 0, or that of the first process that failed, which has said why.

    Raises:
        ValueError: A process was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    disabled = logging.root.manager.disable
    handlers = {each: signal.getsignal(each) for each in TORCHRUN_CATCHES}
    # The process that failed says why in a line; torchrun's report of it would bury that
    logging.disable(logging.ERROR)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does, but without its warning
    arguments = ["--standalone", f"--nproc-per-node={num_processes}", "-m", "fastlt", *argv]
    try:
        run(get_args_parser().parse_args(arguments))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        killer = signal.Signals(-failure.exitcode).name
        raise ValueError(
            f"--gpus: process {rank} was killed by {killer} (out of memory?); go on from the last epoch with --resume"
        ) from None
    except SignalException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return 128 + int(error.sigval)
    finally:
        sys.stdout.flush()
    logging.disable(disabled)
    for each, handler in handlers.items():
        signal.signal(each, handler)
    return 0
