"""Settings: JSON round trips and refusals."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from fastlt.config import EvaluateConfig, RebalanceConfig, TrainConfig, check_choice
from fastlt.config.base import check_range
from fastlt.config.checkpoint import CheckpointConfig
from fastlt.config.export import ExportConfig
from fastlt.config.predict import PredictConfig
from fastlt.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    config = dataclasses.replace(recipe(name), data_root=Path("images"), out=Path("runs/x"))
    assert TrainConfig.from_json(config.to_json(), source="test") == config
    assert config.dataset == name


def test_every_field_has_a_help_text() -> None:
    import inspect
    import re

    for kind in (TrainConfig, RebalanceConfig, EvaluateConfig):
        source = inspect.getsource(kind)
        for field in dataclasses.fields(kind):
            assert re.search(rf'^    {field.name}: .*\n    """', source, re.MULTILINE), f"{kind.__name__}.{field.name}"


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^config\.json: .*'epoch'"):
        TrainConfig.from_json({"epoch": 3}, source="config.json")


def test_fingerprint_ignores_where_and_how_fast_but_not_what() -> None:
    config = TrainConfig()
    assert config.fingerprint() == dataclasses.replace(config, out=Path("x"), device="cpu", num_threads=3).fingerprint()
    assert config.fingerprint() != dataclasses.replace(config, seed=1).fingerprint()
    assert config.fingerprint() != dataclasses.replace(config, lr=0.3).fingerprint()


def test_a_setting_added_later_changes_no_fingerprint() -> None:
    assert TrainConfig().fingerprint() == "44136fa355b3678a"  # of no settings at all
    older = {key: value for key, value in TrainConfig().to_json().items() if key != "ema"}
    assert TrainConfig.from_json(older, source="config.json") == TrainConfig()


def test_names_of_before_are_read() -> None:
    values = TrainConfig(backbone_lr=0.05).to_json()
    values["trunk_lr"] = values.pop("backbone_lr")
    assert TrainConfig.from_json(values, source="config.json") == TrainConfig(backbone_lr=0.05)


def test_the_evaluation_resize_scales_with_the_image_size() -> None:
    assert TrainConfig().resize == 256
    assert TrainConfig(image_size=112).resize == 128
    assert TrainConfig(image_size=32, eval_resize=40).resize == 40


def test_the_released_protocol_draws_four_images_a_class() -> None:
    assert TrainConfig().draws_per_class == 1
    assert TrainConfig(protocol="released").draws_per_class == 4
    own = TrainConfig(protocol="released", sampling="class_balanced", samples_per_class=2)
    assert own.draws_per_class == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, r"^--epochs: got 0\b"),
        ({"epochs": 10**400}, r"^--epochs: got 10{59};"),
        ({"lr": float("nan")}, r"^--lr: got nan\b"),
        ({"lr": 0.0}, r"^--lr: got 0\.0\b"),
        ({"momentum": 1.5}, r"^--momentum: got 1\.5\b"),
        ({"sampling": "class_balance"}, r"^--sampling: got 'class_balance'.*'class_balanced'"),
        ({"protocol": "papers"}, r"^--protocol: got 'papers'.*'paper'"),
        ({"loader": "dally"}, r"^--loader: got 'dally'.*'dali'"),
        ({"precision": "fp16"}, r"^--precision: got 'fp16'.*auto, fp32, bf16"),
        ({"cuda_graphs": True, "compile": False}, r"^--cuda-graphs: .*--no-compile\b"),
        ({"crop_scale": (0.5, 1.5)}, r"^--crop-scale: got 0\.5 1\.5\b.*<= 1\b"),
        ({"crop_ratio": (2.0, 1.0)}, r"^--crop-ratio: got 2\.0 1\.0\b"),
        ({"std": (0.0, 1.0, 1.0)}, r"^--std: got .*0\.0\b"),
        ({"mean": (float("inf"), 1.0, 1.0)}, r"^--mean: got .*\binf\b"),
        ({"eval_resize": 100}, r"^--eval-resize: got 100\b"),
        ({"seed": -1}, r"^--seed: got -1\b"),
        ({"seed": 2**63 + 2048}, f"^--seed: got {2**63 + 2048}"),
        ({"data_seed": 2**32}, f"^--data-seed: got {2**32}"),
        ({"memory_share": 1.01}, r"^--memory-share: got 1\.01\b"),
        ({"randaugment": 17}, r"^--randaugment: got 17\b"),
        ({"num_threads": 0}, r"^--num-threads: got 0\b"),
        ({"loss": "focal"}, "^--loss: got 'focal'.*'cb_focal'"),
        ({"loss": "mine.py:loss"}, r"^--loss: got 'mine\.py:loss'.*mine:loss\?"),
        ({"loss": "mine:loss", "label_smoothing": 0.1}, r"^--label-smoothing: got 0\.1\b.*--loss mine:loss\b"),
        ({"schedule": "release"}, "^--schedule: got 'release'.*'released'"),
        ({"batch_norm": "frozen"}, r"^--batch-norm: got frozen\b.*--train-only\b"),
        ({"sync_bn": True, "bn_group": 64}, r"^--sync-bn: .*--bn-group\b"),
        ({"loss": "cb_focal", "label_smoothing": 0.1}, r"^--label-smoothing: got 0\.1\b.*--loss cb_focal\b"),
        ({"warmup_epochs": 91}, r"^--warmup-epochs: got 91\b"),
        ({"backbone_lr": 0.0}, r"^--backbone-lr: got 0\.0\b"),
        ({"randaugment_magnitude": 31.0}, r"^--randaugment-magnitude: got 31\b"),
        ({"gpus": 0}, r"^--gpus: got 0\b"),
        ({"samples_per_class": 4}, r"^--samples-per-class: got 4\b.*--sampling instance_balanced\b"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


@pytest.mark.parametrize("tau", ["nan", "inf", "-1", "-inf", "much", ""])
def test_bad_tau_is_refused(tau: str) -> None:
    with pytest.raises(ValueError, match=r"^--tau: got "):
        RebalanceConfig(tau=tau)


def test_tau_is_a_number_or_auto() -> None:
    assert RebalanceConfig(tau="0.7").fixed_tau() == 0.7
    assert RebalanceConfig(tau="auto").fixed_tau() is None


LEAST_ONE = ("epochs", "batch_size", "image_size", "log_every", "num_threads", "prefetch", "gpus", "accumulate",
             "bn_group", "samples_per_class")  # fmt: skip
SHARES = ("label_smoothing", "ema", "momentum", "flip", "color_jitter", "hw_decoder_load", "memory_share")


@pytest.mark.parametrize("kind", [TrainConfig, RebalanceConfig, EvaluateConfig, PredictConfig])
def test_every_number_has_its_range(kind: Any) -> None:
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    wrong: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(LEAST_ONE, (0,)),
        **dict.fromkeys(SHARES, (-0.01, 1.01)),
        "views": (0,),
        "top": (0,),
        "lr": (0.0, -1.0),
        "backbone_lr": (0.0,),
        "weight_decay": (-1e-9,),
        "warmup_epochs": (-1,),
        "mixup": (-0.1,),
        "randaugment": (-1, 17),
        "randaugment_magnitude": (-0.1, 30.1),
        "imbalance": (0.9,),
        "data_seed": (-1, 2**32),
        "seed": (-1, 2**63),
        "synthetic_size": ((15, 64), (64, 4097)),
    }
    for name in fields.keys() & wrong.keys():
        for value in wrong[name]:
            listed = (value,) if isinstance(fields[name], tuple) and not isinstance(value, tuple) else value
            with pytest.raises(ValueError, match=f"^--{name.replace('_', '-')}: got "):
                kind(**{name: listed})


@pytest.mark.parametrize("kind", [TrainConfig, RebalanceConfig, EvaluateConfig, PredictConfig, ExportConfig])
def test_every_name_is_one_of_a_few(kind: Any) -> None:
    free = {"backbone", "dataset", "device", "target", "tau", "strength", "run", "method"}
    for field in dataclasses.fields(kind):
        if field.type == "str" and field.name not in free:
            with pytest.raises(ValueError, match=f"^--{field.name.replace('_', '-')}: got 'zzz'"):
                kind(**{field.name: "zzz"})
    if kind is RebalanceConfig:
        with pytest.raises(ValueError, match=r"^--method: got 'zzz'"):
            kind(method="zzz")
    elif kind is not TrainConfig:  # which classifiers a run has is known once it is open
        with pytest.raises(ValueError, match=r"^--method: got '\.\./zzz:'"):
            kind(method="../zzz:")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"select_on": "test"}, r"^--select-on: got test\b.*--force\b"),
        ({"fine_tune": "all"}, r"^--fine-tune: got all\b.*--method auto\b.*--features cached\b"),
        ({"method": "crt", "features": "cached", "protocol": "released"}, r"^--features: got cached\b.*--protocol rel"),
        ({"method": "crt", "features": "live", "views": 2}, r"^--views: got 2\b.*--features live\b"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RebalanceConfig(**change)


def test_a_range_says_which_ends_it_has() -> None:
    for value, options, expected in (
        (-1, {"low": 0}, "at least 0"),
        (0, {"low": 0, "low_open": True}, "more than 0"),
        (7, {"low": 0, "high": 6}, "at least 0 and at most 6"),
        (0, {"low": 1, "unit": "pixels"}, "at least 1 pixels"),
    ):
        with pytest.raises(ValueError, match=rf"^--x: got {value}; expected .*\b{expected}$"):
            check_range("--x", value, **options)
    check_range("--x", 6, low=6, high=6)
    TrainConfig(seed=2**63 - 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": (0.0, 1.0, 1.0)}, r"^--std: got .*0\.0\b"),
        ({"std": (1.0, 1.0, float("inf"))}, r"^--std: got .*\binf\b"),
        ({"mean": (float("nan"), 1.0, 1.0)}, r"^--mean: got .*\bnan\b"),
        ({"image_size": 0}, r"^--image-size: got 0\b"),
        ({"eval_resize": 0}, r"^--eval-resize: got 0\b"),
        ({"interpolation": "nearest"}, "^--interpolation: got 'nearest'"),
    ],
)
def test_what_is_said_of_a_checkpoint_has_to_work(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CheckpointConfig(**change)
    assert CheckpointConfig(mean=(0.0, -1.0, 1.0), image_size=1).given() == ("--image-size", "--mean")


def test_check_choice_without_a_near_name_lists_all() -> None:
    with pytest.raises(ValueError, match=r"^x: got 'zzz'; .*\ba, b$"):
        check_choice("x", "zzz", ("a", "b"))


def test_a_setting_of_one_method_names_it_and_nothing_leaves_the_choice_open() -> None:
    for change, method in (
        ({}, "auto"),
        ({"tau": "0.7"}, "tau"),
        ({"tau": "auto"}, "tau"),
        ({"strength": "1"}, "logit_adjustment"),
        ({"strength": "auto"}, "logit_adjustment"),
        ({"method": "all", "tau": "0.7"}, "all"),
        ({"method": "best"}, "best"),
    ):
        config = RebalanceConfig(**change)
        assert config.method == method
        assert RebalanceConfig(**vars(config)) == config
        assert (config.tau, config.strength) == (change.get("tau", "auto"), change.get("strength", "auto"))
    plain = RebalanceConfig(seed=1)
    assert dataclasses.replace(plain, tau="0.7").method == "tau"
    for change, flag in (
        ({"tau": "0.7", "strength": "1"}, "--method"),
        ({"method": "best", "tau": "0.7"}, "--tau"),
        ({"method": "best", "strength": "1"}, "--strength"),
        ({"select_on": "test", "force": True}, "--select-on"),
        ({"method": "best", "select_on": "test", "force": True}, "--select-on"),
    ):
        with pytest.raises(ValueError, match=rf"^{flag}: got "):
            RebalanceConfig(**change)


def test_settings_of_earlier_versions_still_load() -> None:
    stored = {"method": "tau", "tau": "auto", "strength": "auto", "select_on": "val", "seed": 3}
    config = RebalanceConfig.from_json(stored, source="config.json")
    assert (config.method, config.tau, config.strength, config.seed) == ("tau", "auto", "auto", 3)
