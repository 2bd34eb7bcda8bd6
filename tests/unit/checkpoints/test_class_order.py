"""The class order that a checkpoint's own files describe."""

from pathlib import Path
from typing import Any

import pytest

from fastlt.checkpoints.class_order import settle_order

HERE = Path("net")


def test_names_are_counted_as_numbers() -> None:
    names = tuple(f"class {letter}" for letter in "abcdefghijkl")
    labels = {str(place): names[-1 - place] for place in sorted(range(12), key=str)}
    assert settle_order(HERE, {"config": {"id2label": labels}}, None, names) == tuple(reversed(range(12)))


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
    assert settle_order(HERE, {"config": config}, None, ("a", "b", "c")) == (2, 0, 1)


def test_names_that_say_nothing_leave_the_data_its_order() -> None:
    labels = {str(place): f"LABEL_{place}" for place in range(3)}
    assert settle_order(HERE, {"config": {"id2label": labels}}, None, ("a", "b", "c")) == (0, 1, 2)


def test_a_list_may_have_a_mark_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffb\n\nc \na\n", encoding="utf-8")
    assert settle_order(HERE, {}, tmp_path / "names.txt", ("a", "b", "c")) == (2, 0, 1)
