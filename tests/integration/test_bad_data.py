"""What a user may get wrong about a benchmark, command by command: one line that says what to do, and status 2."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastlt.cli import main
from fastlt.data import LongTailedDataset, pack
from fastlt.data.packs.write import make_item
from fastlt.data.published.interface import DataOptions
from fastlt.data.registry import open_named
from fastlt.models import create_model
from fastlt.runtime.output import quoted

SHAPE = "--backbone resnet10 --epochs 1 --batch-size 8 --lr 0.003 --image-size 32 --device cpu --num-threads 1"
# Data set: (layout on the disk, layout of another data set, the folder that is taken for the root, the list of train)
CASES = {
    "imagenet_lt": ("imagenet", "places", "train", "ImageNet_LT_train.txt"),
    "places_lt": ("places", "inat", "data_256", "Places_LT_train.txt"),
    "inat2018": ("inat-json", "imagenet", "train_val2018", "train2018.json"),
}
COMMANDS = ("train", "reproduce", "verify", "pack", "info")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end with status 2 and one line, and return the line."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["fastlt", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        message = capsys.readouterr().err
        assert stop.value.code == 2
        assert message.startswith("fastlt: ")
        assert message.count("\n") == 1
        return message

    return run


def on(command: str, dataset: str, root: Path, lists: Path) -> list[object]:
    """The arguments of a command that opens a benchmark."""
    where = ["--dataset", dataset, "--lists", lists]
    if command in ("pack", "info"):
        return ["data", command, root, *where, *(["--out", "packed"] if command == "pack" else [])]
    if command == "verify":
        return ["data", "verify", *where, "--data-root", root]
    return [command, *where, "--data-root", root, *(SHAPE.split() if command == "train" else ["--device", "cpu"])]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("dataset", CASES)
def test_wrong_lists_wrong_roots_and_half_a_download(
    dataset: str,
    command: str,
    refused: Callable[..., str],
    make_miniature: Callable[[Path, str], Any],
    tmp_path: Path,
) -> None:
    layout, another, inner, listed = CASES[dataset]
    data, other = make_miniature(tmp_path / "my data", layout), make_miniature(tmp_path / "other", another)
    message = refused(*on(command, dataset, data.root, other.lists))
    assert re.match(rf"fastlt: --lists: .*{other.lists}, .*{'' if dataset == 'inat2018' else listed}", message)
    message = refused(*on(command, dataset, data.root.parent, data.lists))
    assert re.match(rf"fastlt: --data-root: .*{data.root.parent}, .* too high .*{listed}.* {data.root}\n", message)
    message = refused(*on(command, dataset, data.root / inner, data.lists))
    assert re.match(rf"fastlt: --data-root: .*{data.root / inner}, .* too low .*{listed}.* {data.root}\n", message)
    for file in sorted(path for path in data.root.rglob("*.*") if path.is_file())[::2]:
        file.unlink()
    message = refused(*on(command, dataset, data.root, data.lists))
    place = f"--data-root {quoted(data.root)} --lists {quoted(data.lists)}"
    remedy = f"`fastlt data verify --dataset {dataset} {place}`"
    assert (str(data.root) if command == "verify" else remedy) in message


@pytest.mark.parametrize("command", COMMANDS)
def test_json_without_annotations(
    command: str, refused: Callable[..., str], make_miniature: Callable[[Path, str], Any], tmp_path: Path
) -> None:
    data = make_miniature(tmp_path, "inat-json")
    file = data.lists / "train2018.json"
    file.write_text(json.dumps({"images": json.loads(file.read_text())["images"]}))
    message = refused(*on(command, "inat2018", data.root, data.lists))
    assert re.search(rf"{file}.*`annotations`.*COCO", message)


def test_a_list_with_spaces_in_paths_is_read_and_one_without_labels_is_not(
    refused: Callable[..., str], make_miniature: Callable[[Path, str], Any], tmp_path: Path
) -> None:
    data = make_miniature(tmp_path / "my data", "places-easy")
    for file in data.lists.iterdir():
        file.write_text(file.read_text().replace("airfield/", "air field/"))
    for top in ("train", "val"):
        (data.root / top / "airfield").rename(data.root / top / "air field")
    assert len(open_named("places_lt", data.root, DataOptions(lists=data.lists))["train"]) == 17
    file = data.lists / "Places_LT_train.txt"
    file.write_text("".join(f"{line.rpartition(' ')[0]}\n" for line in file.read_text().splitlines()))
    message = refused(*on("train", "places_lt", data.root, data.lists))
    assert f"{file}, line 1: got 'data_256/a/air field/00000000.jpg'" in message
    assert "`path label`" in message


def test_an_interrupted_pack(
    refused: Callable[..., str],
    make_miniature: Callable[[Path, str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_miniature(tmp_path, "places")

    def stop_at_10(dataset: LongTailedDataset, index: int, **options: Any) -> Any:
        if index == 10:
            raise KeyboardInterrupt
        return make_item(dataset, index, **options)

    with monkeypatch.context() as patch:
        patch.setattr("fastlt.data.packs.write.make_item", stop_at_10)
        with pytest.raises(KeyboardInterrupt):
            pack(
                open_named("places_lt", data.root, DataOptions(lists=data.lists)),
                tmp_path / "pack",
                dataset="places_lt",
            )
    for command in (
        ["train", "--dataset", "places_lt", "--data-root", tmp_path / "pack", *SHAPE.split()],
        ["reproduce", "--dataset", "places_lt", "--data-root", tmp_path / "pack", "--device", "cpu"],
        ["data", "verify", "--dataset", "places_lt", "--data-root", tmp_path / "pack"],
        ["data", "info", tmp_path / "pack", "--dataset", "places_lt"],
    ):
        message = refused(*command)
        assert re.search(rf"{tmp_path}/pack\b.*\b10 of 17 train.*`fastlt data pack`", message)


@pytest.mark.parametrize("command", ["train", "reproduce"])
def test_weights_and_processes_that_do_not_fit(
    command: str, refused: Callable[..., str], make_miniature: Callable[[Path, str], Any], tmp_path: Path
) -> None:
    data = make_miniature(tmp_path, "imagenet")
    torch.save(create_model("resnet50", 3).state_dict(), tmp_path / "r50.pth")
    arguments = on(command, "imagenet_lt", data.root, data.lists)
    message = refused(*arguments, "--init", "r50.pth")
    assert re.match(rf"fastlt: --init: .*{tmp_path / 'r50.pth'}: .*--backbone", message)
    assert "fastlt: --gpus: got 3 processes x 1 pieces" in refused(*arguments, "--gpus", "3")
    assert "fastlt: --accumulate: got 1 process x 3 pieces" in refused(*arguments, "--accumulate", "3")
