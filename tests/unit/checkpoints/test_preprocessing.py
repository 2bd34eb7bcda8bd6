"""The preprocessing that a checkpoint's own files describe."""

from pathlib import Path
from typing import Any

import pytest

from fastlt.checkpoints.preprocessing import settle_preprocessing
from fastlt.config.checkpoint import CheckpointConfig

HERE = Path("net")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
TIMM = {"input_size": [3, 288, 288], "crop_pct": 0.95, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic"}


def settle(settings: dict[str, Any], pretrained: dict[str, Any] | None = None, **asked: Any) -> dict[str, Any]:
    return settle_preprocessing(HERE, settings, pretrained or {}, CheckpointConfig(**asked), force=False)


@pytest.mark.parametrize(
    ("processor", "size", "resize", "interpolation"),
    [
        # transformers' ResNet: ConvNeXt's processor, old and new
        ({"size": 224, "crop_pct": 0.875, "resample": 3}, 224, 256, "bicubic"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}}, 224, 256, "bilinear"),
        # which squeezes from 384 pixels on, without a cut
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, 384, "bilinear"),
        # BiT, and ViT, which squeezes
        (
            {"size": {"shortest_edge": 448}, "crop_size": {"height": 384, "width": 384}, "resample": 2},
            384,
            448,
            "bilinear",
        ),
        ({"size": {"height": 224, "width": 224}, "resample": 2}, 224, 224, "bilinear"),
        # a share rounds down, and a cut is never larger than what it is made from
        ({"size": {"shortest_edge": 383}, "crop_pct": 0.9}, 383, 425, "bilinear"),
        ({"size": {"shortest_edge": 200}, "crop_size": 224, "resample": 3}, 224, 224, "bicubic"),
        ({"do_resize": True}, 224, None, "bilinear"),
    ],
)
def test_transformers_processors(processor: dict[str, Any], size: int, resize: int, interpolation: str) -> None:
    settings = settle({"preprocessor_config": processor})
    assert (settings["image_size"], settings["eval_resize"], settings["interpolation"]) == (
        size,
        resize,
        interpolation,
    )
    assert {key: settings[key] for key in IMAGENET} == IMAGENET


def test_images_that_are_not_normalised() -> None:
    settings = settle({"preprocessor_config": {"size": 224, "do_normalize": False, "image_mean": [0.5] * 3}})
    assert settings["mean"] == (0, 0, 0)
    assert settings["std"] == (1, 1, 1)


@pytest.mark.parametrize("where", ["folder", "library"])
def test_timm_configurations(where: str) -> None:
    settings, pretrained = ({"config": {"pretrained_cfg": TIMM}}, {}) if where == "folder" else ({}, TIMM)
    expected = {"image_size": 288, "eval_resize": 303, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    assert settle(settings, pretrained) == expected | {"interpolation": "bicubic"}


def test_flags_come_first_and_a_new_size_takes_the_resize_along() -> None:
    settings = settle({}, TIMM, image_size=224, mean=(0.1, 0.2, 0.3), interpolation="bilinear")
    assert (settings["image_size"], settings["eval_resize"]) == (224, 235)  # 224 / 0.95
    assert settings["interpolation"] == "bilinear"
    assert (settings["mean"], settings["std"]) == ((0.1, 0.2, 0.3), (0.25,) * 3)
    assert settle({}, TIMM, eval_resize=320)["eval_resize"] == 320


@pytest.mark.parametrize(
    ("processor", "size", "resize"),
    [
        ({"size": {"shortest_edge": 448}, "crop_size": {"height": 384, "width": 384}}, 192, 224),
        ({"size": 224, "crop_pct": 0.875}, 112, 128),
        ({"size": {"height": 224, "width": 224}}, 160, 160),
        ({"size": {"shortest_edge": 200}, "crop_size": 224}, 112, 112),
    ],
)
def test_a_new_size_keeps_the_share_of_the_crop(processor: dict[str, Any], size: int, resize: int) -> None:
    assert settle({"preprocessor_config": processor}, image_size=size)["eval_resize"] == resize


def test_a_training_scripts_arguments_come_before_the_networks_configuration(caplog: pytest.LogCaptureFixture) -> None:
    arguments = {"img_size": 160, "crop_pct": 1, "mean": [0.1, 0.2, 0.3], "std": [0.2], "interpolation": ""}
    caplog.set_level("INFO")
    found = settle({"args": arguments | {"input_size": None, "model": "net"}}, TIMM)
    expected = {"image_size": 160, "eval_resize": 160, "mean": (0.1, 0.2, 0.3), "std": (0.2,) * 3}
    assert found == expected | {"interpolation": "bicubic"}
    assert "(image size, resize, mean, std: its args; interpolation: timm's configuration)" in caplog.text
    asked = settle({"args": arguments}, TIMM, image_size=96, std=(0.5, 0.5, 0.5))
    assert (asked["image_size"], asked["eval_resize"], asked["std"]) == (96, 96, (0.5,) * 3)
    assert "(image size, std: flags; resize, mean: its args; interpolation: timm's configuration)" in caplog.text
    assert settle({"args": {"input_size": [3, 96, 96], "img_size": 64}}, TIMM)["eval_resize"] == 101


def test_arguments_that_say_nothing_of_images_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert settle({"args": {"lr": 0.1, "model": "mine", "img_size": None}}) == settle({})
    assert settle({"args": {"lr": 0.1, "mean": None}}, TIMM) == settle({}, TIMM)
    assert settle({"args": {"img_size": "large", "mean": ["a"]}}) == settle({})
    warnings = [record.args for record in caplog.records if record.levelname == "WARNING"]
    assert [arguments[1] for arguments in warnings if arguments] == ["img_size", "mean"]


def test_timms_script_has_timms_defaults_and_torchvisions_has_names_of_its_own() -> None:
    nothing = dict.fromkeys(("img_size", "input_size", "crop_pct", "mean", "std"))
    found = settle({"args": nothing | {"interpolation": ""}})
    assert (found["image_size"], found["eval_resize"], found["interpolation"]) == (224, 256, "bicubic")
    found = settle({"args": {"val_crop_size": 224, "val_resize_size": 232, "interpolation": "bilinear"}})
    assert (found["image_size"], found["eval_resize"], found["interpolation"]) == (224, 232, "bilinear")
    assert settle({"args": {"img_size": 64}})["interpolation"] == "bilinear"


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({}, {"mean": (123.675, 116.28, 103.53)}),
        ({"args": {"mean": [123.675, 116.28, 103.53]}}, {}),
        ({"preprocessor_config": {"size": 224, "image_mean": [123.675, 116.28, 103.53]}}, {}),
    ],
)
def test_means_of_0_to_255_are_refused_with_the_right_ones(settings: dict[str, Any], flags: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^--mean: got 123\.675 116\.28 103\.53.* --mean 0\.485 0\.456 0\.406$"):
        settle(settings, **flags)
    with pytest.raises(ValueError, match=r"^--std: got 58\.395 57\.12 57\.375.* --std 0\.229 0\.224 0\.225$"):
        settle(settings, mean=(0.5, 0.5, 0.5), std=(58.395, 57.12, 57.375))


def test_nothing_known_is_imagenets() -> None:
    expected = {"image_size": 224, "eval_resize": None, "interpolation": "bilinear"}
    assert settle({}) == expected | IMAGENET


def test_a_timm_configuration_may_be_short() -> None:
    settings = settle({}, {"std": [0.25] * 3, "mean": None})
    assert (settings["image_size"], settings["eval_resize"], settings["interpolation"]) == (224, 256, "bicubic")
    assert (settings["mean"], settings["std"]) == (IMAGENET["mean"], (0.25,) * 3)


@pytest.mark.parametrize(
    ("settings", "squeezed"),
    [
        ({"preprocessor_config": {"size": {"height": 224, "width": 224}}}, True),
        ({"preprocessor_config": {"size": {"shortest_edge": 384}, "crop_pct": 0.875}}, True),
        ({"preprocessor_config": {"size": {"shortest_edge": 383}, "crop_pct": 0.875}}, False),
        ({"preprocessor_config": {"size": {"shortest_edge": 384}}}, False),
        ({"config": {"pretrained_cfg": TIMM | {"crop_mode": "squash"}}}, True),
        ({"config": {"pretrained_cfg": TIMM}}, False),
    ],
)
def test_squeezing_is_told(settings: dict[str, Any], squeezed: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        settle(settings)
    assert ("squeezed to a square" in caplog.text) is squeezed


def test_means_of_its_own_are_taken_and_another_filter_only_by_force(caplog: pytest.LogCaptureFixture) -> None:
    own = {"size": 224, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 1}
    with pytest.raises(ValueError, match=r"^--interpolation: .*lanczos.*--force"):
        settle({"preprocessor_config": own})
    settings = settle_preprocessing(HERE, {"preprocessor_config": own}, {}, CheckpointConfig(), force=True)
    assert (settings["mean"], settings["std"]) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert settings["interpolation"] == "bilinear"
    assert "lanczos interpolation asked for; bilinear is used instead" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": "224"},
        {"input_size": [3, "224", "224"]},
        {"input_size": [224]},
        {"input_size": [3, 0, 0]},
        {"input_size": [3, -5, -5]},
        {"input_size": [3, 10**9, 10**9]},
        {"crop_pct": "0.875"},
        {"crop_pct": float("inf")},
        {"crop_pct": float("nan")},
        {"crop_pct": 1e-320},
        {"crop_pct": -1},
        {"mean": [0.5, 0.5]},
        {"mean": "123"},
        {"mean": ["0.5"] * 3},
        {"mean": [float("nan")] * 3},
        {"std": [0.0] * 3},
        {"std": [1e999] * 3},
        {"std": 0.5},
        {"interpolation": 3},
        {"crop_mode": ["center"]},
    ],
)
def test_a_timm_configuration_that_makes_no_sense_is_one_clear_line(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^net: got [^\n]*; expected [^\n]*; .*--image-size"):
        settle({"config": {"pretrained_cfg": TIMM | change}})


@pytest.mark.parametrize(
    "processor",
    [
        {"size": "224"},
        {"size": [224, 224]},
        {"size": {"shortest_edge": "224"}},
        {"size": {"shortest_edge": 10**30}},
        {"size": -3},
        {"crop_size": {"height": 1e999}},
        {"size": 224, "crop_pct": 1e999},
        {"size": 224, "crop_pct": 1e-320},
        {"size": 224, "image_mean": [0.5, 0.5]},
        {"size": 224, "image_std": [0, 1, 1]},
        {"size": 224, "resample": 6},
        {"size": 224, "resample": -1},
        {"size": 224, "resample": "bilinear"},
        {"size": 224, "do_normalize": "no"},
        {"size": 224, "image_processor_type": {}},
    ],
)
def test_a_processor_that_makes_no_sense_is_one_clear_line(processor: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^net: got [^\n]*; expected [^\n]*; .*--image-size"):
        settle({"preprocessor_config": processor})


def test_settings_of_another_kind_are_one_clear_line() -> None:
    for config in ([1], 3, "timm"):
        with pytest.raises(ValueError, match=r"^net: got [^\n]*--image-size"):
            settle({"config": {"pretrained_cfg": config}})
    with pytest.raises(ValueError, match=r"^--interpolation: got sharp from net"):
        settle({"config": {"pretrained_cfg": TIMM | {"interpolation": "sharp"}}})
