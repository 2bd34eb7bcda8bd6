"""inat2018, iNaturalist 2018: 437,513 images of 8142 classes, 1000 to 2 each, with the paper's settings."""

from ..config import TrainConfig
from .sources import PAPER

SOURCES = PAPER

BACKBONES = ("resnet50", "resnet101", "resnet152")
EPOCHS = (90, 200)


def inat2018() -> TrainConfig:
    """Return the paper's settings: ResNet-50 for 90 epochs (200 with --epochs 200), its own mean and std, no jitter."""
    return TrainConfig(
        dataset="inat2018",
        backbone="resnet50",
        epochs=90,
        batch_size=512,
        lr=0.2,
        weight_decay=1e-4,
        color_jitter=0.0,
        mean=(0.466, 0.471, 0.380),
        std=(0.195, 0.194, 0.192),
    )
