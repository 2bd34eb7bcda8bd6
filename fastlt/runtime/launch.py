"""`--gpus N`: torchrun starts the command N times on this machine."""

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
    """Raise a ValueError unless this machine has `config.gpus` GPUs; on the CPU any number of processes may train."""
    assert config.gpus is not None
    num_visible = torch.cuda.device_count()
    if config.device == "cpu":
        return
    if config.device.startswith("cuda:"):
        raise ValueError(
            f"--device: got {config.device} with --gpus {config.gpus}; expected a GPU for each process; drop one of "
            "the flags"
        )
    if config.gpus > num_visible:
        raise ValueError(
            f"--gpus: got {config.gpus}; expected at most the {num_visible} visible CUDA devices; give fewer, or "
            "--device cpu"
        )


def flags(config: TrainConfig, base: TrainConfig) -> list[str]:
    """Return the arguments of `fastlt train` that turn `base` into `config`.

    Args:
        config: The settings to reach.
        base: The settings without arguments: the recipe's, or those of the run to resume.
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
    """Run `fastlt` with these arguments in `num_processes` processes; may be called again after it succeeds.

    Returns:
        The exit status: 0, or that of the first process that failed, which has printed the reason.

    Raises:
        ValueError: A process was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    disabled = logging.root.manager.disable
    handlers = {signum: signal.getsignal(signum) for signum in TORCHRUN_CATCHES}
    # The process that failed prints the reason in one line; torchrun's report would bury it
    logging.disable(logging.ERROR)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's own default, without its warning
    arguments = ["--standalone", f"--nproc-per-node={num_processes}", "-m", "fastlt", *argv]
    try:
        run(get_args_parser().parse_args(arguments))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        killer = signal.Signals(-failure.exitcode).name
        raise ValueError(
            f"--gpus: got {killer} in process {rank}, perhaps for lack of memory; go on from the last epoch "
            "with --resume"
        ) from None
    except SignalException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return 128 + int(error.sigval)
    finally:
        sys.stdout.flush()
    logging.disable(disabled)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    return 0
