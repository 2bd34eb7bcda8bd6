"""The loaders of a training run: the training stream and this process's share of val."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import TrainConfig
from ..data.dataset import LongTailedDataset
from ..data.loaders.loader import Loader, eval_loader, train_loader
from ..data.sampler import LongTailSampler
from ..data.transforms.augmentation import augmentation, eval_transform
from ..data.transforms.mixup import draw_share
from ..data.transforms.randaugment import draw_operations
from ..runtime.device import on_device
from ..runtime.distributed import World
from ..runtime.log import log
from ..runtime.machine import resolve_threads


def decoder_of(backend: str) -> str:
    """Return the name of the loader that defines the pixels of a loader: dali, or pillow for all others."""
    return "dali" if backend == "dali" else "pillow"


def make_sampler(config: TrainConfig, dataset: LongTailedDataset, world: World) -> LongTailSampler:
    """Return the order of this process's images."""
    return LongTailSampler(
        dataset.labels,
        sampling=config.sampling,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
        samples_per_class=config.draws_per_class if config.sampling == "class_balanced" else 1,
        num_epochs=config.epochs,
        num_classes=dataset.num_classes,
    )


class Streams:
    """The loaders of a run, opened at any step, and the draws of each step.

    Args:
        config: Settings of the run.
        splits: The data.
        sampler: The order of this process's training images.
        world: The processes, which divide val.
        device: The device to copy images to.
    """

    def __init__(
        self,
        config: TrainConfig,
        splits: dict[str, LongTailedDataset],
        sampler: LongTailSampler,
        world: World,
        device: torch.device,
    ) -> None:
        self.config, self.splits, self.sampler, self.world, self.device = config, splits, sampler, world, device

    def open(self, step: int, decoder: str | None) -> tuple[Loader, Loader]:
        """Open the training stream from a step on, and this process's share of val.

        The memory and Pillow loaders give the same pixels; DALI's differ within a decoder's tolerance. So a resumed
        run keeps its decoder unless --loader names another one, and all processes use the same one.

        Args:
            step: Global step of the first batch.
            decoder: The decoder that the run began with; None for a new run.
        """
        training = self.open_training(step, self.config.loader)
        name = self.world.gather(training.name)[0]
        if decoder is not None and decoder_of(name) != decoder:
            if self.config.loader == "auto":
                name = decoder
            else:
                log.warning(
                    "the run began with images decoded by %s; with --loader %s its pixels will differ slightly",
                    decoder,
                    training.name,
                )
        if training.name != name:
            training.close()
            training = self.open_training(step, name)
        backend = self.config.loader if self.config.loader != "auto" or training.name == "memory" else training.name
        validation = eval_loader(
            self.splits["val"],
            eval_transform(self.config),
            # One piece at a time: more may not fit, and that would show only at the end of the first epoch
            batch_size=self.sampler.local_batch_size // self.config.accumulate,
            indices=self.val_indices,
            **self.settings(backend),
        )
        return training, validation

    def open_training(self, step: int, backend: str) -> Loader:
        """Open the training stream from a step on."""
        config = self.config
        return train_loader(
            self.splits["train"],
            self.sampler,
            augmentation(config),
            start_step=step,
            num_steps=self.sampler.steps_per_epoch * config.epochs - step,
            **self.settings(backend),
        )

    def settings(self, backend: str) -> dict[str, Any]:
        """Return the arguments of both loaders; the processes on a machine share its processors."""
        threads = resolve_threads(self.config.num_threads)
        if self.config.num_threads is None:
            threads = max(1, threads // self.world.local_size)
        return {
            "device": self.device,
            "backend": backend,
            "num_threads": threads,
            "prefetch": self.config.prefetch,
            "hw_decoder_load": self.config.hw_decoder_load,
            "memory_share": self.config.memory_share / self.world.size,
        }

    @property
    def val_indices(self) -> np.ndarray:
        """The val images that this process predicts, int64 [*]; all of them if there are more processes than images."""
        num_images, world = len(self.splits["val"]), self.world
        if num_images < world.size:
            return np.arange(num_images)
        return np.arange(world.rank * num_images // world.size, (world.rank + 1) * num_images // world.size)

    def merge(self, predictions: Tensor) -> Tensor:
        """Put the predictions of all processes, int64, into val's order, [N]."""
        if self.world.size == 1:
            return predictions
        merged = torch.full((len(self.splits["val"]),), -1)
        merged[torch.from_numpy(self.val_indices)] = predictions
        return self.world.largest(merged)

    def draws(self, step: int) -> tuple[Tensor | None, Tensor | None]:
        """Return a step's RandAugment operations, uint8 [B, n], and mixup share, []; None for either if it is off."""
        config = self.config
        operations = mixup_share = None
        if config.randaugment:
            draws = draw_operations(
                self.sampler.first_slot(step),
                self.sampler.local_batch_size,
                num_operations=config.randaugment,
                seed=config.seed,
            )
            operations = on_device(torch.from_numpy(draws), self.device)
        if config.mixup:
            mixup_share = on_device(torch.tensor(draw_share(step, alpha=config.mixup, seed=config.seed)), self.device)
        return operations, mixup_share
