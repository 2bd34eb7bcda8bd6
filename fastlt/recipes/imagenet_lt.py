"""imagenet_lt, ImageNet-LT: 115,846 images of 1000 classes, 1280 to 5 each, with the paper's settings."""

from ..config import TrainConfig


def imagenet_lt() -> TrainConfig:
    """Return the paper's settings: ResNeXt-50 for 90 epochs (200 with --epochs 200), batch 512 at rate 0.2."""
    return TrainConfig(dataset="imagenet_lt", backbone="resnext50_32x4d", epochs=90, batch_size=512, lr=0.2)
