"""The losses against values computed by hand, one image and one class at a time."""

import math
from collections.abc import Callable

import pytest
import torch

from fastlt.losses import batch_loss, check_own_loss, deferred_weights, effective_weights

COUNTS = torch.tensor([100, 10, 1])
LOGITS = torch.tensor([[0.5, -0.2, 0.1], [0.3, 0.9, -0.4]])
LABELS = torch.tensor([2, 0])


def negative_log_softmax(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(z) for z in logits)) - logits[label]


def weights() -> list[float]:
    """Cui et al.: (1 - beta) / (1 - beta^n), here of mean 1."""
    raw = [(1 - 0.9999) / (1 - 0.9999 ** int(n)) for n in COUNTS]
    return [3 * w / sum(raw) for w in raw]


def test_effective_weights() -> None:
    assert effective_weights(COUNTS).tolist() == pytest.approx(weights(), rel=1e-6)


def test_balanced_softmax_adds_log_counts() -> None:
    shifted = [[z + math.log(int(n)) for z, n in zip(row, COUNTS, strict=True)] for row in LOGITS.tolist()]
    expected = sum(negative_log_softmax(row, int(y)) for row, y in zip(shifted, LABELS, strict=True)) / 2
    assert batch_loss("balanced_softmax", LOGITS, LABELS, COUNTS).item() == pytest.approx(expected, rel=1e-6)


def test_class_balanced_focal() -> None:
    expected = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        for index, z in enumerate(row):
            p = 1 / (1 + math.exp(-z if index == label else z))
            expected -= weights()[label] * (1 - p) ** 0.5 * math.log(p) / 2
    assert batch_loss("cb_focal", LOGITS, LABELS, COUNTS).item() == pytest.approx(expected, rel=1e-6)


def test_the_focal_loss_has_a_finite_gradient_where_it_is_sure() -> None:
    sure = torch.tensor([[200.0, -200.0, -200.0]], requires_grad=True)
    batch_loss("cb_focal", sure, torch.tensor([0]), COUNTS).backward()
    assert sure.grad is not None
    assert torch.isfinite(sure.grad).all()


@pytest.mark.parametrize(("share", "deferred"), [(0.0, False), (0.79, False), (0.8, True)])
def test_ldam_has_margins_and_weighs_late(share: float, deferred: bool) -> None:
    margins = [0.5 * int(n) ** -0.25 for n in COUNTS]  # the rarest class, of one image, has the largest: 0.5
    losses, factors = [], []
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        scaled = [30 * (z - (margins[label] if index == label else 0)) for index, z in enumerate(row)]
        losses.append(negative_log_softmax(scaled, label))
        factors.append(weights()[label] if deferred else 1.0)
    expected = sum(f * v for f, v in zip(factors, losses, strict=True)) / sum(factors)
    got = batch_loss("ldam", LOGITS, LABELS, COUNTS, epoch_fraction=share)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_pieces_with_the_mean_weight_of_the_whole_give_its_loss() -> None:
    logits, labels = torch.cat([LOGITS, -LOGITS]).double(), torch.tensor([2, 0, 0, 1])
    late = {"epoch_fraction": 0.9}
    whole = batch_loss("ldam", logits, labels, COUNTS, **late)
    mean_weight = deferred_weights(COUNTS, 0.9).double()[labels].mean()
    pieces = [
        batch_loss("ldam", z, y, COUNTS, mean_weight=mean_weight, **late)
        for z, y in zip(logits.chunk(2), labels.chunk(2), strict=True)
    ]
    assert torch.stack(pieces).mean().item() == pytest.approx(whole.item(), rel=1e-12)
    apart = [batch_loss("ldam", z, y, COUNTS, **late) for z, y in zip(logits.chunk(2), labels.chunk(2), strict=True)]
    assert abs(torch.stack(apart).mean() - whole) > 0.1


@pytest.mark.parametrize("name", ["cross_entropy", "balanced_softmax"])
def test_label_smoothing(name: str) -> None:
    labels = torch.tensor([1, 0])  # with LABELS what smoothing adds to one image it takes from the other
    shifts = [math.log(int(n)) if name == "balanced_softmax" else 0.0 for n in COUNTS]
    expected = 0.0
    for row, label in zip(LOGITS.tolist(), labels.tolist(), strict=True):
        each = [negative_log_softmax([z + s for z, s in zip(row, shifts, strict=True)], index) for index in range(3)]
        expected += (0.1 * each[label] + 0.9 * sum(each) / 3) / 2
    got = batch_loss(name, LOGITS, labels, COUNTS, label_smoothing=0.9)
    assert got.item() == pytest.approx(expected, rel=1e-6)
    assert abs(got.item() - batch_loss(name, LOGITS, labels, COUNTS).item()) > 0.1


@pytest.mark.parametrize("name", ["cross_entropy", "balanced_softmax", "cb_focal", "ldam"])
def test_classifiers_side_by_side_have_losses_of_their_own(name: str) -> None:
    stacked = torch.stack([LOGITS, 2 * LOGITS, -LOGITS])[None]  # [1, 3, B, C]
    together = batch_loss(name, stacked, LABELS, COUNTS, epoch_fraction=0.9)
    alone = [batch_loss(name, each, LABELS, COUNTS, epoch_fraction=0.9) for each in stacked[0]]
    assert together.shape == (1, 3)
    torch.testing.assert_close(together[0], torch.stack(alone))


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--loss: got 'hinge'.*cross_entropy"):
        batch_loss("hinge", LOGITS, LABELS, COUNTS)
    with pytest.raises(ValueError, match=r"^--loss: .*\bldam\b"):
        batch_loss("ldam", LOGITS, LABELS, None)


GOOD = """
    import torch
    from torch.nn import functional as F

    def logit_adjusted(logits, labels, class_counts):
        return F.cross_entropy(logits + class_counts.log(), labels)

    def each(logits, labels, class_counts):
        return F.cross_entropy(logits + class_counts.log(), labels, reduction="none")
"""


@pytest.mark.parametrize("function", ["logit_adjusted", "each"])
def test_a_loss_of_the_users_is_one_number_or_one_an_image(own_module: Callable[[str], str], function: str) -> None:
    name = f"{own_module(GOOD)}:{function}"
    check_own_loss(name, COUNTS)
    expected = batch_loss("balanced_softmax", LOGITS, LABELS, COUNTS)
    assert batch_loss(name, LOGITS, LABELS, COUNTS).item() == pytest.approx(expected.item())
    both = batch_loss(name, torch.stack([LOGITS, 2 * LOGITS]), LABELS, COUNTS)
    assert both.tolist() == pytest.approx(
        batch_loss("balanced_softmax", torch.stack([LOGITS, 2 * LOGITS]), LABELS, COUNTS).tolist()
    )


def test_what_it_changes_is_its_own(own_module: Callable[[str], str]) -> None:
    name = own_module(
        """
        from torch.nn import functional as F

        def loss(logits, labels, class_counts):
            class_counts += 1
            logits = logits + class_counts.log()
            value = F.cross_entropy(logits, labels.clone())
            labels.zero_()
            return value
        """
    )
    counts, labels = COUNTS.clone(), LABELS.clone()
    check_own_loss(f"{name}:loss", counts)
    losses = batch_loss(f"{name}:loss", torch.stack([LOGITS, LOGITS]), labels, counts)
    assert losses[0] == losses[1] == batch_loss("balanced_softmax", LOGITS, LABELS, COUNTS + 1)
    assert torch.equal(counts, COUNTS)
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", r"raised ZeroDivisionError: division by zero, mine_\w+\.py line 2 "),
        ("return logits[:, 5].sum()", r"raised IndexError: .*logits \[8, 3\], labels \[8\] and class counts \[3\]"),
        ("return logits.sum().item()", "returned a float"),
        ("return F.cross_entropy(logits, labels, reduction='sum')", "twice as large for a batch twice as large"),
        ("return logits.view(8, 3).mean()", r"\[16, 3\], labels \[16\]"),
        ("return logits.sum(0)", r"returned torch\.float32 \[3\]"),
        ("return logits.argmax(1)", r"returned torch\.int64 \[8\]"),
        ("return logits.detach().sum()", "has no gradient"),
        ("return (logits * 0).log().sum()", "not finite"),
        ("logits -= logits.mean(); return logits.sum()", "raised RuntimeError: .*in-place"),
    ],
)
def test_a_mistake_in_it_is_found_on_a_made_up_batch(own_module: Callable[[str], str], body: str, message: str) -> None:
    name = own_module(f"def loss(logits, labels, class_counts):\n    {body}\n\nfrom torch.nn import functional as F")
    with pytest.raises(ValueError, match=rf"^--loss: got {name}:loss, .*{message}"):
        check_own_loss(f"{name}:loss", COUNTS)
