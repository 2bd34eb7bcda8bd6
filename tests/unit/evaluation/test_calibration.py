"""Calibration error and the temperature that is folded into a head."""

import numpy as np
import pytest
import torch

from fastlt.evaluation.calibration import (
    calibration_error,
    calibration_errors,
    fit_temperature,
    warn_if_rough,
    with_temperature,
)
from fastlt.evaluation.predictions import Predictions, predict
from fastlt.features import arrays
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


def test_every_class_weighs_the_same_in_the_fit() -> None:
    # Logits are a gap of 1 apart; the larger one is right on 80 % of class 0, and on 60 % of class 1, which is rarer
    head = LinearHead(torch.tensor([[0.5], [-0.5]]))
    features = torch.cat([torch.ones(80), -torch.ones(20), -torch.ones(6), torch.ones(4)])[:, None]
    labels = torch.tensor([0] * 100 + [1] * 10)
    for weights, share in ((None, 0.7), (torch.full((110,), 7.0), 86 / 110)):
        result = fit_temperature(head, features, labels, weights=weights)
        size = 110 if weights is not None else 1 / (0.5**2 / 100 + 0.5**2 / 10)  # images that weigh alike
        share += (0.5 - share) / (size + 2)  # a share of the labels is spread over both classes
        assert result == pytest.approx(1 / np.log(share / (1 - share)), rel=1e-4)


def test_the_bias_counts_and_is_divided_too(monkeypatch: pytest.MonkeyPatch) -> None:
    head, features, labels = sampled(1.0, num=300)
    biased = LinearHead(head.weight.detach(), torch.tensor([3.0, -2.0, 1.0, 0.0, -1.0]))
    for temperature in (1.0, 2.5):
        shares = (biased(features).detach().double() / temperature).softmax(1)
        scored = predict(with_temperature(biased, temperature), features, labels)
        np.testing.assert_array_equal(scored.classes, shares.argmax(1))
        np.testing.assert_allclose(scored.confidences, shares.max(1).values, rtol=1e-5)
        np.testing.assert_allclose(
            scored.log_likelihoods, shares.log()[torch.arange(300), labels], rtol=1e-4, atol=1e-5
        )
    whole = fit_temperature(biased, features, labels), predict(biased, features, labels)
    monkeypatch.setattr(arrays, "ROWS", 70)
    assert fit_temperature(biased, features, labels) == pytest.approx(whole[0], rel=1e-6)
    for got, expected in zip(predict(biased, features, labels), whole[1], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_calibration_error_by_hand() -> None:
    confidences = np.array([0.5, 0.5, 0.9, 0.9])
    correct = np.array([True, False, True, False])
    assert calibration_error(confidences, correct, num_bins=2) == pytest.approx((0 + 0.8) / 4)
    # Sorted 0.5, 0.6 | 0.9, with gaps of 0.5 - 1, 0.6 - 0 and 0.9 - 1: bins weigh by their samples
    shuffled = calibration_error(np.array([0.9, 0.5, 0.6]), np.array([True, True, False]), num_bins=2)
    assert shuffled == pytest.approx((0.1 + 0.1) / 3)
    assert calibration_error(np.empty(0), np.empty(0, dtype=bool)) is None


def test_fifteen_bins_of_equal_mass() -> None:
    # 15 runs of 4 samples, in turn all right and all wrong: any other cut lets some of the gaps cancel
    confidences, correct = np.linspace(0.4, 0.6, 60), np.arange(60) // 4 % 2 == 0
    expected = np.abs(confidences - correct).mean()
    assert calibration_error(confidences, correct) == pytest.approx(expected)
    labels = np.zeros(60, dtype=np.int64)
    result = calibration_errors(Predictions(labels, 1 - correct, confidences, np.zeros(60)), {"many": np.array([True])})
    assert result == {"all": pytest.approx(expected), "many": pytest.approx(expected)}


def test_huge_logits_and_a_head_that_is_always_right() -> None:
    features = torch.eye(3).repeat(2, 1)
    labels = torch.arange(3).repeat(2)
    huge = LinearHead(torch.eye(3) * 1e5)
    for scale in (1e-4, 1.0, 1e5):  # six images, all right: two thirds of a share of 1 / 8 may be wrong
        scaled = LinearHead(torch.eye(3) * scale)
        sure = predict(with_temperature(scaled, fit_temperature(scaled, features, labels)), features, labels)
        assert sure.confidences == pytest.approx(np.full(6, 1 - 2 / 3 / 8), rel=1e-3)
    with pytest.raises(ValueError, match=r"^temperature: got 0\b"):
        with_temperature(huge, 0.0)
    with pytest.raises(ValueError, match=r"^labels: .*no samples"):
        fit_temperature(huge, features[:0], labels[:0])


def test_few_images_that_are_all_right_leave_doubt_and_many_hardly_any() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(12, 32, generator=generator)
    head = LinearHead(centres)
    for copies, lowest, highest in ((1, 0.85, 0.95), (100, 0.995, 1.0)):
        labels = torch.arange(12).repeat(copies)
        features = centres[labels] + 0.1 * torch.randn(12 * copies, 32, generator=generator)
        temperature = fit_temperature(head, features, labels)
        confidences = predict(with_temperature(head, temperature), features, labels).confidences
        assert lowest < confidences.mean() < highest


def test_a_head_that_is_always_wrong_ends_without_confidence() -> None:
    features, labels = torch.eye(3).repeat(50, 1), torch.arange(3).repeat(50)
    head = LinearHead(1 - torch.eye(3))
    after = predict(with_temperature(head, fit_temperature(head, features, labels)), features, labels)
    assert after.confidences == pytest.approx(np.full(150, 1 / 3), rel=0.01)


def test_a_val_too_small_for_a_temperature_is_named(caplog: pytest.LogCaptureFixture) -> None:
    head, (features, labels) = LinearHead(torch.eye(4)), (torch.eye(4), torch.arange(4))
    with caplog.at_level("WARNING", "fastlt"):
        warn_if_rough(head, features.repeat(3, 1), labels.repeat(3), "val")
    assert "val has 12 images" in caplog.text
    caplog.clear()
    warn_if_rough(head, features.repeat(30, 1), labels.repeat(30), "val")
    assert not caplog.text


def test_errors_by_group_and_none_for_an_empty_one() -> None:
    predictions = Predictions(np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([0.5, 1.0, 0.25]), np.zeros(3))
    groups = {"many": np.array([True, False, False]), "few": np.array([False, True, False])}
    result = calibration_errors(predictions, groups | {"medium": np.array([False, False, True])})
    assert result["many"] == pytest.approx(0.25)
    assert result["few"] == pytest.approx(0.75)
    assert result["all"] == pytest.approx(1.25 / 3)
    assert result["medium"] is None


def test_a_group_is_that_of_the_true_class() -> None:
    predictions = Predictions(np.array([0, 1, 1]), np.array([1, 0, 1]), np.array([0.5, 0.75, 1.0]), np.zeros(3))
    result = calibration_errors(predictions, {"many": np.array([True, False]), "few": np.array([False, True])})
    assert (result["many"], result["few"]) == (pytest.approx(0.5), pytest.approx(0.375))
