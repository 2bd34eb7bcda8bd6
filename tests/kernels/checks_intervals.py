"""Checks of kernels/launch_intervals.py: between which taus each label is right."""

import torch
from checking import SHAPES, Check, Group, each_shape, problem
from fastlt.kernels import launch_intervals

from fastlt.ops import reference


def check_random_intervals(device: str, number: int, dtype: torch.dtype, log: bool) -> Check:
    """At random taus every decision is float64's, but for labels within rounding of their best rival."""
    p = problem(SHAPES[device][number], dtype, device, number)
    x, w, y = p["x"], p["w"], p["y"]
    z = x.double() @ w.double().T
    if log:
        slope = torch.linalg.vector_norm(w.double(), dim=1).log2()
        low, high = launch_intervals.intervals(x, w, y, slope.float(), None, True)
        again = launch_intervals.intervals(x, w, y, slope.float(), None, True)
    else:
        slope, z = p["column"].double(), z + p["shift"].double()
        low, high = launch_intervals.intervals(x, w, y, p["column"], p["shift"], False)
        again = launch_intervals.intervals(x, w, y, p["column"], p["shift"], False)
    good = torch.equal(low, again[0]) and torch.equal(high, again[1])
    wrong = decided = 0
    for tau in torch.linspace(-1.0, 3.0, 41, dtype=torch.float64):
        scores = z * torch.exp2(-tau * slope) if log else z - tau * slope
        own = scores.gather(1, y[:, None]).squeeze(1)
        rival = scores.scatter(1, y[:, None], float("-inf")).amax(1)
        sure = (own - rival).abs() > 1e-4 * torch.maximum(own.abs(), scores.abs().amax(1)).clamp_min(1e-3)
        wrong += int((((low < tau) & (tau < high)) != (own > rival))[sure].sum())
        decided += int(sure.sum())
    return f"intervals log={log}", good and wrong == 0, f"{wrong} of {decided} decisions wrong"


def check_nasty_intervals(device: str, dtype: torch.dtype, seed: int) -> Check:
    """Small integers have exact products: duplicates, zero classes, equal norms and negative rows in plenty."""
    generator = torch.Generator().manual_seed(seed)
    num, classes, width = 200, 70, 3
    w = torch.randint(-2, 3, (classes, width), generator=generator) * 2 ** torch.randint(
        0, 3, (classes, 1), generator=generator
    )
    w[torch.randint(0, classes, (9,), generator=generator)] = w[torch.randint(0, classes, (9,), generator=generator)]
    x = torch.randint(-2, 3, (num, width), generator=generator)
    # On samples without a negative entry `kept` has no positive logit, and `below` on positive ones no zero either.
    kept = torch.arange(classes)[(w <= 0).all(1)]
    good, text = True, ""
    below = kept[(w[kept] != 0).any(1)]
    for rows, columns in ((x, w), (x.abs(), w[kept]), (x.abs() + 1, w[below])):
        y = torch.randint(0, len(columns), (num,), generator=generator)
        slope = torch.linalg.vector_norm(columns.double(), dim=1)
        slope = torch.where(slope > 0, slope, 1.0).log2()
        expected = reference.intervals(rows.double(), columns.double(), y, slope, None, True)
        args = rows.to(device, dtype), columns.to(device, dtype), y.to(device), slope.float().to(device)
        got = launch_intervals.intervals(*args, None, True)
        point = expected[1] - expected[0] < 1e-6  # crossings of three lines in one point, apart by rounding only
        for ours, exact in zip(got, expected, strict=True):
            same = point | torch.isclose(ours.cpu().double(), exact, rtol=1e-4, atol=1e-4)
            good &= bool(same.all())
            text = f"{int((~same).sum())} of {num} ends differ" if not same.all() else text
    return f"intervals of integers, seed {seed}", good, text


def check_empty(device: str) -> Check:
    """No sample at all."""
    empty = problem((0, 5, 4), torch.float32, device, 0)
    got = launch_intervals.intervals(empty["x"], empty["w"], empty["y"], empty["scale"], None, True)
    return "intervals empty", got[0].shape == (0,), ""


def groups(device: str) -> list[Group]:
    checks = each_shape(device, check_random_intervals, True) + each_shape(device, check_random_intervals, False)
    checks += [("", check_nasty_intervals, (device, torch.float32, seed)) for seed in range(3)]
    return [*checks, ("", check_empty, (device,))]
