"""places_lt, Places-LT: 62,500 images of 365 classes, 4980 to 5 each; trains a pretrained ResNet-152's last block."""

from ..config import TrainConfig
from .sources import AUTHOR, PAPER

SOURCES = PAPER | dict.fromkeys(
    ("epochs", "batch_size", "lr", "backbone_lr", "weight_decay", "train_only", "init", "color_jitter"), AUTHOR
)

BACKBONES = ("resnet152",)
EPOCHS = (30, 90)


def places_lt() -> TrainConfig:
    """Return the paper's settings: batch 256, rate 0.1 for the classifier and 0.01 for the last block, 30 epochs.

    The source is the author's word, since no configuration was released. Give ImageNet weights with --init.
    """
    return TrainConfig(
        dataset="places_lt",
        backbone="resnet152",
        epochs=30,
        batch_size=256,
        lr=0.1,
        backbone_lr=0.01,
        weight_decay=5e-4,
        train_only=("layer4", "fc"),
    )
