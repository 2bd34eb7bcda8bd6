"""folder, your own images: an image folder or list files, with the paper's ImageNet-LT settings to start from."""

from ..config import TrainConfig


def folder() -> TrainConfig:
    """Return settings for a set of photographs of moderate size: ResNet-50 at 224 pixels, batch 128."""
    return TrainConfig(dataset="folder", backbone="resnet50", batch_size=128, lr=0.05)
