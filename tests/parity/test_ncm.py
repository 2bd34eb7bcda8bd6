"""Nearest class mean against the definitions, variant by variant."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fastlt.evaluation.results import Accuracy, Result
from fastlt.features.arrays import Features
from fastlt.rebalancing import nearest_class_mean, nearest_class_mean_predict
from fastlt.rebalancing.methods import released_ncm

GENERATOR = torch.Generator().manual_seed(3)
CENTRES = torch.randn(7, 12, generator=GENERATOR)
TRAIN_LABELS = torch.arange(7).repeat_interleave(torch.tensor([60, 30, 20, 10, 5, 3, 2]))
TRAIN = CENTRES[TRAIN_LABELS] + torch.randn(130, 12, generator=GENERATOR) + 2.0
TEST = CENTRES.repeat(40, 1) + 1.3 * torch.randn(280, 12, generator=GENERATOR) + 2.0


def by_definition(center: bool, normalize: bool, metric: str) -> Tensor:
    """The released code's steps in float64: shift, scale, average, compare."""
    train, test = TRAIN.double(), TEST.double()
    if center:
        middle = train.mean(0)
        train, test = train - middle, test - middle
    if normalize:
        train, test = train / train.norm(dim=1, keepdim=True), test / test.norm(dim=1, keepdim=True)
    centroids = torch.stack([train[label == TRAIN_LABELS].mean(0) for label in range(7)])
    if metric == "cos":
        return (test @ centroids.T).argmax(1)
    return torch.cdist(test, centroids).argmin(1)


@pytest.mark.parametrize("metric", ["l2", "cos"])
@pytest.mark.parametrize(("center", "normalize"), [(False, False), (False, True), (True, True)])
def test_the_six_released_variants(center: bool, normalize: bool, metric: str) -> None:
    expected = by_definition(center, normalize, metric)
    got = nearest_class_mean_predict(TRAIN, TRAIN_LABELS, TEST, center=center, normalize=normalize, metric=metric)
    assert torch.equal(got, expected)


def test_each_is_scored_under_the_released_codes_name(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, some = torch.arange(7).repeat(40), Accuracy(value=0.0, ci95=(0.0, 0.0), n=1)
    result = Result(
        **dict.fromkeys(("run", "dataset", "backbone", "sampling", "method", "split", "checkpoint"), ""),
        **dict.fromkeys(("all", "class_mean", "many", "medium", "few"), some),
        **{"seed": 0, "params": {}, "selected_on": None},
    )
    monkeypatch.setattr(released_ncm, "score", lambda *_: result)
    run = SimpleNamespace(data={"class_counts": torch.bincount(TRAIN_LABELS).tolist()})
    store = SimpleNamespace(run=run, device=torch.device("cpu"), split=lambda _: Features.of(TEST, labels))
    rows = released_ncm.score_released(SimpleNamespace(store=store), Features.of(TRAIN, TRAIN_LABELS), ("test",))
    variants = {"un": (False, False), "l2n": (False, True), "cl2n": (True, True)}
    expected = {
        f"{name} {metric}": 100 * (by_definition(*variant, metric) == labels).double().mean().item()
        for name, variant in variants.items()
        for metric in ("l2", "cos")
    }
    assert {row.params["released"]: row.all.value for row in rows} == pytest.approx(expected)


def test_the_variants_differ() -> None:
    predictions = {
        tuple(nearest_class_mean_predict(TRAIN, TRAIN_LABELS, TEST, center=c, normalize=n, metric=m).tolist())
        for c, n in ((False, False), (False, True), (True, True))
        for m in ("l2", "cos")
    }
    assert len(predictions) == 6


def test_euclidean_head_is_the_nearest_centroid() -> None:
    head = nearest_class_mean(TRAIN, TRAIN_LABELS, 7, variant="euclidean")
    assert torch.equal(head(TEST).argmax(1), by_definition(False, False, "l2"))


def test_cosine_head_is_the_largest_cosine_to_the_centroids() -> None:
    train, test = TRAIN.double(), TEST.double()
    middle = train.mean(0)
    train = torch.nn.functional.normalize(train - middle, dim=1)
    centroids = torch.stack([train[label == TRAIN_LABELS].mean(0) for label in range(7)])
    expected = torch.cosine_similarity((test - middle)[:, None], centroids[None], dim=2).argmax(1)
    head = nearest_class_mean(TRAIN, TRAIN_LABELS, 7)
    assert torch.equal(head(TEST).argmax(1), expected)
    torch.testing.assert_close(head.norms(), torch.ones(7))


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlt.features import arrays

    expected = nearest_class_mean(TRAIN, TRAIN_LABELS, 7)
    monkeypatch.setattr(arrays, "ROWS", 17)
    torch.testing.assert_close(nearest_class_mean(TRAIN, TRAIN_LABELS, 7).weight, expected.weight)


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (TRAIN_LABELS, 8, r"^labels: .*class 7\b"),
        (TRAIN_LABELS, 6, r"^labels: .*\b0 to 6\b.*\b0 to 5\b"),
        (TRAIN_LABELS[:5], 7, r"^features, labels: .*\[5\]"),
    ],
)
def test_bad_input(labels: Tensor, num_classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_class_mean(TRAIN, labels, num_classes)


def test_unknown_variant() -> None:
    with pytest.raises(ValueError, match=r"^variant: got l1"):
        nearest_class_mean(TRAIN, TRAIN_LABELS, 7, variant="l1")
