"""Recipes and the paper's schedules."""

import pytest

from fastlt.config import TrainConfig
from fastlt.recipes import recipe
from fastlt.step import learning_rate


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="--dataset: got 'glyph_lt'; did you mean 'glyphs_lt'"):
        recipe("glyph_lt")


def test_the_papers_schedule_is_a_cosine_from_base_to_almost_zero() -> None:
    config = TrainConfig(epochs=10, lr=0.2)
    rates = [learning_rate(config, epoch) for epoch in range(10)]
    assert rates[0] == 0.2
    assert rates[5] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.006


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (10, [0.19511, 0.1809, 0.15878, 0.1309, 0.1, 0.0691, 0.04122, 0.0191, 0.00489, 0]),
        (5, [0.1809, 0.1309, 0.0691, 0.0191, 0]),
    ],
)
def test_the_released_schedule_ends_at_zero(epochs: int, expected: list[float]) -> None:
    config = TrainConfig(epochs=epochs, lr=0.2, protocol="released")
    assert [learning_rate(config, epoch) for epoch in range(epochs)] == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize(
    ("name", "backbone", "batch_size", "lr", "weight_decay"),
    [
        ("imagenet_lt", "resnext50_32x4d", 512, 0.2, 5e-4),
        ("inat2018", "resnet50", 512, 0.2, 1e-4),
        ("places_lt", "resnet152", 256, 0.1, 5e-4),
    ],
)
def test_the_papers_benchmarks_have_its_settings(
    name: str, backbone: str, batch_size: int, lr: float, weight_decay: float
) -> None:
    config = recipe(name)
    assert (config.dataset, config.backbone, config.batch_size) == (name, backbone, batch_size)
    assert (config.lr, config.weight_decay, config.momentum) == (lr, weight_decay, 0.9)
    assert (config.image_size, config.resize, config.crop_scale) == (224, 256, (0.08, 1.0))
    assert config.color_jitter == (0.0 if name == "inat2018" else 0.4)
    assert (config.trunk_lr, config.train_only) == ((0.01, ("layer4", "fc")) if name == "places_lt" else (None, ()))
