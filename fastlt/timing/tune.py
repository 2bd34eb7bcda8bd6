"""The loader's best settings on this machine: threads first, then depth, then the hardware decoder's share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..config.train import HW_DECODER_LOAD, PREFETCH
from ..data.dataset import LongTailedDataset
from .loader import loader_rate

PREFETCHES = (2, 4, 1)
HW_DECODER_LOADS = (0.65, 0.0, 0.35, 0.9)
NOTABLE = 1.03  # a smaller gain is taken for noise


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Settings of a loader, named as `fastlt train` names them."""

    loader: str
    num_threads: int
    prefetch: int = PREFETCH
    hw_decoder_load: float = HW_DECODER_LOAD

    def flags(self, device: torch.device) -> str:
        """Return the settings as flags; the hardware decoder's share only where there may be one."""
        share = f" --hw-decoder-load {self.hw_decoder_load:g}" if self.has_hardware(device) else ""
        return f"--loader {self.loader} --num-threads {self.num_threads} --prefetch {self.prefetch}{share}"

    def has_hardware(self, device: torch.device) -> bool:
        """Return whether a hardware decoder may take part."""
        return self.loader == "dali" and device.type == "cuda"


def thread_counts(most: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... up to `most`, which is one of them."""
    return tuple(sorted({2**power for power in range(most.bit_length()) if 2**power < most} | {most}))


def tune(
    rate: Callable[[Trial], float], *, loader: str, most_threads: int, device: torch.device
) -> Iterator[tuple[Trial, float]]:
    """Try the settings one after the other, each with the best values of those before it.

    A value replaces the best one only if its rate is more than 3 % higher. So among equals the first wins: the one with
    fewer threads, or the default.

    Args:
        rate: Measures images per second.
        loader: dali or pillow.
        most_threads: The largest number of threads to try.
        device: Where the images go.

    Yields:
        Each trial and its rate; at the end the best one again.
    """
    best = Trial(loader=loader, num_threads=1)  # tried first
    axes: list[tuple[str, tuple[Any, ...]]] = [("num_threads", thread_counts(most_threads)), ("prefetch", PREFETCHES)]
    if best.has_hardware(device):
        axes.append(("hw_decoder_load", HW_DECODER_LOADS))
    rates: dict[Trial, float] = {}
    for name, values in axes:
        for value in values:
            trial = dataclasses.replace(best, **{name: value})
            if trial not in rates:
                rates[trial] = rate(trial)
                yield trial, rates[trial]
            if rates[trial] > NOTABLE * rates[best]:
                best = trial
    yield best, rates[best]


def trial_rate(
    dataset: LongTailedDataset, trial: Trial, *, device: torch.device, batch_size: int, image_size: int
) -> float:
    """Return the images per second of a training loader under the settings of a trial."""
    return loader_rate(
        dataset,
        device=device,
        batch_size=batch_size,
        image_size=image_size,
        backend=trial.loader,
        num_threads=trial.num_threads,
        prefetch=trial.prefetch,
        hw_decoder_load=trial.hw_decoder_load,
    )
