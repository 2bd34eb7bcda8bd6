"""Every operation refuses what does not fit, and the message names the argument."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from fastlt import ops
from fastlt.ops import checks

X, W, Y = torch.randn(5, 4), torch.randn(3, 4), torch.tensor([0, 1, 2, 0, 1])
PRIOR = torch.zeros(3)
NAN = torch.full((3, 4), float("nan"))

CALLS: dict[str, Callable[..., Any]] = {
    "scaled_logits": lambda x=X, w=W, y=Y, **k: ops.scaled_logits(x, w, **k),
    "tau_normalized_logits": lambda x=X, w=W, y=Y, **k: ops.tau_normalized_logits(x, w, **({"tau": 1.0} | k)),
    "centroid_logits": lambda x=X, w=W, y=Y, **k: ops.centroid_logits(x, w, **k),
    "scaled_cross_entropy": lambda x=X, w=W, y=Y, **k: ops.scaled_cross_entropy(x, w, y, **k),
    "label_rank": lambda x=X, w=W, y=Y, **k: ops.label_rank(x, w, y, **k),
    "predictions": lambda x=X, w=W, y=Y, **k: ops.predictions(x, w, y, **k),
    "tau_intervals": lambda x=X, w=W, y=Y, **k: ops.tau_intervals(x, w, y),
    "prior_intervals": lambda x=X, w=W, y=Y, **k: ops.prior_intervals(x, w, y, **({"log_prior": PRIOR} | k)),
}
EVALUATED = ["label_rank", "predictions", "tau_intervals", "prior_intervals"]
LABELLED = ["scaled_cross_entropy", *EVALUATED]


def matrix(name: str) -> str:
    return "centroids" if name == "centroid_logits" else "weight"


@pytest.mark.parametrize("name", CALLS)
def test_shapes_types_devices_and_values_of_the_factors(name: str) -> None:
    call, weight = CALLS[name], matrix(name)
    with pytest.raises(ValueError, match=r"^features\b.*\[4\]"):
        call(x=X[0])
    with pytest.raises(ValueError, match=r"^features\b.*got torch\.int64"):
        call(x=X.long())
    with pytest.raises(ValueError, match=rf"^{weight}\b.*\b3\b.*\b4\b"):
        call(w=W[:, :3])
    with pytest.raises(ValueError, match=rf"^{weight}\b.*\bmeta\b.*\bcpu\b"):
        call(w=W.to("meta"))
    with pytest.raises(ValueError, match=rf"^{weight}\b.*\bNaN\b"):
        call(w=NAN)
    with pytest.raises(ValueError, match=rf"^{weight}\b.*\[0, 4\]"):
        call(w=W[:0], y=Y)


@pytest.mark.parametrize("name", LABELLED)
def test_labels(name: str) -> None:
    call = CALLS[name]
    with pytest.raises(ValueError, match=r"^labels\b.*got 3\b"):
        call(y=Y + 1)
    with pytest.raises(ValueError, match=r"^labels\b.*got -1\b"):
        call(y=Y - 1)
    with pytest.raises(ValueError, match=r"^labels\b.*got (shape )?\[3\]"):
        call(y=Y[:3])
    with pytest.raises(ValueError, match=r"^labels\b.*got torch\.float32"):
        call(y=Y.float())
    with pytest.raises(ValueError, match=r"^labels\b.*\bmeta\b"):
        call(y=Y.to("meta"))


@pytest.mark.parametrize(
    ("name", "argument"),
    [(n, a) for n in ("scaled_logits", "scaled_cross_entropy", "label_rank") for a in ("scale", "bias", "offset")]
    + [("scaled_cross_entropy", "class_weights"), ("prior_intervals", "log_prior"), ("prior_intervals", "bias")]
    + [("predictions", "bias")],
)
def test_vectors(name: str, argument: str) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}\b.*got (shape )?\[4\]"):
        CALLS[name](**{argument: torch.ones(4)})
    with pytest.raises(ValueError, match=rf"^{argument}\b.*got torch\.int64"):
        CALLS[name](**{argument: torch.ones(3, dtype=torch.int64)})
    with pytest.raises(ValueError, match=rf"^{argument}\b.*\bmeta\b"):
        CALLS[name](**{argument: torch.ones(3, device="meta")})
    with pytest.raises(ValueError, match=rf"^{argument}\b.*\bNaN\b"):
        CALLS[name](**{argument: torch.tensor([0.0, float("-inf"), 0.0])})


class Reads(TorchFunctionMode):
    """Count the values that are read: on an accelerator, the waits for it."""

    num = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.num += func.__name__ in ("tolist", "item", "__bool__", "__int__", "__float__", "nonzero")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", EVALUATED)
def test_an_accelerator_is_read_once_at_the_end_of_a_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "needs_wait", lambda tensor: True)
    call = CALLS[name]
    with Reads() as reads:
        call()
    assert reads.num == 1
    call(w=torch.full((3, 4), 3e38))
    with pytest.raises(ValueError, match=r"^labels\b.*got -1\b"):
        call(y=Y - 1)
    with pytest.raises(ValueError, match=r"^weight\b.*\bNaN\b"):
        call(w=NAN)
    if name != "tau_intervals":
        with pytest.raises(ValueError, match=r"^bias\b.*\bNaN\b"):
            call(bias=NAN[:, 0])


@pytest.mark.parametrize("tau", [-0.1, float("inf"), float("nan"), torch.tensor(-1.0), torch.tensor(float("inf"))])
def test_tau(tau: float) -> None:
    with pytest.raises(ValueError, match=rf"^tau\b.*got {tau}"):
        ops.tau_normalized_logits(X, W, tau)


def test_options() -> None:
    with pytest.raises(ValueError, match=r"^tau\b.*got shape \[2\]"):
        ops.tau_normalized_logits(X, W, torch.ones(2))
    with pytest.raises(ValueError, match=r"^metric\b.*got 'l1'"):
        ops.centroid_logits(X, W, metric="l1")
    with pytest.raises(ValueError, match=r"^center\b.*got (shape )?\[3\]"):
        ops.centroid_logits(X, W, center=torch.ones(3))
    with pytest.raises(ValueError, match=r"^label_smoothing\b.*got 1\.5\b"):
        ops.scaled_cross_entropy(X, W, Y, label_smoothing=1.5)
    with pytest.raises(ValueError, match=r"^reduction\b.*got 'avg'"):
        ops.scaled_cross_entropy(X, W, Y, reduction="avg")


def test_a_large_finite_weight_is_finite() -> None:
    ops.scaled_logits(torch.zeros(1, 4), torch.full((3, 4), 3e38))
