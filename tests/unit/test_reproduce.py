"""The settings of `fastlt reproduce`, and what starts its processes."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from fastlt.commands.reproduce import arguments, default_folder, settings
from fastlt.commands.train import train_config
from fastlt.config import SAMPLINGS, RebalanceConfig
from fastlt.recipes import recipe
from fastlt.reproduce import of_sampling, reproduce
from fastlt.runtime.launch import flags


def test_flags_turn_one_config_into_another() -> None:
    base = recipe("places_lt")
    wanted = dataclasses.replace(
        base,
        data_root=Path("a b"),
        train_only=(),
        backbone_lr=None,
        crop_scale=(0.1, 1.0),
        compile=False,
        gpus=2,
        lr=0.3,
    )
    assert train_config(flags(wanted, base)) == wanted
    assert flags(base, base) == ["--dataset", "places_lt"]


def test_a_batch_takes_its_learning_rates_with_it() -> None:
    config = settings(arguments(["--dataset", "places_lt", "--batch-size", "64"]))
    assert (config.lr, config.backbone_lr) == (pytest.approx(0.025), pytest.approx(0.0025))
    config = settings(arguments(["--dataset", "places_lt", "--batch-size=64", "--lr", "0.1"]))
    assert (config.lr, config.backbone_lr) == (0.1, pytest.approx(0.0025))


def test_it_takes_every_flag_of_training() -> None:
    base = recipe("inat2018")
    wanted = dataclasses.replace(
        base, loss="ldam", mixup=0.2, image_size=64, crop_scale=(0.2, 1.0), compile=False, ema=0.9, memory_share=0.5
    )
    assert dataclasses.replace(settings(arguments(flags(wanted, base))), sampling=base.sampling) == wanted
    config = settings(arguments(["--dataset", "inat2018", "--samples-per-class", "4"]))
    draws = {sampling: of_sampling(config, sampling, 1).samples_per_class for sampling in SAMPLINGS}
    assert draws == dict.fromkeys(SAMPLINGS) | {"class_balanced": 4}
    for argv in (["--sampling", "square_root"], ["--seed=1"], ["--resume"]):
        with pytest.raises(ValueError, match=rf"^{argv[0].partition('=')[0]}: got it in a table"):
            arguments(["--dataset", "inat2018", *argv])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "^--dataset: got none"),
        (["--dataset", "inat2018", "--methods", "taus"], "^--methods: got 'taus'; did you mean 'tau'"),
        (["--dataset", "inat2018", "--methods", "all"], "^--methods: got 'all'"),
        (["--dataset", "inat2018", "--methods", "tau", "tau"], "^--methods: got tau tau"),
        (["--dataset", "inat2018", "--samples-per-class", "4", "--samplings", "square_root"], "^--samples-per-class: "),
        (["--dataset", "inat2018", "--seeds", "1", "1"], "^--seeds: got 1 1"),
        (["--dataset", "inat2018", "--mixup", "-1"], "^--mixup: got -1"),
    ],
)
def test_bad_arguments_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(argv)


def test_other_settings_have_another_folder_and_those_of_before_theirs() -> None:
    def folder(*argv: str) -> str:
        return str(default_folder(settings(arguments(["--dataset", "inat2018", *argv]))))

    plain = "runs/inat2018/reproduce-resnet50-90"
    assert folder() == folder("--batch-size", "256") == folder("--log-every", "3") == plain
    assert folder("--epochs", "200", "--synthetic") == "runs/inat2018/reproduce-resnet50-200-synthetic"
    marked = {folder("--loss", "ldam"), folder("--lr", "0.5"), folder("--loss", "mine:loss")}
    assert len(marked) == 3
    assert all(each.startswith(f"{plain}-") for each in marked)
    # A mark of the settings themselves, whatever a later version says of them
    mark = hashlib.sha256(b'{"loss": "ldam", "lr": 0.5}').hexdigest()[:6]
    assert folder("--lr", "0.5", "--loss", "ldam", "--mixup", "0") == f"{plain}-{mark}"


def test_torchrun_is_not_what_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"^reproduce: got .*torchrun.*--gpus N.* fastlt train"):
        reproduce(recipe("glyphs_lt"), RebalanceConfig(method="all"), samplings=SAMPLINGS, seeds=(0,), out=tmp_path)
