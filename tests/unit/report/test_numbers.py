"""The numbers in the report's figures and captions, counted by hand."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastlt.evaluation.classifier import Classifier
from fastlt.evaluation.predictions import Predictions
from fastlt.models import LinearHead
from fastlt.report import figures, plots, worst
from fastlt.report.figures import Figure, Material

COUNTS = np.array([4, 500, 50, 5])  # few, many, medium, few
GROUPS = {"many": COUNTS > 100, "medium": (COUNTS >= 20) & (COUNTS <= 100), "few": COUNTS < 20}
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 3])
BEFORE = np.array([1, 1, 2, 0, 1, 1, 2, 1, 1, 0])
AFTER = np.array([0, 0, 1, 0, 1, 2, 2, 2, 3, 1])
SURE = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.55, 0.65, 0.75, 0.85])


def classifier(method: str, classes: np.ndarray, scale: float = 1.0, **store: Any) -> Classifier:
    predictions = Predictions(LABELS, classes, SURE, np.log(SURE))
    head = LinearHead(scale * torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 5.0], [0.0, 10.0]]))
    return Classifier(
        method=method, head=head, store=SimpleNamespace(**store), path=Path(), cache={"test": predictions}  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def material(tmp_path: Path) -> Material:
    joint, tau = classifier("joint", BEFORE), classifier("logit_adjustment", AFTER, 3.0)
    return Material(
        folder=tmp_path,
        run=SimpleNamespace(metrics=tmp_path / "metrics.jsonl"),  # type: ignore[arg-type]
        classifiers=[joint, tau],
        after=tau,
        results=SimpleNamespace(),  # type: ignore[arg-type]
        split="test",
        counts=COUNTS,
        groups=GROUPS,
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """Return a function that keeps what a plot is given instead of drawing it."""

    def keep(name: str) -> list[Any]:
        kept: list[Any] = []
        monkeypatch.setattr(plots, name, lambda _folder, *arguments: kept.extend(arguments))
        return kept

    return keep


def test_the_tail_is_right_or_taken_for_a_group(material: Material, drawn: Callable[[str], list[Any]]) -> None:
    kept = drawn("tail_errors")
    figure = figures.tail_errors(material)
    shares, group = kept
    third = 100 / 6
    assert group == "few"
    assert shares["joint"] == pytest.approx({"right": third, "many": 3 * third, "medium": third, "few": third})
    assert shares["logit adjustment"] == pytest.approx({"right": 4 * third, "many": 2 * third, "medium": 0, "few": 0})
    assert "logit adjustment: right 67, many 33, medium 0, few 0" in figure.alt


def test_confusions_are_by_rank_and_a_row_has_a_hundred_percent(
    material: Material, drawn: Callable[[str], list[Any]]
) -> None:
    kept = drawn("confusions")
    figures.confusions(material)
    # By size: 1, 2, 3, 0
    expected = [[100, 0, 0, 0], [50, 50, 0, 0], [50, 0, 0, 50], [50, 25, 0, 25]]
    np.testing.assert_allclose(kept[0]["joint"], expected)


def test_many_classes_share_a_few_bins(material: Material, drawn: Callable[[str], list[Any]]) -> None:
    kept = drawn("confusions")
    counts = np.arange(25, 0, -1)
    labels = np.arange(25)
    predictions = Predictions(labels, np.roll(labels, 1), np.ones(25), np.zeros(25))
    for part in material.classifiers:
        part.cache["test"] = predictions
    many = Material(**{**vars(material), "counts": counts})
    assert "in 10 bins" in figures.confusions(many).caption
    table = kept[0]["joint"]
    assert table.shape == (10, 10)
    np.testing.assert_allclose(table.sum(1), 100)
    assert table[0, 9] == pytest.approx(100 / 3)  # classes 0, 1 and 2; 0 is taken for the last


def test_the_distance_from_the_diagonal_is_the_mean_over_images(
    material: Material, drawn: Callable[[str], list[Any]]
) -> None:
    kept = drawn("reliability")
    figure = figures.reliability(material)
    confidence, accuracy = kept[0]["joint"]
    np.testing.assert_allclose(confidence, np.sort(SURE))
    order = np.argsort(SURE, kind="stable")
    np.testing.assert_allclose(accuracy, (BEFORE == LABELS)[order])
    distances = [100 * np.abs(SURE - (classes == LABELS)).mean() for classes in (BEFORE, AFTER)]
    distances_text = f"joint {distances[0]:.1f}, logit adjustment {distances[1]:.1f}"
    assert distances_text in figure.caption
    assert distances_text in figure.alt
    assert "in 10 equal bins" in figure.caption


def test_lengths_up_to_a_factor_are_not_drawn_twice(material: Material, drawn: Callable[[str], list[Any]]) -> None:
    kept = drawn("weight_norms")
    figure = figures.weight_norms(material)
    assert list(kept[0]) == ["joint"]
    assert kept[0]["joint"].tolist() == [5, 10, 5, 10]
    assert "equal to the joint ones: logit adjustment." in figure.caption


def test_a_class_has_its_accuracy_and_its_size(material: Material, drawn: Callable[[str], list[Any]]) -> None:
    kept = drawn("accuracy_by_class_size")
    figures.accuracy_by_class_size(material)
    counts, accuracies = kept
    assert counts is COUNTS
    np.testing.assert_allclose(accuracies["joint"], [0.25, 1, 0.5, 0])
    np.testing.assert_allclose(accuracies["logit adjustment"], [0.75, 0.5, 1, 0.5])


def test_what_cannot_be_drawn_says_why(material: Material) -> None:
    assert "no records" in figures.training(material).caption
    assert "only one class" in figures.confusions(Material(**{**vars(material), "counts": COUNTS[:1]})).caption
    alone = Material(**{**vars(material), "groups": {name: np.full(4, name == "few") for name in GROUPS}})
    figure: Figure = figures.tail_errors(alone)
    assert (figure.path, "classes of one group" in figure.caption) == (None, True)


def test_the_worst_come_first_and_of_equals_the_one_that_lost_more(tmp_path: Path) -> None:
    for number in range(10):
        Image.new("RGB", (200, 100), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
    dataset = SimpleNamespace(labels=LABELS, read=lambda index: (tmp_path / f"{index}.png").read_bytes())
    names = ["ant", "x" * 41, "cow", "y" * 40]
    store: Any = SimpleNamespace(splits={"test": dataset}, run=SimpleNamespace(data={"class_names": names}))
    worst_of = worst.worst_classes(
        store, classifier("joint", BEFORE), classifier("tau", AFTER), split="test", counts=COUNTS
    )
    assert [(each.name, each.num_train) for each in worst_of.classes] == [
        ("x" * 39 + "…", 500),
        ("y" * 40, 5),
        ("ant", 4),
    ]
    assert [(each.before, each.after) for each in worst_of.classes] == [(100, 50), (0, 50), (25, 75)]
    assert [[sample.predicted for sample in each.samples] for each in worst_of.classes] == [
        ["cow"],
        ["x" * 39 + "…"],
        ["x" * 39 + "…"],
    ]
    assert worst_of.note == ""
    (tmp_path / "5.png").write_bytes(b"torn")
    again = worst.worst_classes(
        store, classifier("joint", BEFORE), classifier("tau", AFTER), split="test", counts=COUNTS
    )
    assert again.note == "1 images could not be read."
    assert again.classes[0].samples == ()
    alone = worst.worst_classes(store, classifier("joint", BEFORE), None, split="test", counts=COUNTS)
    assert [each.after for each in alone.classes] == [0, 25, 50]
    assert len(alone.classes[1].samples) == 3
    right = classifier("joint", LABELS)
    assert worst.worst_classes(store, right, None, split="test", counts=COUNTS).note == "No class has an error on test."


def test_no_more_classes_and_images_are_shown_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worst, "thumbnail", lambda _pixels: "")
    monkeypatch.setattr(worst, "decode_rgb", lambda _content: None)
    labels = np.repeat(np.arange(20), 5)
    dataset = SimpleNamespace(labels=labels, read=lambda _index: b"")
    store: Any = SimpleNamespace(splits={"test": dataset}, run=SimpleNamespace(data={"class_names": ["a"] * 20}))
    joint = classifier("joint", BEFORE)
    joint.cache["test"] = Predictions(labels, (labels + 1) % 20, np.ones(100), np.zeros(100))
    worst_of = worst.worst_classes(store, joint, None, split="test", counts=np.arange(20))
    assert [each.num_train for each in worst_of.classes] == list(range(12))
    assert {len(each.samples) for each in worst_of.classes} == {4}


def test_a_thumbnail_keeps_its_shape() -> None:
    import base64
    import io

    data = worst.thumbnail(np.zeros((100, 200, 3), np.uint8))
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (72, 36)


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Any]]:
    """Return a function that draws a plot and gives its axes."""
    from matplotlib.figure import Figure as Canvas

    def draw(name: str, *arguments: Any) -> list[Any]:
        seen: list[Canvas] = []
        monkeypatch.setattr(Canvas, "savefig", lambda figure, *_args, **_options: seen.append(figure))
        getattr(plots, name)(tmp_path, *arguments)
        return list(seen[0].axes)

    return draw


def test_lines_of_accuracy_are_in_percent(axes: Callable[..., list[Any]]) -> None:
    taus = np.linspace(0, 2, 3)
    (plane,) = axes("accuracy_by_tau", taus, {"all": (taus / 4, taus / 8, taus / 2)}, 1.5)
    curve, best = plane.get_lines()
    assert curve.get_ydata().tolist() == [0, 25, 50]
    assert best.get_xdata() == [1.5, 1.5]
    assert plane.texts[0].get_text() == "best for all: 1.50"
    band = plane.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0, 100)


def test_bins_of_class_sizes_are_geometric_means(axes: Callable[..., list[Any]]) -> None:
    counts = np.array([1, 0, 100, 400] + [7] * 12)
    accuracy = np.r_[0.5, 1.0, 0.25, 0.75, np.full(12, np.nan)]
    (plane,) = axes("accuracy_by_class_size", counts, {"joint": accuracy})
    (line,) = plane.get_lines()
    assert line.get_label() == "joint"
    assert plane.xaxis.get_major_formatter()(1000) == "1,000"
    np.testing.assert_allclose(
        sorted(plane.collections[0].get_offsets().tolist()), [[1, 50], [1, 100], [100, 25], [400, 75]]
    )
    np.testing.assert_allclose(line.get_xdata(), [1, 1, 100, 400])
    np.testing.assert_allclose(line.get_ydata(), [50, 100, 25, 75])
    many = np.repeat([10, 1000], 8)
    (plane,) = axes("accuracy_by_class_size", many, {"joint": np.tile([0.0, 1.0], 8)})
    np.testing.assert_allclose(plane.get_lines()[0].get_ydata(), [50] * 8)


def test_lengths_are_drawn_from_head_to_tail_over_their_mean(axes: Callable[..., list[Any]]) -> None:
    plane, sizes = axes("weight_norms", {"joint": np.array([2.0, 6.0, 4.0])}, np.array([5, 500, 50]))
    (line,) = plane.get_lines()
    assert list(line.get_xdata()) == [1, 2, 3]
    np.testing.assert_allclose(line.get_ydata(), [1.5, 1, 0.5])
    assert sizes.get_ylim()[0] == plane.get_ylim()[0] == 0


def test_bars_stand_behind_each_other_and_large_ones_say_their_number(axes: Callable[..., list[Any]]) -> None:
    shares = {"joint": {"right": 50.0, "many": 30.0, "medium": 14.4, "few": 5.6}}
    (plane,) = axes("tail_errors", shares, "few")
    bars = [(bar.get_x(), bar.get_width()) for bar in plane.patches]
    np.testing.assert_allclose(bars, [(0, 50), (50, 5.6), (55.6, 14.4), (70, 30)])
    assert [each.get_label() for each in plane.containers] == ["right", "wrong: few", "wrong: medium", "wrong: many"]
    assert [text.get_text() for text in plane.texts if text.get_text()] == ["50", "14", "30"]
    assert plane.texts[1].get_position()[0] == pytest.approx(62.8)


def test_intervals_reach_from_the_value(axes: Callable[..., list[Any]]) -> None:
    def accuracy(value: float, low: float, high: float) -> Any:
        return SimpleNamespace(value=value, ci95=(low, high))

    results = {
        "joint": SimpleNamespace(many=accuracy(80, 75, 90), medium=None, few=None, all=accuracy(40, 40, 40)),
        "tau": SimpleNamespace(many=accuracy(70, 60, 72), medium=None, few=None, all=accuracy(50, 45, 55)),
    }
    (plane,) = axes("accuracy_by_group", results)
    many, everything = plane.containers
    assert many.lines[0].get_xdata().tolist() == [80, 70]
    assert [bar[:, 0].tolist() for bar in many.lines[2][0].get_segments()] == [[75, 90], [60, 72]]
    assert everything.get_label() == "all"
    assert [label.get_text() for label in plane.get_yticklabels()] == ["joint", "tau"]


def test_epochs_without_a_number_are_left_out(axes: Callable[..., list[Any]]) -> None:
    records = [
        {"epoch": 1, "loss": 3.0, "val": {"all": 10.0, "few": None}},
        {"epoch": 2, "loss": None, "val": None},
        {"epoch": 3, "loss": 1.0, "val": {"all": 30.0, "few": 5.0}},
    ]
    above, below = axes("training", records)
    assert [line.get_xydata().tolist() for line in above.get_lines()] == [[[1, 3], [3, 1]]]
    assert {line.get_label(): line.get_xydata().tolist() for line in below.get_lines()} == {
        "few": [[3, 5]],
        "all": [[1, 10], [3, 30]],
    }
