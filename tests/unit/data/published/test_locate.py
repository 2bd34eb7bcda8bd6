"""The benchmarks on disk: every layout is found, and what is wrong is said in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlt.config import TrainConfig
from fastlt.data.published.interface import DataOptions
from fastlt.data.published.specs import BENCHMARKS, class_folder
from fastlt.data.registry import open_data, open_named


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def places(tmp_path: Path, make_miniature: Callable[[Path, str], Any]) -> Any:
    return make_miniature(tmp_path / "data", "places-easy")


def test_every_layout_opens_with_the_released_lists(miniature: Any) -> None:
    splits = open_named(miniature.dataset, miniature.root, DataOptions(lists=miniature.lists))
    assert list(splits) == [*BENCHMARKS[miniature.dataset].splits]
    for split in splits.values():
        assert all(split.path(index).is_file() for index in range(len(split)))
        assert split.num_classes == 3
    assert splits["train"].class_counts.tolist() == [9, 5, 3]
    assert splits["val"].class_counts.tolist() == [2, 2, 2]


def test_lists_may_lie_beside_the_images(miniature: Any) -> None:
    shutil.move(miniature.lists, miniature.root / "lists")
    assert len(open_named(miniature.dataset, miniature.root)["train"]) == 17


def test_a_list_in_the_other_form_finds_the_same_images(
    tmp_path: Path, make_miniature: Callable[[Path, str], Any]
) -> None:
    nested, easy = (make_miniature(tmp_path / layout, layout) for layout in ("places", "places-easy"))
    for split in ("train", "val", "test"):
        file = nested.lists / f"Places_LT_{split}.txt"
        top = "val" if split == "test" else "train"
        lines = []
        for line in file.read_text().splitlines():
            path, label = line.split()
            folder = ("airfield", "apartment_building-outdoor", "zen_garden")[int(label)]
            lines.append(f"{top}/{folder}/{path.rpartition('/')[2]} {label}\n")
        file.write_text("".join(lines))
    by_easy_list = open_named("places_lt", nested.root, DataOptions(lists=nested.lists))
    by_released_list = open_named("places_lt", easy.root, DataOptions(lists=easy.lists))
    for split, dataset in by_easy_list.items():
        other = by_released_list[split]
        assert dataset.paths != other.paths
        assert [Path(path).name for path in dataset.paths] == [Path(path).name for path in other.paths]
    assert by_easy_list["train"].class_names == ("airfield", "apartment_building-outdoor", "zen_garden")


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("data_256/a/airfield/1.jpg", "airfield"),
        ("data_256/a/apartment_building/outdoor/1.jpg", "apartment_building-outdoor"),
        ("train/apartment_building/outdoor/1.jpg", "apartment_building-outdoor"),
        ("train/n01440764/x.JPEG", "n01440764"),
        ("train_val2018/Aves/2761/x.jpg", "2761"),
    ],
)
def test_class_folder(path: str, folder: str) -> None:
    assert class_folder(path) == folder


def test_paths_with_spaces_end_at_the_last_one(places: Any) -> None:
    for file in places.lists.iterdir():
        file.write_text(file.read_text().replace("airfield/", "air field/"))
    for top in ("train", "val"):
        (places.root / top / "airfield").rename(places.root / top / "air field")
    splits = open_named("places_lt", places.root, DataOptions(lists=places.lists))
    assert splits["train"].paths[0] == "train/air field/00000000.jpg"


def test_a_listed_name_too_long_for_a_file_is_an_absent_file(places: Any) -> None:
    for file in places.lists.iterdir():
        file.write_text(
            "".join(f"val/{'a' * 300}{line}\n" for line in file.read_text().splitlines()[:1]) + file.read_text()
        )
    for inner in ("train", "."):
        with pytest.raises(FileNotFoundError, match=r"^(--data-root|\S+_train\.txt): got"):
            open_named("places_lt", places.root / inner, DataOptions(lists=places.lists))


def test_a_root_at_the_wrong_level_names_the_right_one(miniature: Any) -> None:
    outer = miniature.root.parent
    with pytest.raises(FileNotFoundError, match=f"^--data-root: .*{outer}.* too high .*{miniature.root}$"):
        open_named(miniature.dataset, outer, DataOptions(lists=miniature.lists))
    for inner in filter(Path.is_dir, miniature.root.iterdir()):
        if inner.name in ("ILSVRC", "val", "val_256"):
            continue
        with pytest.raises(FileNotFoundError, match=f"^--data-root: .*{inner}.* too low .*{miniature.root}$"):
            open_named(miniature.dataset, inner, DataOptions(lists=miniature.lists))


@pytest.mark.parametrize(
    ("dataset", "contents"),
    [
        ("folder", r"train/<class>/\*, val/<class>/\*"),
        ("places_lt", r"Places_LT_train\.txt.*--lists DIR.*--synthetic\b"),
        ("cifar10_lt", r"cifar-10-python\.tar\.gz or cifar-10-binary\.tar\.gz.*--synthetic\b"),
    ],
)
def test_a_root_that_is_not_given_is_described(dataset: str, contents: str) -> None:
    with pytest.raises(ValueError, match=rf"^--data-root: .*--dataset {dataset}\b.*{contents}"):
        open_data(TrainConfig(dataset=dataset))
    with pytest.raises(ValueError, match=r"^--synthetic: .*--data-root here\b"):
        open_data(TrainConfig(dataset=dataset, data_root=Path("here"), synthetic=True))


def test_a_folder_of_lists_without_any_is_refused(miniature: Any, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"^--lists: .*\bnone\b.*_?train.*--dataset"):
        open_named(miniature.dataset, miniature.root, DataOptions(lists=tmp_path / "none"))


def test_lists_of_another_data_set_are_refused(places: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"^--lists: .*Places_LT_train\.txt,.*ImageNet_LT_train\.txt.*--dataset imagenet_lt\b"
    ):
        open_named("imagenet_lt", places.root, DataOptions(lists=places.lists))
    for split in ("train", "val", "test"):
        (places.lists / f"Places_LT_{split}.txt").rename(places.lists / f"{split}.txt")
    text = (places.lists / "train.txt").read_text()
    for label in (7000, -1):
        (places.lists / "train.txt").write_text(text + f"train/zen_garden/00000040.jpg {label}\n")
        with pytest.raises(ValueError, match=rf"train\.txt: got label {label}\b.*\b365\b.*Places-LT.*--lists\b"):
            open_named("places_lt", places.root, DataOptions(lists=places.lists))
    (places.lists / "train.txt").write_text(text)
    monkeypatch.setattr("fastlt.data.published.locate.list_hash", lambda source: "efdbdad4f050")
    with pytest.raises(ValueError, match=r"train\.txt\b.*ImageNet-LT.*Places-LT.*--dataset.*--lists\b"):
        open_named("places_lt", places.root, DataOptions(lists=places.lists))


def test_json_without_annotations_is_refused(tmp_path: Path, make_miniature: Callable[[Path, str], Any]) -> None:
    inat = make_miniature(tmp_path / "data", "inat-json")
    file = inat.lists / "val2018.json"
    file.write_text(json.dumps({"images": json.loads(file.read_text())["images"]}))
    with pytest.raises(ValueError, match=r"val2018\.json\b.*`annotations`"):
        open_named("inat2018", inat.root, DataOptions(lists=inat.lists))


def test_half_a_download_says_how_much_is_missing(miniature: Any) -> None:
    found = sorted(miniature.root.rglob("*.*"))
    for file in found[::3]:
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"\d+ of \d+ files .*`fastlt data verify --dataset"):
        open_named(miniature.dataset, miniature.root, DataOptions(lists=miniature.lists))


def test_without_lists_class_folders_must_have_the_benchmarks_size(miniature: Any) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{miniature.root}\b.*_train\.txt|{miniature.root}\b.*train.*\.json"):
        open_named(miniature.dataset, miniature.root)


def test_other_counts_are_warned_of(places: Any, caplog: pytest.LogCaptureFixture) -> None:
    open_named("places_lt", places.root, DataOptions(lists=places.lists))
    assert "17 train images (62,500 expected)" in caplog.text
    assert "not comparable" in caplog.text


@pytest.mark.parametrize("where", ["lists", "root"])
def test_a_val_list_alone_misses_the_train_list(
    tmp_path: Path, make_miniature: Callable[[Path, str], Any], where: str
) -> None:
    inat = make_miniature(tmp_path / "data", "inat")
    (inat.lists / "iNaturalist18_train.txt").unlink()
    options = DataOptions(lists=inat.lists)
    if where == "root":
        shutil.move(inat.lists, inat.root / "lists")
        options = DataOptions()
    with pytest.raises(FileNotFoundError) as error:
        open_named("inat2018", inat.root, options)
    for part in ("--lists: ", "has iNaturalist18_val.txt but no train list", "expected iNaturalist18_train.txt"):
        assert part in str(error.value)
    if where == "lists":
        with pytest.raises(FileNotFoundError, match=r"holds iNaturalist18_val\.txt but no list for train"):
            open_named("folder", inat.root, options)


def test_a_val_list_of_another_order_than_train_is_refused(
    tmp_path: Path, make_miniature: Callable[[Path, str], Any]
) -> None:
    inat = make_miniature(tmp_path / "data", "inat")
    file = inat.lists / "iNaturalist18_val.txt"
    lines = [line.rsplit(" ", 1) for line in file.read_text().splitlines()]
    file.write_text("".join(f"{path} {2 - int(label)}\n" for path, label in lines))
    with pytest.raises(ValueError, match=r"/iNaturalist18_val\.txt: .*\b2 is 0 here and 2 in train"):
        open_named("inat2018", inat.root, DataOptions(lists=inat.lists))
