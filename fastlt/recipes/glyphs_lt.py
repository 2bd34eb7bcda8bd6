"""glyphs_lt, the embedded data set: 100 characters, imbalance ratio 100, made on first use."""

from ..config import TrainConfig


def glyphs_lt() -> TrainConfig:
    """Return the settings of the demo: a small network that trains in minutes on two processor cores."""
    return TrainConfig(
        dataset="glyphs_lt",
        backbone="resnet8",
        epochs=20,
        batch_size=128,
        lr=0.1,
        weight_decay=5e-4,
        image_size=32,
        eval_resize=32,
        crop_scale=(0.7, 1.0),
        flip=0.0,
        color_jitter=0.0,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
