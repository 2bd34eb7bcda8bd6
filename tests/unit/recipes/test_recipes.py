"""Recipes and the paper's schedules."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from fastlt.cli import dispatch
from fastlt.commands.train import warn_of_settings
from fastlt.config import SAMPLINGS, RebalanceConfig, TrainConfig
from fastlt.data import LongTailSampler
from fastlt.data.published.listed import benchmark_counts
from fastlt.data.published.specs import BENCHMARKS
from fastlt.data.registry import PUBLISHED
from fastlt.models.resnet import SPECS
from fastlt.recipes import PUBLISHED_RECIPES, RECIPES, choices, recipe, sources
from fastlt.recipes.checks import check_start
from fastlt.recipes.released import QUIRKS
from fastlt.recipes.sources import AUTHOR, CAO, CODE, OURS, TABLE
from fastlt.recipes.stage2 import stage2
from fastlt.schedule import learning_rate


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^--dataset: got 'glyph_lt'.*'glyphs_lt'"):
        recipe("glyph_lt")


# Fingerprints: a recipe that changes is another one, whose runs neither go on nor compare with those before
SETTINGS = {
    "glyphs_lt": "c007ff0c0e8f92ff",
    "imagenet_lt": "bec786684b43b2e6",
    "inat2018": "4789ef4d0e4d6d77",
    "places_lt": "5443138ca625d94b",
    "cifar10_lt": "cf506983259640d5",
    "cifar100_lt": "d3e157390f58b399",
    "folder": "9bdf344361e4dd9c",
}


def test_a_recipe_stays_what_it_is() -> None:
    assert {name: recipe(name).fingerprint() for name in RECIPES} == SETTINGS


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
    assert config.epochs == (30 if name == "places_lt" else 90)
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    own = ((0.466, 0.471, 0.38), (0.195, 0.194, 0.192))
    assert (config.mean, config.std) == (own if name == "inat2018" else imagenet)
    assert (config.backbone_lr, config.train_only) == ((0.01, ("layer4", "fc")) if name == "places_lt" else (None, ()))


def test_every_published_set_has_a_recipe() -> None:
    assert set(PUBLISHED_RECIPES) == set(PUBLISHED)


def test_both_cifars_have_the_usual_settings() -> None:
    ten, hundred = recipe("cifar10_lt"), recipe("cifar100_lt")
    assert (ten.epochs, ten.batch_size, ten.lr, ten.weight_decay) == (200, 128, 0.1, 2e-4)
    assert hundred == dataclasses.replace(ten, dataset="cifar100_lt")


@pytest.mark.parametrize("name", RECIPES)
def test_every_value_of_a_recipe_has_a_source(name: str) -> None:
    origins = sources(name)
    assert {"backbone", "epochs", "batch_size", "lr", "weight_decay", "mean", "color_jitter"} <= origins.keys()
    assert origins.keys() <= recipe(name).to_json().keys()
    assert "data_root" not in origins
    assert set(origins.values()) <= {CODE, TABLE, AUTHOR, CAO, OURS}


def test_parts_that_would_stay_random_are_told(caplog: pytest.LogCaptureFixture) -> None:
    places = recipe("places_lt")
    assert check_start(dataclasses.replace(places, init=Path("resnet152.pth"))) is None
    assert check_start(dataclasses.replace(places, synthetic=True)) is None
    assert check_start(recipe("imagenet_lt")) is None
    warn_of_settings(dataclasses.replace(places, resume=True))
    assert not caplog.records
    warn_of_settings(dataclasses.replace(places, batch_size=64))
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "by the linear rule is --lr 0.025 and --backbone-lr 0.0025 here" in warnings[0]
    assert warnings[1].startswith("--train-only layer4 fc without --init: ")


def test_only_what_was_released_is_said_to_be() -> None:
    assert sources("imagenet_lt")["lr"] == CODE
    assert sources("places_lt")["lr"] == AUTHOR  # no configuration was released
    assert sources("cifar10_lt")["backbone"] == OURS
    assert set(sources("folder").values()) == {OURS}


@pytest.mark.parametrize("name", ["imagenet_lt", "inat2018", "places_lt"])
def test_every_published_choice_makes_a_valid_recipe(name: str) -> None:
    published = choices(name)
    config = recipe(name)
    assert config.backbone in published["backbone"]
    assert config.epochs in published["epochs"]
    for backbone in published["backbone"]:
        assert dataclasses.replace(config, backbone=backbone).backbone in SPECS


@pytest.mark.parametrize(
    ("name", "crt_epochs", "batch_size", "lr", "weight_decay", "source"),
    [
        ("imagenet_lt", 10, 512, 0.2, 5e-4, CODE),
        ("inat2018", 30, 512, 0.2, 1e-4, CODE),
        ("places_lt", 10, 256, 0.1, 5e-4, AUTHOR),
        ("cifar10_lt", 10, 128, 0.05, 5e-4, OURS),
    ],
)
def test_stage_2_has_the_papers_settings(
    name: str, crt_epochs: int, batch_size: int, lr: float, weight_decay: float, source: str
) -> None:
    config = recipe(name)
    later = stage2(name, batch_size=config.batch_size)
    assert (later.crt_epochs, later.lws_epochs, later.batch_size) == (crt_epochs, 5, batch_size)
    assert (later.lr, later.weight_decay, later.source) == (pytest.approx(lr), weight_decay, source)
    assert later.batch_size == config.batch_size
    if source != OURS:
        assert later.weight_decay == config.weight_decay


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(
    ("name", "num_images", "steps"),
    [("imagenet_lt", 115_846, 226), ("inat2018", 437_513, 854), ("places_lt", 62_500, 244)],
)
def test_an_epoch_has_the_papers_steps_whatever_the_sampling(
    name: str, num_images: int, steps: int, sampling: str
) -> None:
    config, counts = recipe(name), benchmark_counts(BENCHMARKS[name])
    assert counts.sum() == num_images
    sampler = LongTailSampler(
        np.repeat(np.arange(len(counts)), counts),
        sampling=sampling,
        batch_size=config.batch_size,
        num_epochs=config.epochs,
    )
    assert len(sampler) == steps == num_images // config.batch_size
    if sampling == "progressively_balanced":  # lambda = (E - 1) / (T - 1) in epoch E of T
        for epoch in (1, 2, config.epochs):
            share = (epoch - 1) / (config.epochs - 1)
            expected = (1 - share) * counts / num_images + share / len(counts)
            got = sampler.class_probabilities((epoch - 1) * steps)
            np.testing.assert_allclose(got, expected, rtol=1e-12)
            np.testing.assert_allclose(sampler.class_probabilities(epoch * steps - 1), got, rtol=0)


def test_a_recipe_is_printed_with_its_second_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dispatch(["recipes", "inat2018", "--json", str(tmp_path / "recipe.json")])
    out = capsys.readouterr().out
    for flag, value in (("--epochs", r"30 \(crt\), 5 \(lws\)"), ("--lr", "0.2"), ("--weight-decay", "0.0001")):
        assert re.search(rf"rebalance {flag} +{value} +{CODE}", out), flag
    assert json.loads((tmp_path / "recipe.json").read_text())["stage2"]["weight_decay"] == 1e-4


def test_quirks_name_switches_that_exist() -> None:
    fields = {
        "train": {field.name for field in dataclasses.fields(TrainConfig)},
        "rebalance": {field.name for field in dataclasses.fields(RebalanceConfig)},
    }
    seen = set()
    for quirk in QUIRKS:
        command = ""
        for word in quirk.switch.replace(";", "").split():
            command = word if word in fields else command
            if word.startswith("--"):
                name = word.removeprefix("--").replace("-", "_")
                assert name in fields[command], quirk
                seen.add(name)
    assert {"schedule", "samples_per_class", "batch_norm", "bn_group", "features", "select_on"} <= seen
