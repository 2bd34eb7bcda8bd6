"""`--gpus N`: start the command N times on this machine, and end all of it together.

The environment of the processes is torchrun's, which starts them as well across machines. It is not torchrun's agent
that starts them here, since that kills processes which need more than 30 seconds after a signal to finish their step
and save (a fixed time in PyTorch 2.11), and at a third Ctrl-C returns while they are still saving (seen with PyTorch
2.13: both went on after the command had ended).
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ..config import TrainConfig
from .output import flush
from .process import PARENT, SIGNALS
from .signals import Signals

POLL_S, GRACE_S = 0.05, 1.0


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

    They end when this process does, however it does; signals that it receives are theirs too.

    Returns:
        The exit status: 0, or that of the first process that failed, which has printed the reason.

    Raises:
        ValueError: A process was killed.
    """
    # The meeting point is here rather than in a process that may be killed
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = os.environ | {
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        PARENT: str(os.getpid()),
    }
    environment.setdefault("OMP_NUM_THREADS", "1")
    flush()
    signals = Signals(patient=True)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with signals.collected():
            for rank in map(str, range(num_processes)):
                processes.append(start(argv, environment | {"RANK": rank, "LOCAL_RANK": rank}))
            first = watch(processes, signals.received)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if first is None:
        return 0
    status = processes[first].returncode
    if status > 0:
        return status
    if signals.received:
        return 128 + signals.received[0]
    raise ValueError(
        f"--gpus: got {signal.Signals(-status).name} in process {first}, perhaps for lack of memory; go on from the "
        "last epoch with --resume"
    )


def start(argv: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start `fastlt` with these arguments and this environment.

    Signals wait until it can answer them: while Python starts, it would answer with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return subprocess.Popen([sys.executable, "-m", "fastlt", *argv], env=environment)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def watch(processes: Sequence[subprocess.Popen[bytes]], signals: Sequence[int]) -> int | None:
    """Wait until all processes have ended, or for a short time after one has failed.

    Args:
        processes: The processes.
        signals: Signals to pass on; the list may grow.

    Returns:
        The first process that failed, or None.
    """
    first, deadline, passed_on = None, math.inf, 0
    while time.monotonic() < deadline:
        statuses = [process.poll() for process in processes]
        if first is None and any(statuses):
            first = next(rank for rank, status in enumerate(statuses) if status)
            deadline = time.monotonic() + GRACE_S
        if None not in statuses:
            break
        for signum in signals[passed_on:]:
            passed_on += 1
            for process in processes:
                process.send_signal(signum)
        time.sleep(POLL_S)
    return first
