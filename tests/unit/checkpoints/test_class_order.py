"""The class order that a checkpoint's own files describe."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from fastlt.checkpoints.class_order import settle_order

HERE = Path("net")


def order(*arguments: Any, **keywords: Any) -> tuple[int, ...]:
    """Return the only order that comes into question."""
    (only,) = settle_order(*arguments, **keywords)
    return only.rows


def test_names_are_counted_as_numbers() -> None:
    names = tuple(f"class {letter}" for letter in "abcdefghijkl")
    labels = {str(place): names[-1 - place] for place in sorted(range(12), key=str)}
    assert order(HERE, {"config": {"id2label": labels}}, None, names) == tuple(reversed(range(12)))


@pytest.mark.parametrize(
    ("listed", "pattern"),
    [
        (["a", "b", "a"], r"^net: .*config\.json.* a twice.*--classes"),
        (["a", "b"], r"^net: .*config\.json.*\b2 names.*\b3 classes.* lacks c;.*--classes"),
        (["a", "b", "c", "d"], r"^net: .*config\.json.*\b4 names.*\b3 classes.* no d;.*--classes"),
        (["b", "c", "d"], r"^net: .* lacks a;.* no d;"),
    ],
)
def test_names_that_do_not_match_are_refused(listed: list[str], pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        settle_order(HERE, {"config": {"label_names": listed}}, None, ("a", "b", "c"))


def test_keys_that_do_not_count_the_classes_are_refused() -> None:
    for odd in ("x", "2", "01", "-1", "9" * 5000, "\u0661"):
        with pytest.raises(ValueError, match=r"^net: .*config\.json.* id2label.* numbers from 0 to 1;"):
            settle_order(HERE, {"config": {"id2label": {"0": "a", odd: "b"}}}, None, ("a", "b"))


@pytest.mark.parametrize(
    "config",
    [
        {"id2label": {"0": "b", "2": "a", "1": "c"}},
        {"label_names": ["b", "c", "a"]},
        {"id2label": {}, "label_names": ["b", "c", "a"]},
    ],
)
def test_names_of_its_own_decide_the_order(config: dict[str, Any]) -> None:
    assert order(HERE, {"config": config}, None, ("a", "b", "c")) == (2, 0, 1)


def test_names_that_say_nothing_leave_the_data_its_order() -> None:
    labels = {str(place): f"LABEL_{place}" for place in range(3)}
    assert order(HERE, {"config": {"id2label": labels}}, None, ("a", "b", "c")) == (0, 1, 2)


def test_a_list_may_have_a_mark_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffb\n\nc \na\n", encoding="utf-8")
    assert order(HERE, {}, tmp_path / "names.txt", ("a", "b", "c")) == (2, 0, 1)


MIXED = ("Ant", "Zebra 10", "Zebra 9", "bee")  # as torchvision sorts them
TIMM = ("Ant", "bee", "Zebra 9", "Zebra 10")


def test_without_names_both_ways_to_sort_class_folders_come_into_question() -> None:
    orders = settle_order(HERE, {}, None, MIXED)
    assert [one.rows for one in orders] == [(0, 1, 2, 3), (0, 3, 2, 1)]
    shown = [one.first_names(MIXED, other) for one, other in zip(orders, orders[::-1], strict=True)]
    assert shown == ["1 Zebra 10, 3 bee", "1 bee, 3 Zebra 10"]
    # The data's own order, as of a classes.txt, is a third one
    orders = settle_order(HERE, {}, None, ("bee", "Zebra 9", "Ant", "Zebra 10"))
    assert [one.rows for one in orders] == [(0, 1, 2, 3), (3, 2, 0, 1), (1, 2, 0, 3)]
    assert len(settle_order(HERE, {}, None, ("ant", "bee", "cow"))) == 1


def test_names_to_show_do_not_hide_the_folders_that_were_sorted() -> None:
    shown = ("Ameise", "Zebra zehn", "Zebra neun", "Biene")
    assert settle_order(HERE, {}, None, shown, folders=MIXED)[1].rows == (0, 3, 2, 1)
    content = {"class_to_idx": {name: at for at, name in enumerate(TIMM)}}
    assert order(HERE, {}, None, shown, folders=MIXED, content=content) == (0, 3, 2, 1)


def test_numbers_that_no_folder_has_were_not_sorted_as_text() -> None:
    assert order(HERE, {}, None, tuple(map(str, range(12)))) == tuple(range(12))
    folders = tuple(map(str, range(12)))
    assert len(settle_order(HERE, {}, None, folders, folders=[f"{at}" for at in sorted(folders)])) > 1


@pytest.mark.parametrize(("way", "rows"), [("timm", (0, 3, 2, 1)), ("torchvision", (0, 1, 2, 3))])
def test_a_way_to_sort_can_be_named(way: str, rows: tuple[int, ...]) -> None:
    assert order(HERE, {}, Path(way), MIXED) == rows


@pytest.mark.parametrize(
    "content",
    [
        {"class_to_idx": {name: at for at, name in enumerate(TIMM)}},
        {"state_dict": {}, "meta": {"CLASSES": TIMM}},
        {"meta": {"dataset_meta": {"classes": list(TIMM)}}},
        {"idx_to_class": dict(reversed(list(enumerate(TIMM))))},
        {"args": argparse.Namespace(lr=0.1, class_to_idx={name: at for at, name in enumerate(TIMM)})},
        {"hyper_parameters": {"class_names": list(TIMM), "classes": 4}},
    ],
)
def test_names_beside_the_weights_decide_the_order(content: dict[str, Any]) -> None:
    assert order(HERE, {}, None, MIXED, content=content) == (0, 3, 2, 1)


def test_names_beside_the_weights_must_be_those_of_the_data() -> None:
    for names in (TIMM[:3], (*TIMM, "cow"), ("Ant", "bee", "Zebra 9", "cow")):
        with pytest.raises(ValueError, match=r"^net: .*class_to_idx.*(lacks|have no)"):
            settle_order(HERE, {}, None, MIXED, content={"class_to_idx": {name: at for at, name in enumerate(names)}})
    with pytest.raises(ValueError, match=r"^net: .*class_to_idx.* numbers from 0 to 3"):
        settle_order(HERE, {}, None, MIXED, content={"class_to_idx": {name: at for at, name in enumerate(TIMM, 1)}})
    other = {"class_to_idx": {f"n{at}": at for at in range(4)}}  # of another kind
    assert len(settle_order(HERE, {}, None, MIXED, content=other)) == 2


@pytest.mark.parametrize(
    ("settings", "content", "place"),
    [
        ({"config": {"label2id": {"a": 0, "b": 1, "c": 2}, "id2label": {0: "a", 1: "c", 2: "b"}}}, None, "id2label"),
        ({}, {"class_to_idx": {"a": 0, "b": 1, "c": 2}, "args": {"classes": ["a", "c", "b"]}}, "args.classes"),
    ],
)
def test_names_in_two_orders_are_refused(settings: dict[str, Any], content: Any, place: str) -> None:
    message = rf"^net: .*1 b, 2 c in its .* and 1 c, 2 b in its .*{place};.*--classes FILE"
    with pytest.raises(ValueError, match=message):
        settle_order(HERE, settings, None, ("a", "b", "c"), content=content)


def test_names_of_some_classes_beside_those_of_all_say_nothing() -> None:
    content = {"class_names": ["c", "a", "b"], "args": {"classes": ["a", "b"], "class_to_idx": {"a": 0, "z": 1}}}
    assert order(HERE, {}, None, ("a", "b", "c"), content=content) == (1, 2, 0)


def test_a_file_that_holds_itself_ends() -> None:
    content: dict[str, Any] = {}
    content["meta"] = content
    assert order(HERE, {}, None, ("a", "b"), content=content) == (0, 1)


def test_a_checkpoint_in_a_run_has_the_names_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "data.json").write_text('{"class_names": ["b", "a"]}')
    assert order(tmp_path / "checkpoints" / "best.safetensors", {}, None, ("a", "b")) == (1, 0)
    assert order(tmp_path / "rebalanced" / "tau" / "model.safetensors", {}, None, ("a", "b")) == (1, 0)
