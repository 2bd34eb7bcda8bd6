"""`--gpus N`: torchrun starts the command N times on this machine; there is no launcher of our own."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

import torch

from .config import TrainConfig


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


def launch(argv: Sequence[str], num_processes: int) -> int:
    """Run `fastlt` with these arguments in ``num_processes`` processes.

    Returns:
        The exit status: 0, or that of the first process that failed, which has said why.

    Raises:
        ValueError: A process was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

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
    return 0
