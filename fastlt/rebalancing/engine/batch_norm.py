"""BatchNorm's statistics in stage 2: estimated again on class-balanced images, before features are computed."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...checkpoints import native
from ...config import RebalanceConfig
from ...data.loaders.loader import Loader, train_loader
from ...data.sampler import LongTailSampler
from ...data.transforms.augmentation import augmentation
from ...data.transforms.preprocess import Preprocess
from ...features.store import FeatureStore, exactly, load_model
from ...models import Network
from ...runtime.device import multiplying
from ...runtime.log import log

NUM_BATCHES = 100  # the mean over 100 batches varies a tenth as much as one batch
FOLDER = "reestimated"


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the network's BatchNorm layers that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def training_images(store: FeatureStore, sampler: LongTailSampler, *, num_steps: int) -> Loader:
    """Open stage 1's training images, augmented as in stage 1, in a sampler's order."""
    train = store.run.config
    return train_loader(
        store.splits["train"],
        sampler,
        augmentation(train),
        num_steps=num_steps,
        device=store.device,
        backend=store.loader,
        num_threads=store.num_threads,
        memory_share=train.memory_share,
    )


def fresh_model(store: FeatureStore) -> Network:
    """Return a new copy of the store's network, on its device, which may be changed."""
    num_classes = len(store.run.data["class_names"])
    model = load_model(store.run.config, store.tensors, num_classes, store.checkpoint)
    return model.to(device=store.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def reestimate(store: FeatureStore, config: RebalanceConfig) -> FeatureStore:
    """Return the store of features under BatchNorm statistics of class-balanced images.

    Stage 1's running statistics are those of long-tailed batches. Here they become the plain mean over up to 100
    class-balanced batches, augmented as in training; weights stay as they are. The statistics are kept in the run.

    Raises:
        ValueError: The network has no BatchNorm.
    """
    train = store.run.config
    batch_size = config.batch_size or train.batch_size
    key = {"features": exactly(store.key("train")), "seed": config.seed, "batch_size": batch_size}
    path = store.run.path / "features" / FOLDER / "batch_norm.safetensors"
    statistics: dict[str, Tensor] = {}
    if path.is_file():
        with contextlib.suppress(ValueError):  # a damaged file is written again
            stored, metadata = native.load(path)
            statistics = stored if metadata == key else {}
    if not statistics:
        statistics = estimate(store, config.seed, batch_size)
        native.save(path, statistics, key)
    return store.with_backbone({**store.tensors, **statistics}, FOLDER)


@torch.inference_mode()
def estimate(store: FeatureStore, seed: int, batch_size: int) -> dict[str, Tensor]:
    """Return the mean of BatchNorm's batch statistics over one epoch of class-balanced batches, at most 100."""
    model = fresh_model(store)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers = batch_norms(model)
    if not layers:
        raise ValueError(
            f"--reestimate-batch-norm: got it with --backbone {store.run.config.backbone}; expected a network with "
            "BatchNorm statistics; drop it"
        )
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.train()
    preprocess = Preprocess(store.run.config.mean, store.run.config.std).to(store.device)
    train = store.splits["train"]
    sampler = LongTailSampler(
        train.labels,
        sampling="class_balanced",
        batch_size=batch_size,
        seed=seed,
        num_classes=train.num_classes,
        rank=0,
        world_size=1,
    )
    num_batches = min(NUM_BATCHES, len(sampler))
    images = training_images(store, sampler, num_steps=num_batches)
    with multiplying(store.device, "fp32"), contextlib.closing(images):
        for batch in images:
            model.features(preprocess(batch.images, batch.jitter, batch.order))
    log.info("BatchNorm: statistics of %d class-balanced batches of %d images", num_batches, batch_size)
    return {key: value for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
