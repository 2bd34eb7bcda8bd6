"""Checks of kernels/launch_intervals.py: between which taus each label is right."""

from collections.abc import Iterator
from unittest import mock

import torch
from checking import DTYPES, SHAPES, Check, Group, Launch, each_shape, exact_problem, head, layouts, misaligned, problem
from fastlt.kernels import launch_intervals, launch_linear

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


def check_wide(device: str, dtype: torch.dtype) -> Iterator[Check]:
    """Intervals of many classes, each there twice, by descriptors where there are any, and by pointers: float64's."""
    x, w, y, bias = exact_problem(device, dtype, 3)
    slope = launch_intervals.log_norms(w)
    for log in (True, False):
        shift = None if log else bias
        expected = reference.intervals(x.double(), w.double(), y, slope.double(), shift, log)
        for architecture in (launch_linear.architecture(), 80):
            with mock.patch.object(launch_linear, "architecture", return_value=architecture):
                got = launch_intervals.intervals(misaligned(x), misaligned(w), y, slope, shift, log)
            point = expected[1] - expected[0] < 1e-5  # crossings of three lines in one point, apart by rounding only
            pairs = zip(got, expected, strict=True)
            close = [(point | torch.isclose(g.double(), e, rtol=1e-4, atol=1e-4)).all() for g, e in pairs]
            yield f"intervals of twins log={log}, as on sm_{architecture}", all(close), ""


def check_twins(device: str, dtype: torch.dtype) -> Iterator[Check]:
    """Of two classes that are equal the first wins, though their tiles, and the label's, are different ones."""
    p = problem((40, 600, 64), dtype, device, 4)
    x, y, w = p["x"].contiguous(), p["y"] % 300, p["w"][:300].repeat(2, 1)
    low, high = launch_intervals.intervals(x, w, y + 300, launch_intervals.log_norms(w), None, True)
    yield "intervals of random twins", bool((low == float("inf")).all() and (high == float("-inf")).all()), ""
    first, second = (launch_linear.label_rank(x, w, labels, None, None) for labels in (y, y + 300))
    yield "label_rank of random twins", torch.equal(first + 1, second), ""


def check_not_a_number(device: str) -> Iterator[Check]:
    """A sample with NaN is right nowhere, and leaves its neighbours alone."""
    x, w, y, bias = exact_problem(device, torch.float32, 5)
    others = torch.arange(len(x), device=device) != 3
    bad = x.clone()
    bad[3] = float("nan")
    for log in (True, False):
        args = w, y, launch_intervals.log_norms(w), None if log else bias, log
        before, after = (launch_intervals.intervals(features, *args) for features in (x, bad))
        good = float(after[0][3]) == float("inf") and float(after[1][3]) == float("-inf")
        good &= all(torch.equal(a[others], b[others]) for a, b in zip(before, after, strict=True))
        yield f"intervals of NaN log={log}", good, ""


def check_log_norms(device: str, dtype: torch.dtype) -> Check:
    """Norms of any width and strides; equal ones have equal logarithms, a zero row has 0, a NaN stays one."""
    generator = torch.Generator().manual_seed(6)
    w = torch.randn(37, 301, generator=generator).to(dtype)
    w[5] = w[4][torch.randperm(301, generator=generator)]
    w[6] = 0
    w[7, 300] = float("nan")
    w = w.T.contiguous().T.to(device)
    got = launch_intervals.log_norms(w).cpu()
    good = torch.allclose(got, reference.log_norms(w.cpu()).float(), rtol=1e-6, atol=1e-6, equal_nan=True)
    return "log_norms", good and bool(got[5] == got[4]) and bool(got[6] == 0) and bool(got[7].isnan()), ""


def check_empty(device: str) -> Check:
    """No sample at all."""
    empty = problem((0, 5, 4), torch.float32, device, 0)
    got = launch_intervals.intervals(empty["x"], empty["w"], empty["y"], empty["scale"], None, True)
    return "intervals empty", got[0].shape == (0,), ""


def groups(device: str) -> list[Group]:
    checks = each_shape(device, check_random_intervals, True) + each_shape(device, check_random_intervals, False)
    checks += [("", check_nasty_intervals, (device, torch.float32, seed)) for seed in range(3)]
    checks += [
        (str(dtype), check, (device, dtype))
        for dtype in DTYPES[device]
        for check in (check_wide, check_twins, check_log_norms)
    ]
    return [*checks, *(("", check, (device,)) for check in (check_not_a_number, check_empty))]


def launches() -> Iterator[Launch]:
    for dtype, size in layouts():
        x, w, y, slope, _ = head(size, dtype)
        yield launch_intervals.intervals, x, w, y, slope, None, True
        yield launch_intervals.intervals, x, w, y, slope, slope, False
        yield launch_intervals.log_norms, w
