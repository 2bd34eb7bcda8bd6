"""Checks of kernels/launch_linear.py: logits, their gradients, ranks, steps of SGD."""

from collections.abc import Callable, Iterator
from unittest import mock

import torch
from checking import (
    DTYPES,
    NEEDS,
    SHAPES,
    Check,
    Group,
    Launch,
    each_shape,
    exact_problem,
    head,
    layouts,
    misaligned,
    near,
    problem,
)
from fastlt.kernels import launch_linear as launch
from torch import Tensor

from fastlt.ops import reference


def plain_logits(x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, row: Tensor, column: Tensor) -> Tensor:
    z = torch.nn.functional.linear(x, w).to(torch.promote_types(x.dtype, torch.float32))
    return (z * scale + shift + row[:, None] * column).to(x.dtype)


def plain_tau(x: Tensor, w: Tensor, tau: float) -> Tensor:
    norms = torch.linalg.vector_norm(w.to(torch.promote_types(w.dtype, torch.float32)), dim=1, keepdim=True)
    return torch.nn.functional.linear(x, (w / norms**tau).to(x.dtype))


def plain_backward(grad: Tensor, x: Tensor, w: Tensor, scale: Tensor, needs: list[bool]) -> tuple[Tensor, ...]:
    return reference.scaled_logits_backward(grad, x, w, scale, needs)


def check_values(device: str, number: int, dtype: torch.dtype) -> Iterator[Check]:
    """Logits and all gradients that they can give."""
    p = problem(SHAPES[device][number], dtype, device, number)
    x, w, scale, shift = (p[name] for name in ("x", "w", "scale", "shift"))
    logits = x, w, scale, shift, p["row"], p["column"]
    yield near("scaled_logits", launch.scaled_logits, plain_logits, logits, dtype)
    yield near("tau_normalized_logits", launch.tau_normalized_logits, plain_tau, (x, w, 0.7), dtype)
    for needs in NEEDS:
        args = p["grad"], x, w, scale, needs
        yield near(f"scaled_logits_backward {needs}", launch.scaled_logits_backward, plain_backward, args, dtype)


def check_rank(device: str, number: int, dtype: torch.dtype) -> Check:
    """Ranks may differ by the rivals whose score lies within rounding of the label's."""
    p = problem(SHAPES[device][number], dtype, device, number)
    x, w, y, scale, shift = (p[name] for name in ("x", "w", "y", "scale", "shift"))
    scores = (x.double() @ w.double().T) * scale.double() + shift.double()
    own = scores.gather(1, y[:, None])
    slack = 1e-5 * scores.abs().amax(1, keepdim=True).clamp_min(1.0)
    ahead, close = (scores > own + slack).sum(1), ((scores - own).abs() <= slack).sum(1) - 1
    rank = launch.label_rank(x, w, y, scale, shift)
    again = launch.label_rank(x, w, y, scale, shift)
    good = ((rank >= ahead) & (rank <= ahead + close)).all() and torch.equal(rank, again)
    return "label_rank", bool(good), ""


def check_predictions(device: str, number: int, dtype: torch.dtype) -> Check:
    """Classes may differ where the two best are within rounding; probabilities are as near as float32 sums allow."""
    p = problem(SHAPES[device][number], dtype, device, number)
    x, w, y, bias = (p[name] for name in ("x", "w", "y", "shift"))
    scores = x.double() @ w.double().T + bias.double()
    classes, of_class, of_label = launch.predictions(x, w, y, bias)
    again = launch.predictions(x, w, y, bias)
    good = all(map(torch.equal, (classes, of_class, of_label), again))
    slack = 1e-5 * scores.abs().amax(1).clamp_min(1.0)
    good &= bool((scores.amax(1) - scores.gather(1, classes[:, None]).squeeze(1) <= slack).all())
    exact = scores.log_softmax(1)
    apart = [
        (of_class - exact.amax(1)).abs() / slack,
        (of_label - exact.gather(1, y[:, None]).squeeze(1)).abs() / slack,
    ]
    worst = float(torch.stack(apart).max())
    return "predictions", good and worst < 2, f"{worst:.2f} of 1e-5 apart"


def check_ties(device: str, dtype: torch.dtype) -> Iterator[Check]:
    """Ranks and classes of ties are argmax's to the last, by descriptors where there are any, and by pointers."""
    x, w, y, bias = exact_problem(device, dtype, 1)
    scores = x.double() @ w.double().T
    own, index = scores.gather(1, y[:, None]), torch.arange(len(w), device=device)
    rank = ((scores > own) | ((scores == own) & (index < y[:, None]))).sum(1)
    for architecture, a, b in ((launch.architecture(), x, w), (80, x, w), (80, misaligned(x), misaligned(w))):
        with mock.patch.object(launch, "architecture", return_value=architecture):
            is_wide = launch.Product.of(a, b, reduced=True).tile.by_tma
            ranks, (classes, of_class, of_label) = (
                launch.label_rank(a, b, y, None, None),
                launch.predictions(a, b, y, bias),
            )
        name = f"of ties, as on sm_{architecture}"
        yield f"tile {name}", is_wide == (architecture >= 90 and dtype.itemsize == 2), f"by TMA: {is_wide}"
        yield f"label_rank {name}", torch.equal(ranks.long(), rank), ""
        yield f"predictions {name}", torch.equal(classes, scores.argmax(1)), ""
        is_best = own.squeeze(1) == scores.amax(1)
        yield f"probabilities {name}", torch.equal(of_class == of_label, is_best), ""


def check_not_a_number(device: str) -> Iterator[Check]:
    """A sample with NaN is right nowhere, predicts the first class, and leaves its neighbours alone.

    So does one with an infinite feature: all its logits are -inf, which no column past the last class may beat.
    """
    x, w, y, bias = exact_problem(device, torch.float32, 2)
    plain = launch.predictions(x, w, y, bias)
    x[3] = float("nan")
    rank, (classes, of_class, of_label) = launch.label_rank(x, w, y, None, None), launch.predictions(x, w, y, bias)
    yield "label_rank of NaN", int(rank[3]) == len(w) - 1, ""
    yield "predictions of NaN", int(classes[3]) == 0 and bool(of_class[3].isnan() and of_label[3].isnan()), ""
    infinite = launch.predictions(torch.full_like(x, float("-inf")), torch.ones_like(w), y, bias)
    yield "predictions of -inf", not infinite[0].any(), ""
    others = torch.arange(len(x), device=device) != 3
    pairs = zip(plain, (classes, of_class, of_label), strict=True)
    yield "neighbours of NaN", all(torch.equal(a[others], b[others]) for a, b in pairs), ""


def check_empty(device: str) -> Check:
    """No sample at all."""
    empty = problem((0, 5, 4), torch.float32, device, 0)
    args = empty["x"], empty["w"], empty["y"]
    rank, found = launch.label_rank(*args, None, None), launch.predictions(*args, None)
    return "label_rank and predictions empty", all(t.shape == (0,) for t in (rank, *found)), ""


def check_sgd(device: str, with_copy: bool) -> Check:
    """Two steps on heads of an odd size, with and without a copy, against float64; the same bits twice."""
    generator = torch.Generator().manual_seed(5)
    size = (3, 41, 67)
    parameter, velocity, gradient = (torch.randn(size, generator=generator).to(device) for _ in range(3))
    settings = [torch.rand(size[0], generator=generator).to(device) for _ in range(2)]
    share = torch.tensor(0.75, device=device)

    def stepped(step: Callable[..., None], dtype: torch.dtype) -> list[Tensor]:
        values = [t.to(dtype, copy=True) for t in (parameter, velocity)]
        copy = torch.empty_like(parameter, dtype=torch.float16) if with_copy else None
        for factor in (1, -2):
            step(*values, (factor * gradient).half(), copy, *settings, share, 0.9)
        return [*values, values[0].half() if copy is None else copy]

    got, again = (stepped(launch.sgd_step, torch.float32) for _ in range(2))
    exact = stepped(reference.sgd_step, torch.float64)
    good = all(map(torch.equal, got, again)) and torch.equal(got[2], got[0].half())
    good &= all(torch.allclose(a.double(), b, rtol=1e-6, atol=1e-6) for a, b in zip(got[:2], exact[:2], strict=True))
    return f"sgd_step copy={with_copy}", good, ""


def check_large() -> Check:
    """Offsets past 2^31 elements."""
    x, w = torch.randn(45_000, 64, device="cuda").bfloat16(), torch.randn(50_000, 64, device="cuda").bfloat16()
    out = launch.scaled_logits(x, w, None, None, None, None)
    good = torch.allclose(out[-5:].float(), x[-5:].float() @ w.float().T, rtol=2e-2, atol=1e-1)
    return "scaled_logits past 2^31 elements", good, ""


def groups(device: str) -> list[Group]:
    checks = [*each_shape(device, check_values), *each_shape(device, check_rank)]
    checks += each_shape(device, check_predictions)
    checks += [(str(dtype), check_ties, (device, dtype)) for dtype in DTYPES[device]]
    checks += [("", check_not_a_number, (device,)), ("", check_empty, (device,))]
    checks += [("", check_sgd, (device, with_copy)) for with_copy in (True, False)]
    return [*checks, ("", check_large, ())] if device == "cuda" else checks


def launches() -> Iterator[Launch]:
    for dtype, size in layouts():
        x, w, y, s, _ = head(size, dtype)
        yield launch.scaled_logits, x, w, s, s, None, None
        yield launch.scaled_logits_backward, x @ w.T, x, w, s, [True] * 4
        yield launch.label_rank, x, w, y, None, None
        yield launch.predictions, x, w, y, s
    for dtype in (torch.bfloat16, torch.float32):
        x, w, y, s, r = head((512, 8142, 2048), dtype)
        yield launch.tau_normalized_logits, x, w, 0.7
        yield launch.scaled_logits, x, w, None, s, r, s
        yield launch.label_rank, x, w, y, s, s
        yield launch.predictions, misaligned(x), misaligned(w), y, None
    for size in ((1, 8142, 2048), (3, 365), (1, 1)):
        value, vector = torch.empty(size), torch.empty(size[0])
        half = value.bfloat16() if len(size) > 2 else None
        gradient = value if half is None else half
        yield launch.sgd_step, value, value, gradient, half, vector, vector, torch.empty(()), 0.9
