"""cifar10_lt, cifar100_lt, CIFAR with an exponential tail: 50,000 images of 32 pixels cut to 12,406 or 10,847."""

import dataclasses

from ..config import TrainConfig
from .sources import CAO, OURS

# The usual settings of CIFAR-LT, with two differences: the network is resnet8 instead of ResNet-32, whose blocks no
# other recipe needs, and crops are resized instead of shifted.
SOURCES = dict.fromkeys(
    (
        "epochs",
        "batch_size",
        "lr",
        "momentum",
        "weight_decay",
        "sampling",
        "flip",
        "mean",
        "std",
        "image_size",
        "imbalance",
        "data_seed",
    ),
    CAO,
) | {"backbone": OURS, "schedule": OURS, "crop_scale": OURS}


def cifar10_lt() -> TrainConfig:
    """Return the usual settings of CIFAR-10-LT (imbalance 100), with our smallest network."""
    return TrainConfig(
        dataset="cifar10_lt",
        backbone="resnet8",
        epochs=200,
        batch_size=128,
        lr=0.1,
        weight_decay=2e-4,
        image_size=32,
        eval_resize=32,
        crop_scale=(0.6, 1.0),
        color_jitter=0.0,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    )


def cifar100_lt() -> TrainConfig:
    """Return the usual settings of CIFAR-100-LT (imbalance 100): those of CIFAR-10-LT."""
    return dataclasses.replace(cifar10_lt(), dataset="cifar100_lt")
