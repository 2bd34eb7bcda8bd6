"""The operations against plain PyTorch in float64, their gradients, and life inside torch.compile and autocast."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastlt import ops
from fastlt.ops import cross_entropy, intervals, linear, ranking


def problem(num: int = 37, classes: int = 23, width: int = 9, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(num * classes)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "x": draw(num, width),
        "w": draw(classes, width),
        "y": torch.randint(0, classes, (num,), generator=generator),
        "scale": draw(classes).abs() + 0.5,
        "bias": draw(classes),
        "offset": draw(classes),
        "class_weights": draw(classes).abs(),
    }


def leaves(p: dict[str, Tensor], *names: str) -> list[Tensor]:
    return [p[name].clone().requires_grad_() for name in names]


ALL = ("x", "w", "scale", "bias", "offset")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_and_its_gradients_are_pytorchs(reduction: str, label_smoothing: float, weighted: bool) -> None:
    p = problem()
    y = p["y"].clone()
    y[[3, 8]] = -7
    options = {"label_smoothing": label_smoothing, "ignore_index": -7, "reduction": reduction}
    v = p["class_weights"] if weighted else None
    x, w, scale, bias, offset = inputs = leaves(p, *ALL)
    ours = ops.scaled_cross_entropy(x, w, y, scale=scale, bias=bias, offset=offset, class_weights=v, **options)
    plain = F.cross_entropy((x @ w.T + bias) * scale + offset, y, weight=v, **options)
    torch.testing.assert_close(ours, plain)
    upstream = torch.randn_like(plain)
    for got, wanted in zip(*(torch.autograd.grad(loss, inputs, upstream) for loss in (ours, plain)), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("wanted", [("scale",), ("w", "bias"), ("x",), ("offset",), ("bias",), ALL])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck_of_whatever_is_asked_for(wanted: tuple[str, ...], reduction: str) -> None:
    p = problem(5, 4, 3)
    inputs = [p[name].clone().requires_grad_(name in wanted) for name in ALL]

    def loss(x: Tensor, w: Tensor, scale: Tensor, bias: Tensor, offset: Tensor) -> Tensor:
        vectors = {"scale": scale, "bias": bias, "offset": offset}
        return ops.scaled_cross_entropy(x, w, p["y"], **vectors, label_smoothing=0.2, reduction=reduction)

    def logits(x: Tensor, w: Tensor, scale: Tensor, bias: Tensor, offset: Tensor) -> Tensor:
        return ops.scaled_logits(x, w, scale=scale, bias=bias, offset=offset)

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradcheck(logits, inputs)


def test_gradients_without_vectors_and_twice_through_one_graph() -> None:
    p = problem()
    x, w = leaves(p, "x", "w")
    loss = ops.scaled_cross_entropy(x, w, p["y"])
    first = torch.autograd.grad(loss, (x, w), retain_graph=True)
    second = torch.autograd.grad(loss, (x, w))
    expected = torch.autograd.grad(F.cross_entropy(x @ w.T, p["y"]), (x, w))
    for a, b, c in zip(first, second, expected, strict=True):
        torch.testing.assert_close(a, c)
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_types_are_no_worse_than_pytorchs(dtype: torch.dtype) -> None:
    exact, p = problem(129, 365, 65), problem(129, 365, 65, dtype)
    vectors = {name: exact[name].float() for name in ("scale", "bias", "offset")}
    wide = {name: p[name].double() for name in ("x", "w")}
    truth = (wide["x"] @ wide["w"].T + exact["bias"].float().double()) * vectors["scale"].double()
    truth += vectors["offset"].double()
    ours = ops.scaled_logits(p["x"], p["w"], **vectors)
    plain = (F.linear(p["x"], p["w"]) + vectors["bias"]) * vectors["scale"] + vectors["offset"]
    assert ours.dtype is dtype
    assert (ours - truth).abs().max() <= 2 * (plain.to(dtype) - truth).abs().max() + 1e-5
    loss = ops.scaled_cross_entropy(p["x"], p["w"], p["y"], **vectors)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss.double(), F.cross_entropy(truth, p["y"]), rtol=1e-5, atol=1e-5)


def test_rows_cross_chunks_and_strides_do_not_matter() -> None:
    p = problem(1100, 2100, 5, torch.float32)
    x, w = p["x"].T.contiguous().T, p["w"].repeat(1, 2)[:, :5]
    torch.testing.assert_close(ops.scaled_logits(x, w), p["x"] @ p["w"].T)
    loss = ops.scaled_cross_entropy(x, w, p["y"], reduction="none")
    torch.testing.assert_close(loss, F.cross_entropy(p["x"] @ p["w"].T, p["y"], reduction="none"))
    again = ops.scaled_cross_entropy(x, w, p["y"], reduction="none")
    assert torch.equal(loss, again)


def test_empty_batches_are_pytorchs() -> None:
    x, w, y = torch.empty(0, 4), torch.randn(3, 4).requires_grad_(), torch.empty(0, dtype=torch.int64)
    assert ops.scaled_logits(x, w).shape == (0, 3)
    assert ops.label_rank(x, w, y).shape == (0,)
    assert ops.scaled_cross_entropy(x, w, y).isnan()
    total = ops.scaled_cross_entropy(x, w, y, reduction="sum")
    total.backward()
    assert total == 0
    assert not w.grad.any()


def test_tau_normalized_logits() -> None:
    p = problem()
    p["w"][4] = 0.0
    norms = p["w"].norm(dim=1, keepdim=True).clamp_min(1e-9)
    for tau in (0.0, 0.7, 2):
        torch.testing.assert_close(ops.tau_normalized_logits(p["x"], p["w"], tau), p["x"] @ (p["w"] / norms**tau).T)
    small = problem(4, 5, 3)
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.tau_normalized_logits, (*leaves(small, "x", "w"), tau))


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_centroid_logits_choose_the_nearest_mean(center: bool, normalize: bool) -> None:
    p = problem(60, 7, 5)
    mean = p["x"].mean(0) if center else None
    inner = p["x"] - mean if center else p["x"]
    inner = inner / inner.norm(dim=1, keepdim=True) if normalize else inner
    nearest = torch.cdist(inner, p["w"]).argmin(1)
    scores = ops.centroid_logits(p["x"], p["w"], center=mean, normalize=normalize)
    assert torch.equal(scores.argmax(1), nearest)
    scores = ops.centroid_logits(p["x"], p["w"], center=mean, normalize=normalize, metric="cos")
    assert torch.equal(scores.argmax(1), (inner @ p["w"].T).argmax(1))


def test_label_rank_counts_as_argmax_and_topk_do() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randint(-2, 3, size, generator=generator).double() for size in ((400, 3), (30, 3)))
    y = torch.randint(0, 30, (400,), generator=generator)
    order = (x @ w.T).argsort(dim=1, descending=True, stable=True)
    rank = ops.label_rank(x, w, y)
    assert rank.dtype is torch.int32
    assert torch.equal(rank.long(), (order == y[:, None]).nonzero()[:, 1])
    x[5] = float("nan")
    assert ops.label_rank(x, w, y)[5] == 29


def test_predictions_are_argmax_and_log_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randint(-2, 3, size, generator=generator).float() for size in ((5000, 3), (30, 3)))
    y, bias = torch.randint(0, 30, (5000,), generator=generator), torch.rand(30, generator=generator).round()
    logits = x.double() @ w.double().T + bias.double()
    classes, of_class, of_label = ops.predictions(x.bfloat16(), w, y, bias=bias)
    assert torch.equal(classes, logits.argmax(1))  # with ties
    expected = logits.log_softmax(1).gather(1, torch.stack([classes, y], 1))
    torch.testing.assert_close(torch.stack([of_class, of_label], 1), expected)
    assert ops.predictions(x[:0], w, y[:0])[1].shape == (0,)


def test_opcheck() -> None:
    p = problem(6, 5, 4, torch.float32)
    x, w, scale, shift = p["x"], p["w"], p["scale"], p["offset"]
    torch.library.opcheck(linear._scaled_logits, (*(t.requires_grad_() for t in (x, w, scale, shift)), None, None))
    x, w, scale, shift = (t.detach() for t in (x, w, scale, shift))
    torch.library.opcheck(linear._scaled_logits, (x, w, None, shift, torch.ones(6), scale))
    torch.library.opcheck(linear._scaled_logits_backward, (torch.ones(6, 5), x, w, scale, [True, False, True, True]))
    torch.library.opcheck(linear._tau_normalized_logits, (x, w, 0.5))
    torch.library.opcheck(ranking._label_rank, (x, w, p["y"], scale, None))
    torch.library.opcheck(ranking._predictions, (x, w, p["y"], scale))
    torch.library.opcheck(intervals._log_norms, (w,))
    torch.library.opcheck(intervals._intervals, (x, w, p["y"], scale, None, True))
    heads = x, w[None], p["y"], scale[None], None, shift, None
    torch.library.opcheck(cross_entropy._cross_entropy, (*heads, 0.1, -100, True, 5))
    losses, *kept = cross_entropy._cross_entropy(*heads, 0.1, -100, True, 5)
    needs = [True, True, False, False, True]
    torch.library.opcheck(cross_entropy._cross_entropy_backward, (losses, *heads, *kept, True, needs))


def test_everything_compiles_without_a_graph_break() -> None:
    p = problem(dtype=torch.float32)

    def step(x: Tensor, w: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        loss = ops.scaled_cross_entropy(x, w, p["y"], scale=scale, bias=p["bias"], label_smoothing=0.1)
        logits = ops.scaled_logits(x, w, scale=scale).sum() + ops.tau_normalized_logits(x, w, 0.5).sum()
        low, high = ops.tau_intervals(x, w, p["y"])
        rest = *ops.prior_intervals(x, w, p["y"], p["bias"]), *ops.predictions(x, w, p["y"])
        return loss + logits, low, high, *rest, ops.label_rank(x, w, p["y"]), ops.centroid_logits(x, w)

    results = []
    for function in (step, torch.compile(step, fullgraph=True)):
        inputs = leaves(p, "x", "w", "scale")
        loss, *rest = function(*inputs)
        results.append([loss, *rest, *torch.autograd.grad(loss, inputs)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


def test_autocast_casts_as_linear_does_and_keeps_the_parameters_type() -> None:
    p = problem(dtype=torch.float32)
    x, w, scale = leaves(p, "x", "w", "scale")
    with torch.autocast("cpu", torch.bfloat16):
        logits = ops.scaled_logits(x, w, scale=scale)
        loss = ops.scaled_cross_entropy(x, w, p["y"], scale=scale)
    assert logits.dtype is torch.bfloat16
    assert loss.dtype is torch.float32
    expected = F.cross_entropy((x.bfloat16().float() @ w.bfloat16().float().T) * scale, p["y"])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert [g.dtype for g in torch.autograd.grad(loss, (x, w, scale))] == [torch.float32] * 3


def test_without_triton() -> None:
    code = """
import sys, importlib.abc
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton": raise ImportError(name)
sys.meta_path.insert(0, Block())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "triton" else real(name, package)
import torch
from fastlt import ops
from fastlt.ops import backend
assert not backend.HAS_TRITON
print(ops.tau_intervals(torch.ones(2, 3), torch.eye(3), torch.tensor([0, 1])))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize(("precision", "of_products"), [("ieee", "tf32x3"), ("none", "tf32x3"), ("tf32", "tf32")])
def test_kernels_multiply_float32_as_either_switch_of_pytorch_says(precision: str, of_products: str) -> None:
    launch = pytest.importorskip("fastlt.kernels.launch_linear")
    switch = torch.backends.cuda.matmul  # the newer one, which contradicts the older
    before = switch.fp32_precision
    switch.fp32_precision = precision
    try:
        assert launch.precision(torch.float32) == of_products
        assert launch.precision(torch.bfloat16) == "ieee"
    finally:
        switch.fp32_precision = before


def test_kernels_multiply_float32_as_amds_compiler_can(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("fastlt.kernels.launch_linear")
    amd = pytest.importorskip("triton.backends.amd.compiler")
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert launch.precision(torch.float32) in amd.HIPOptions.allowed_dot_input_precisions


def test_importing_the_ops_imports_no_kernel() -> None:
    code = "import sys, fastlt.ops; assert not any(m.startswith('fastlt.kernels') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
