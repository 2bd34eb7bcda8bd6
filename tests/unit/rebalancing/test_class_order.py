"""The order of a head's classes, as train images tell it."""

import numpy as np
import pytest

from fastlt.rebalancing.class_order import is_lead, sample_of


@pytest.mark.parametrize(("ahead", "behind"), [(6, 0), (12, 2), (200, 150)])
def test_a_lead(ahead: int, behind: int) -> None:
    assert is_lead(ahead, behind)
    assert not is_lead(behind, ahead)


@pytest.mark.parametrize(("ahead", "behind"), [(0, 0), (4, 0), (5, 0), (8, 3), (110, 100)])
def test_what_may_be_luck_is_no_lead(ahead: int, behind: int) -> None:
    assert not is_lead(ahead, behind)


def test_a_sample_is_of_the_classes_in_question_only_and_reaches_all() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 30, 3, 0])
    chosen = sample_of(labels, np.array([1, 2, 3]), 24)
    assert np.bincount(labels[chosen]).tolist() == [0, 8, 3]
    assert len(set(chosen.tolist())) == 11
    assert len(sample_of(np.arange(100), np.arange(100), 10)) == 10
