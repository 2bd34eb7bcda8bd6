"""Checks of kernels/launch_linear.py: logits, their gradients, ranks."""

from collections.abc import Iterator

import torch
from checking import NEEDS, SHAPES, Check, Group, each_shape, near, problem
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


def check_empty(device: str) -> Check:
    """No sample at all."""
    empty = problem((0, 5, 4), torch.float32, device, 0)
    rank = launch.label_rank(empty["x"], empty["w"], empty["y"], None, None)
    return "label_rank empty", rank.shape == (0,), ""


def check_large() -> Check:
    """Offsets past 2^31 elements."""
    x, w = torch.randn(45_000, 64, device="cuda").bfloat16(), torch.randn(50_000, 64, device="cuda").bfloat16()
    out = launch.scaled_logits(x, w, None, None, None, None)
    good = torch.allclose(out[-5:].float(), x[-5:].float() @ w.float().T, rtol=2e-2, atol=1e-1)
    return "scaled_logits past 2^31 elements", good, ""


def groups(device: str) -> list[Group]:
    checks = [*each_shape(device, check_values), *each_shape(device, check_rank), ("", check_empty, (device,))]
    return [*checks, ("", check_large, ())] if device == "cuda" else checks
