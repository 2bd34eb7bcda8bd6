"""Loaders: batches of images that depend on data, seed and step alone, whichever backend makes them."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self, TypedDict, Unpack

import numpy as np
import torch

from ...config import LOADERS, check_choice
from ...config.train import HW_DECODER_LOAD, PREFETCH
from ...runtime.log import log
from ...runtime.machine import available_bytes, free_bytes, resolve_threads
from ..dataset import LongTailedDataset
from ..sampler import LongTailSampler
from ..transforms.augmentation import Augmentation, EvalTransform
from .base import Batch, Tuning
from .device import DeviceMemoryLoader
from .memory import MemoryLoader, decoded_bytes
from .pillow import PillowLoader
from .plan import EvalPlan, Plan, Replacement, TrainPlan, ViewPlan

__all__ = [
    "Batch",
    "Loader",
    "LoaderSettings",
    "Replacement",
    "eval_loader",
    "train_loader",
    "view_loader",
]


class Loader(Protocol):
    """A source of batches; each iteration starts anew. Use it as a context manager, or close it after use."""

    @property
    def name(self) -> str:
        """The backend: "memory", "device", "dali" or "pillow"."""
        ...

    @property
    def replaced(self) -> list[Replacement]:
        """The files that could not be read so far, and their stand-ins."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def close(self) -> None:
        """Stop what was started; may be called repeatedly."""
        ...


class LoaderSettings(TypedDict, total=False):
    """How a loader is opened; its samples, windows, flips and jitter do not depend on these settings.

    Attributes:
        device: Where the batches go; by default the CPU.
        backend: "memory" decodes all images once and resamples from memory; "device" keeps them in the memory of
            `device` and resamples there; "dali" decodes them anew each time, on the GPU if `device` is one; "pillow"
            does so in processes; "auto", the default, takes "memory" if the decoded images fit into `memory_share` of
            the free memory, else "dali" if it is installed, else "pillow".
        num_threads: Threads or processes; by default one per usable processor, at most 16.
        prefetch: As in `Tuning`.
        hw_decoder_load: As in `Tuning`.
        memory_share: Share of the free memory that the decoded images of this process may take; by default 0.25.
    """

    device: torch.device
    backend: str
    num_threads: int | None
    prefetch: int
    hw_decoder_load: float
    memory_share: float


def train_loader(
    dataset: LongTailedDataset,
    sampler: LongTailSampler,
    augmentation: Augmentation,
    *,
    start_step: int = 0,
    num_steps: int,
    **settings: Unpack[LoaderSettings],
) -> Loader:
    """Open a loader of the training batches of steps start_step .. start_step + num_steps - 1.

    Samples, windows, flips and jitter of a step are the same in every backend, with any number of threads and any
    first step; a rank has its contiguous share of them.

    Args:
        dataset: The images.
        sampler: Chooses the samples of this rank.
        augmentation: Draws windows, flips and jitter.
        start_step: Global step of the first batch.
        num_steps: Number of batches.
        settings: How the loader is opened.

    Raises:
        ValueError: The backend is unknown or not installed, or the memory does not suffice.
    """
    plan = TrainPlan(
        dataset=dataset, sampler=sampler, augmentation=augmentation, start_step=start_step, num_steps=num_steps
    )
    return _open(plan, **settings)


def eval_loader(
    dataset: LongTailedDataset,
    transform: EvalTransform,
    *,
    batch_size: int,
    indices: np.ndarray | None = None,
    **settings: Unpack[LoaderSettings],
) -> Loader:
    """Open a loader of every sample once, in order; the last batch may be smaller.

    Args:
        dataset: The images.
        transform: Resizing and central crop.
        batch_size: Images of a full batch.
        indices: The samples to load instead of all, in this order: int [*].
        settings: How the loader is opened.

    Raises:
        ValueError: The backend is unknown or not installed, or the memory does not suffice.
    """
    chosen = np.arange(len(dataset)) if indices is None else np.asarray(indices, np.int64)
    plan = EvalPlan(dataset=dataset, transform=transform, batch_size=batch_size, indices=chosen)
    return _open(plan, **settings)


def view_loader(
    dataset: LongTailedDataset,
    augmentation: Augmentation,
    *,
    view: int,
    seed: int,
    batch_size: int,
    start: int = 0,
    **settings: Unpack[LoaderSettings],
) -> Loader:
    """Open a loader of the samples from `start` on, in order, augmented as in training; the last batch may be smaller.

    Args:
        dataset: The images.
        augmentation: Draws windows, flips and jitter.
        view: Number of the view, from 1 up; each has its own draws.
        seed: Seed of the draws.
        batch_size: Images of a full batch.
        start: The first sample.
        settings: How the loader is opened.

    Raises:
        ValueError: The backend is unknown or not installed, or the memory does not suffice.
    """
    plan = ViewPlan(
        dataset=dataset, augmentation=augmentation, batch_size=batch_size, seed=seed, view=view, start=start
    )
    return _open(plan, **settings)


def _open(
    plan: Plan,
    *,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
    backend: str = "auto",
    num_threads: int | None = None,
    prefetch: int = PREFETCH,
    hw_decoder_load: float = HW_DECODER_LOAD,
    memory_share: float = 0.25,
) -> Loader:
    """Choose the backend and start it."""
    check_choice("--loader", backend, LOADERS)
    tuning = Tuning(num_threads=resolve_threads(num_threads), prefetch=prefetch, hw_decoder_load=hw_decoder_load)
    needed, free = decoded_bytes(plan), available_bytes()
    if backend == "memory" and needed > free:
        raise ValueError(
            f"--loader: got memory for {needed / 1e9:.1f} GB of decoded images; expected at most the {free / 1e9:.1f} "
            "GB that are free; choose --loader dali or --loader pillow"
        )
    if backend == "device":
        room = free_bytes(device)
        if needed > room:
            raise ValueError(
                f"--loader: got device for {needed / 1e9:.1f} GB of decoded images; expected at most the "
                f"{room / 1e9:.1f} GB of {device} that are free; choose --loader dali, or pack the images smaller with "
                "`fastlt data pack --short-side`"
            )
        return DeviceMemoryLoader(plan, device=device, num_threads=tuning.num_threads)
    if backend == "memory" or (backend == "auto" and needed <= memory_share * free):
        return MemoryLoader(plan, device=device, num_threads=tuning.num_threads)
    if backend != "pillow":
        try:
            from .dali import DaliLoader
        except (ImportError, OSError) as error:
            if backend == "dali":
                raise ValueError(
                    f"--loader: got dali, which cannot be imported ({error}); install nvidia-dali-cuda130, or choose "
                    "--loader pillow"
                ) from error
            log.info("no DALI (%s): Pillow decodes the images on the processor, which may not feed a GPU", error)
        else:
            return DaliLoader(plan, device=device, tuning=tuning)
    return PillowLoader(plan, device=device, tuning=tuning)
