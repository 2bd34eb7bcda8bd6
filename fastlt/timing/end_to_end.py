"""Loader and step together: ours, and those of a plain PyTorch trainer, as in a first script."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from ..data.dataset import LongTailedDataset
from ..data.loaders.loader import Loader
from ..training.step import StepInput
from .loader import PlainDataset
from .traffic import wait_for


class PlainLoader:
    """A DataLoader with Pillow in its workers; every pass starts them anew, as a DataLoader does by default.

    Args:
        dataset: The images; at least a batch.
        device: Where the batches go.
        batch_size: Images a batch.
        image_size: Side of the crops, pixels.
        num_workers: Processes.
        num_batches: A pass's, drawn with replacement; by default every image occurs once.
    """

    def __init__(
        self,
        dataset: LongTailedDataset,
        *,
        device: torch.device,
        batch_size: int,
        image_size: int,
        num_workers: int,
        num_batches: int | None = None,
    ) -> None:
        self.device = device
        images = PlainDataset(dataset, image_size)
        num_samples = None if num_batches is None else num_batches * batch_size
        self.batches = DataLoader(
            images,
            batch_size=batch_size,
            sampler=RandomSampler(images, replacement=num_batches is not None, num_samples=num_samples),
            num_workers=num_workers,
            pin_memory=device.type == "cuda",
            drop_last=True,
        )

    def __iter__(self) -> Iterator[StepInput]:
        for images, labels in self.batches:
            yield StepInput(images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True))


class OurLoader:
    """The batches of our loader, in the form that our step takes."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[StepInput]:
        for batch in self.loader:
            yield StepInput(batch.images, batch.labels, batch.jitter, batch.order)


def train_on(step: Callable[..., Tensor], batches: Iterable[StepInput]) -> int:
    """Take a step on every batch of a pass, and return the number of images."""
    num_images = 0
    for batch in batches:
        step(batch)
        num_images += len(batch.images)
    return num_images


def rate(step: Callable[..., Tensor], batches: Iterable[StepInput], device: torch.device, *, num_steps: int) -> float:
    """Return the images per second of `num_steps` steps after as many warm-up steps, over several passes if needed.

    Where workers make whole batches, give several times as many steps as workers: those that are ready at the end of
    the warm-up would else be most of the timed ones.
    """
    done = num_images = 0
    began = time.perf_counter()
    while True:
        before = done
        for batch in batches:
            step(batch)
            done += 1
            num_images += len(batch.images)
            if done == num_steps:  # before the next batch is waited for
                wait_for(device)
                began, num_images = time.perf_counter(), 0
            if done == 2 * num_steps:
                wait_for(device)
                return num_images / (time.perf_counter() - began)
        if done == before:
            raise ValueError("batches: got none in a pass; expected at least one; give as many images as a batch has")
