"""Find the order of a checkpoint's classes by its answers on train images."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..checkpoints.class_order import ClassOrder
from ..config import RebalanceConfig, TrainConfig
from ..data.dataset import LongTailedDataset
from ..data.loaders.loader import eval_loader
from ..data.transforms.augmentation import eval_transform
from ..features.extraction import Extractor
from ..features.store import load_model
from ..runtime.device import resolve_device
from ..runtime.log import log
from ..runtime.machine import resolve_threads

NUM_TRIED = 256  # images
LUCK = 0.02  # the highest probability of a lead by chance


def choose_order(
    path: Path,
    settings: RebalanceConfig,
    config: TrainConfig,
    tensors: dict[str, Tensor],
    train: LongTailedDataset,
    orders: Sequence[ClassOrder],
) -> ClassOrder:
    """Return the order in which a checkpoint's head is right most often on train images.

    Only images of classes that the orders number differently are tried.

    Args:
        path: The checkpoint, for messages.
        settings: How its network runs.
        config: Its network and preprocessing.
        tensors: Its weights under our names, with the head in the first of the orders.
        train: The train images.
        orders: Two or more.

    Raises:
        ValueError: None leads clearly.
    """
    moved = sorted({at for order in orders[1:] for at in order.differing(orders[0])})
    indices = sample_of(train.labels, np.array(moved), NUM_TRIED)
    predictions = predict_rows(path, settings, config, tensors, train, indices)
    rows = np.array(orders[0].rows)[predictions]
    labels = train.labels[indices]
    right = [np.argsort(order.rows)[rows] == labels for order in orders]
    best, second = sorted(range(len(orders)), key=lambda at: -int(right[at].sum()))[:2]
    counts = [f"{int(hits.sum())} in {order.name}" for order, hits in zip(orders, right, strict=True)]
    tried = f"of {len(indices)} train images of {len(moved)} classes are right"
    if is_lead(int((right[best] & ~right[second]).sum()), int((right[second] & ~right[best]).sum())):
        log.info("%s: classes in %s order: %s %s", path, orders[best].name, ", ".join(counts), tried)
        return orders[best]
    one, two = orders[best], orders[second]
    shown = [
        f"{order.name} order ({order.first_names(train.class_names, other)})"
        for order, other in ((one, two), (two, one))
    ]
    raise ValueError(
        f"{path}: got a head without class names, whose order the images do not tell: {', '.join(counts)} {tried}; "
        f"expected {' or '.join(shown)}; give --classes torchvision, --classes timm or --classes FILE (and check "
        "--image-size, --mean and --std if few are right)"
    )


def is_lead(ahead: int, behind: int) -> bool:
    """Return whether one order is ahead of another by more than luck: a sign test on the images that tell them apart.

    Args:
        ahead: Images that are right in the first order only.
        behind: Images that are right in the second order only.
    """
    total = ahead + behind
    tail = sum(math.comb(total, count) for count in range(ahead, total + 1))
    return ahead > behind and tail <= LUCK * 2**total


def sample_of(labels: np.ndarray, classes: np.ndarray, most: int) -> np.ndarray:
    """Return indices of images of some classes, evenly spread over these and within each: int64 [*]."""
    if len(classes) > most:
        classes = classes[np.linspace(0, len(classes) - 1, most).astype(np.int64)]
    share = max(1, most // len(classes))
    chosen = []
    for label in classes.tolist():
        members = np.flatnonzero(labels == label)
        places = np.linspace(0, len(members) - 1, min(share, len(members))).astype(np.int64)
        chosen.append(members[np.unique(places)])
    return np.sort(np.concatenate(chosen))


def predict_rows(
    path: Path,
    settings: RebalanceConfig,
    config: TrainConfig,
    tensors: dict[str, Tensor],
    train: LongTailedDataset,
    indices: np.ndarray,
) -> np.ndarray:
    """Return the class that a network gives each of some images: int64 [*]."""
    device = resolve_device(settings.device)
    model = load_model(config, tensors, train.num_classes, path).to(device)
    extractor = Extractor(model, config, device)
    loader = functools.partial(
        eval_loader,
        batch_size=max(1, config.batch_size // config.accumulate),
        device=device,
        backend=settings.loader,
        num_threads=resolve_threads(settings.num_threads),
        memory_share=config.memory_share,
    )
    answers = []
    with extractor.computing(), contextlib.closing(loader(train, eval_transform(config), indices=indices)) as batches:
        for features in extractor.features(batches, len(indices)):
            answers.append(F.linear(features, model.fc.weight, model.fc.bias).argmax(1).cpu())
    return torch.cat(answers).numpy()
