"""imagenet_lt, ImageNet-LT: 115,846 images of 1000 classes, 1280 to 5 each, with the paper's settings."""

from ..config import TrainConfig
from .sources import PAPER

SOURCES = PAPER

BACKBONES = (
    "resnext50_32x4d",
    "resnet10",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext101_32x4d",
    "resnext152_32x4d",
)
EPOCHS = (90, 200)


def imagenet_lt() -> TrainConfig:
    """Return the paper's settings: ResNeXt-50 for 90 epochs (200 with --epochs 200), batch 512 at rate 0.2."""
    return TrainConfig(
        dataset="imagenet_lt",
        backbone="resnext50_32x4d",
        epochs=90,
        batch_size=512,
        lr=0.2,
        weight_decay=5e-4,
        color_jitter=0.4,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
