"""Calibration error and the temperature that is folded into a head."""

import numpy as np
import pytest
import torch

from fastlt.calibration import (
    Predictions,
    calibration_error,
    calibration_errors,
    fit_temperature,
    predict,
    with_temperature,
)
from fastlt.models import LinearHead


def sampled(temperature: float, *, num: int = 4000, classes: int = 5) -> tuple[LinearHead, torch.Tensor, torch.Tensor]:
    """A head whose logits are `temperature` times those from which the labels were drawn."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(num, 8, generator=generator)
    weight = torch.randn(classes, 8, generator=generator)
    labels = torch.multinomial((features @ weight.T).softmax(1), 1, generator=generator).squeeze(1)
    return LinearHead(weight * temperature), features, labels


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_the_temperature_of_the_data_is_found(temperature: float) -> None:
    head, features, labels = sampled(temperature)
    weights = torch.ones(len(labels))
    assert fit_temperature(head, features, labels, weights=weights) == pytest.approx(temperature, rel=0.06)


def test_folding_it_keeps_predictions_and_mends_confidences() -> None:
    head, features, labels = sampled(5.0)
    folded = with_temperature(head, fit_temperature(head, features, labels))
    before, after = predict(head, features, labels), predict(folded, features, labels)
    np.testing.assert_array_equal(before.classes, after.classes)
    errors = [calibration_error(p.confidences, p.classes == labels.numpy()) for p in (before, after)]
    assert errors[1] < errors[0] / 3
    assert after.log_likelihoods.mean() > before.log_likelihoods.mean()


def test_calibration_error_by_hand() -> None:
    confidences = np.array([0.5, 0.5, 0.9, 0.9])
    correct = np.array([True, False, True, False])
    assert calibration_error(confidences, correct, num_bins=2) == pytest.approx((0 + 0.8) / 4)
    assert calibration_error(np.empty(0), np.empty(0, dtype=bool)) is None


def test_huge_logits_and_a_head_that_is_always_right() -> None:
    features = torch.eye(3).repeat(2, 1)
    labels = torch.arange(3).repeat(2)
    huge = LinearHead(torch.eye(3) * 1e5)
    assert 0 < fit_temperature(huge, features, labels) < 1e3 + 1
    with pytest.raises(ValueError, match="temperature: got 0"):
        with_temperature(huge, 0.0)
    with pytest.raises(ValueError, match="no samples"):
        fit_temperature(huge, features[:0], labels[:0])


def test_errors_by_group_and_none_for_an_empty_one() -> None:
    predictions = Predictions(np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([0.5, 1.0, 0.25]), np.zeros(3))
    groups = {"many": np.array([True, False, False]), "few": np.array([False, True, False])}
    found = calibration_errors(predictions, groups | {"medium": np.array([False, False, True])})
    assert found["many"] == pytest.approx(0.25)
    assert found["few"] == pytest.approx(0.75)
    assert found["all"] == pytest.approx(1.25 / 3)
    assert found["medium"] is None
