"""The loader's best settings on this machine, from a short run: threads first, then depth, then the decoder's share."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..config.train import HW_DECODER_LOAD, PREFETCH
from ..data.dataset import LongTailedDataset
from ..data.loaders.loader import train_loader
from ..data.sampler import LongTailSampler
from ..data.transforms.augmentation import Augmentation
from .loader import drain
from .traffic import median_s

PREFETCHES = (2, 4, 1)
HW_DECODER_LOADS = (0.65, 0.0, 0.35, 0.9)
NOTABLE = 1.03  # less is taken for noise


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
        """Say whether a hardware decoder may take part."""
        return self.loader == "dali" and device.type == "cuda"


def thread_counts(most: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... up to `most`, which is one of them."""
    return tuple(sorted({2**power for power in range(most.bit_length()) if 2**power < most} | {most}))


def tune(
    rate: Callable[[Trial], float], *, loader: str, most_threads: int, device: torch.device
) -> Iterator[tuple[Trial, float]]:
    """Try one setting after the other, each with the best of those before it.

    A setting is changed for a rate that is at least 3 % higher; so of equals the first tried stays, which has fewer
    threads, or is the default.

    Args:
        rate: Measures images per second.
        loader: dali or pillow.
        most_threads: Threads to go up to.
        device: Where the images go.

    Yields:
        What was tried and its rate; the last is the best, once more.
    """
    best = Trial(loader=loader, num_threads=1)  # the first that is tried
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


def measured(
    dataset: LongTailedDataset,
    trial: Trial,
    *,
    device: torch.device,
    batch_size: int,
    image_size: int,
) -> float:
    """Return the images per second of a training loader, its start in every pass included."""
    num_steps = max(1, 3 * len(dataset) // batch_size)
    with contextlib.closing(
        train_loader(
            dataset,
            LongTailSampler(dataset.labels, batch_size=batch_size),
            Augmentation(size=image_size),
            num_steps=num_steps,
            device=device,
            backend=trial.loader,
            num_threads=trial.num_threads,
            prefetch=trial.prefetch,
            hw_decoder_load=trial.hw_decoder_load,
        )
    ) as loader:
        seconds = median_s(lambda: drain(loader), device, repeats=2, warmup=1)
    return num_steps * batch_size / seconds
