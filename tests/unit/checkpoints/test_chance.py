"""Telling a checkpoint that is read wrongly from one that is only weak."""

import numpy as np
import pytest

from fastlt.checkpoints.chance import chance_limit, matched_share, suspect


def draw(num_classes: int, per_class: int, accuracy: float) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and predictions that are right so often and else of a popular class."""
    draws = np.random.default_rng(num_classes)
    labels = np.repeat(np.arange(num_classes), per_class)
    popular = np.minimum(draws.exponential(num_classes / 6, len(labels)).astype(np.int64), num_classes - 1)
    return labels, np.where(draws.random(len(labels)) < accuracy, labels, popular)


@pytest.mark.parametrize(("num_classes", "per_class"), [(10, 20), (100, 10), (1000, 20), (8142, 3)])
@pytest.mark.parametrize("accuracy", [0.3, 0.7])
def test_a_network_that_is_read_rightly_is_not_suspected(num_classes: int, per_class: int, accuracy: float) -> None:
    labels, predictions = draw(num_classes, per_class, accuracy)
    assert suspect(predictions, labels, num_classes) is None
    siblings = np.where(predictions == labels, labels, labels // 5 * 5)  # every tail class taken for its head class
    assert suspect(siblings, labels, num_classes) is None


@pytest.mark.parametrize(("num_classes", "per_class"), [(100, 10), (1000, 20), (8142, 3)])
@pytest.mark.parametrize("accuracy", [0.3, 0.7])
def test_numbers_sorted_as_text_are_another_class_order(num_classes: int, per_class: int, accuracy: float) -> None:
    labels, predictions = draw(num_classes, per_class, accuracy)
    as_text = np.array(sorted(range(num_classes), key=str))
    suspicion = suspect(as_text[predictions], labels, num_classes)
    assert suspicion is not None
    assert suspicion.cause == "class order"
    # A few numbers stand where they stood, which may be more than chance
    assert suspicion.accuracy < accuracy / 4
    assert suspicion.matched > 0.8 * accuracy


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_guesses_and_a_constant_point_to_the_preprocessing(num_classes: int) -> None:
    labels = np.repeat(np.arange(num_classes), 20)
    for predictions in (np.random.default_rng(0).permutation(labels), np.zeros_like(labels)):
        suspicion = suspect(predictions, labels, num_classes)
        assert suspicion is not None
        assert suspicion.cause == "preprocessing"


@pytest.mark.parametrize(("num_classes", "per_class"), [(2, 4), (3, 10), (5, 4), (50, 4)])
def test_luck_in_a_few_images_is_no_order(num_classes: int, per_class: int) -> None:
    labels = np.repeat(np.arange(num_classes), per_class)
    for seed in range(60):
        suspicion = suspect(np.random.default_rng(seed).integers(0, num_classes, len(labels)), labels, num_classes)
        assert suspicion is None or suspicion.cause == "preprocessing"


def test_two_classes_exchanged_are_another_order() -> None:
    labels = np.repeat([0, 1], 30)
    suspicion = suspect(1 - labels, labels, 2)
    assert suspicion is not None
    assert suspicion.cause == "class order"
    assert suspect(labels, labels, 2) is None


def test_a_matching_takes_the_largest_cell_first_and_each_class_once() -> None:
    labels = np.array([0, 0, 1, 1, 1, 2])
    assert matched_share(labels, labels, 3) == 1
    assert matched_share((labels + 1) % 3, labels, 3) == 1
    assert matched_share(np.zeros_like(labels), labels, 3) == 3 / 6
    assert matched_share(np.array([1, 1, 1, 1, 1, 0]), labels, 3) == 4 / 6


def test_the_limit_is_twice_chance_and_never_near_certainty() -> None:
    assert chance_limit(1000, 20_000) == pytest.approx(0.002)
    assert chance_limit(10, 40) == pytest.approx(0.1 + 3 * (0.09 / 40) ** 0.5)
    assert chance_limit(2, 4) == 0.75
