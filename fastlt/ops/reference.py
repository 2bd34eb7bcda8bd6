"""The operations in plain PyTorch, over cache-sized chunks of rows: the CPU's path, and the reference of the kernels.

Legend: N samples, C classes, D feature width; X = features [N, D], W = weight [C, D], z = X @ W.T in the accumulator's
type (float32, or float64 for float64 inputs). Every function works on any device and on any strides.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _C
from .checks import accumulator

# Elements of one chunk of z: 8 MB of float32 stay in a CPU's last-level cache; a GPU without Triton wants more.
CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 25}
PREDICTED_ROWS = 4096  # of a chunk of float64 logits


def chunk_rows(num_classes: int, device: torch.device) -> int:
    """Return the rows of one chunk: enough for an efficient product, few enough to stay in cache."""
    return min(max(CHUNK_ELEMENTS.get(device.type, 1 << 21) // num_classes, 32), 4096 if device.type == "cuda" else 512)


def products(features: Tensor, weight: Tensor, kept: Tensor | None = None) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield (rows, x, z) for chunks of rows: x in the accumulator's type, z = x @ W.T.

    z is in a buffer to be overwritten, or in its rows of `kept` [N, C].
    """
    dtype = accumulator(features.dtype)
    num, classes = features.shape[0], weight.shape[0]
    size = chunk_rows(classes, features.device)
    w = weight.to(dtype)
    buffer = torch.empty(min(size, num) if kept is None else 0, classes, dtype=dtype, device=features.device)
    # Autocast stays on inside a custom operation and would round the accumulator's product to half precision.
    with torch.autocast(features.device.type, enabled=False):
        for start in range(0, num, size):
            rows = slice(start, min(start + size, num))
            x = features[rows].to(dtype)
            yield rows, x, torch.mm(x, w.T, out=buffer[: x.shape[0]] if kept is None else kept[rows])


def score(z: Tensor, scale: Tensor | None, shift: Tensor | None, out: Tensor) -> Tensor:
    """Compute z * scale + shift in one pass, into `out` (which may be z)."""
    if scale is not None and shift is not None:
        return torch.addcmul(shift, z, scale, out=out)
    if scale is not None:
        return torch.mul(z, scale, out=out)
    return z if shift is None else torch.add(z, shift, out=out)


def scaled_logits(
    features: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    row: Tensor | None,
    column: Tensor | None,
) -> Tensor:
    """Return z * scale + shift + row column^T, [N, C] in the type of features."""
    out = features.new_empty(features.shape[0], weight.shape[0])
    for rows, _, z in products(features, weight):
        y = score(z, scale, shift, z)
        if row is not None and column is not None:
            y.addr_(row[rows], column)
        out[rows] = y
    return out


def tau_normalized_logits(features: Tensor, weight: Tensor, tau: float) -> Tensor:
    """Return z / ||w||^tau, [N, C] in the type of features."""
    norms = class_norms(weight, accumulator(features.dtype))
    return scaled_logits(features, weight, norms**-tau, None, None, None)


def class_norms(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ||w_j|| [C]; 1 for a zero row, whose products are 0 whatever their scale."""
    norms = torch.linalg.vector_norm(weight, dim=1, dtype=dtype)
    return torch.where(norms == 0, 1.0, norms)


def log_norms(weight: Tensor) -> Tensor:
    """Return log2 ||w_j|| [C] from sums in float64, so that equal norms have equal logarithms; 0 for a zero row."""
    return class_norms(weight, torch.float64).log2().to(accumulator(weight.dtype))


def scaled_logits_backward(
    grad: Tensor, features: Tensor, weight: Tensor, scale: Tensor | None, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of features, weight, scale and shift, each empty unless needed."""
    dtype = accumulator(features.dtype)
    need_x, need_w, need_s, need_shift = needs
    dx, dw, ds, dshift = gradients = new_gradients(features, weight, needs)
    if need_shift:
        dshift += grad.sum(0, dtype=dtype)
    if need_s:
        for rows, _, z in products(features, weight):
            ds += z.mul_(grad[rows]).sum(0)
    rows_at_once = chunk_rows(weight.shape[0], features.device)
    w = weight.to(dtype)
    with torch.autocast(features.device.type, enabled=False):
        for start in range(0, features.shape[0] if need_x or need_w else 0, rows_at_once):
            rows = slice(start, start + rows_at_once)
            dz = grad[rows].to(dtype) if scale is None else grad[rows] * scale
            if need_x:
                dx[rows] = dz @ w
            if need_w:
                dw.addmm_(dz.T, features[rows].to(dtype))
    return finish(gradients, weight)


def new_gradients(features: Tensor, weight: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate the gradients of features, weight, scale and shift, empty unless needed; all but the first are sums."""
    dtype = accumulator(features.dtype)
    need_x, need_w, need_s, need_shift = needs
    dx = features.new_empty(features.shape if need_x else (0,))
    dw = weight.new_zeros(weight.shape if need_w else (0,), dtype=dtype)
    ds, dshift = (weight.new_zeros(weight.shape[0] if need else 0, dtype=dtype) for need in (need_s, need_shift))
    return dx, dw, ds, dshift


def finish(gradients: tuple[Tensor, Tensor, Tensor, Tensor], weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients with that of weight in its own type."""
    dx, dw, ds, dshift = gradients
    return dx, dw.to(weight.dtype), ds, dshift


def label_rank(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
) -> Tensor:
    """Count the classes that come before the label, as argmax sorts them: int32 [N]; a NaN comes first."""
    out = torch.empty(features.shape[0], dtype=torch.int32, device=features.device)
    index = torch.arange(weight.shape[0], device=features.device)
    for rows, _, z in products(features, weight):
        label = labels[rows, None].long()
        y = score(z, scale, shift, z)
        label_score = y.gather(1, label)
        num_behind = (y < label_score).sum(1) + ((y == label_score) & (index > label)).sum(1)
        out[rows] = (weight.shape[0] - 1 - num_behind).int()
    return out


def predictions(features: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the predicted classes, their log probabilities and the labels', float64; all [N]."""
    dtype = accumulator(features.dtype)
    classes = torch.empty(features.shape[0], dtype=torch.int64, device=features.device)
    of_class, of_label = (torch.empty(classes.shape, dtype=torch.float64, device=classes.device) for _ in range(2))
    w = weight.to(dtype)
    with torch.autocast(features.device.type, enabled=False):
        for start in range(0, features.shape[0], PREDICTED_ROWS):
            rows = slice(start, start + PREDICTED_ROWS)
            logits = F.linear(features[rows].to(dtype), w, bias).double()
            # argmax breaks ties towards the lower index; max promises no order
            classes[rows] = logits.argmax(1)
            wanted = torch.stack([classes[rows], labels[rows].long()], 1)
            of_class[rows], of_label[rows] = logits.log_softmax(1).gather(1, wanted).unbind(1)
    return classes, of_class, of_label


def intervals(
    features: Tensor, weight: Tensor, labels: Tensor, slope: Tensor, shift: Tensor | None, log: bool
) -> tuple[Tensor, Tensor]:
    """Return low, high [N], between which the label's score is the first largest; (inf, -inf) if it never is.

    score_j(tau) = z_j 2^(-tau slope_j) if `log`, else z_j + shift_j - tau slope_j.
    """
    dtype = accumulator(features.dtype)
    low = torch.empty(features.shape[0], dtype=dtype, device=features.device)
    high = torch.empty_like(low)
    labels = labels.long().contiguous()
    copies, originals = _duplicates(weight, slope, shift)
    fused = dtype is torch.float32 and features.device.type == "cpu"
    for rows, _, z in products(features, weight):
        if len(copies):
            # A product's last bits may depend on a class's place in it: equal classes must tie, so they share a logit.
            z[:, copies] = z[:, originals]
        z = score(z, None, shift, z)
        if fused:
            ends = {"low": low[rows].numpy(), "high": high[rows].numpy()}
            arrays = z.numpy(), labels[rows].numpy(), slope.numpy()
            _C.interval_bounds(*arrays, log=log, **ends, num_threads=torch.get_num_threads())
        else:
            low[rows], high[rows] = interval_bounds(z, labels[rows], slope, log)
    return low, high


def _duplicates(weight: Tensor, slope: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the classes whose line equals an earlier one's at every sample, and for each the first such class."""
    _, group, count = torch.unique(slope, return_inverse=True, return_counts=True)
    suspects = torch.nonzero(count[group] > 1).squeeze(1)
    lines = torch.cat([weight[suspects].to(slope.dtype), slope[suspects, None]], dim=1)
    if shift is not None:
        lines = torch.cat([lines, shift[suspects, None]], dim=1)
    _, same = torch.unique(lines, dim=0, return_inverse=True)
    first = torch.full_like(suspects, len(weight)).scatter_reduce_(0, same, suspects, "amin")[same]
    return suspects[suspects > first], first[suspects > first]


def interval_bounds(z: Tensor, labels: Tensor, slope: Tensor, log: bool) -> tuple[Tensor, Tensor]:
    """Return `intervals` of logits z [R, C]; the conventions are those of `fastlt.ops.intervals`.

    Only classes whose logit has the label's sign can cross the label's line. On the negative side the lines are
    -log|z_j| + tau slope_j, so both numbers change sign there and the rest is the positive case.
    """
    inf = float("inf")
    label = labels[:, None]
    lower_index = torch.arange(z.shape[1], device=z.device) < label
    z = z.clamp(torch.finfo(z.dtype).min, torch.finfo(z.dtype).max)
    if log:
        sign = torch.where(z.abs() < torch.finfo(z.dtype).tiny, 0, z.sign()).to(z.dtype)
        label_sign = sign.gather(1, label)
        height = z.abs().log2() * label_sign
        slope = slope * label_sign
        dslope = slope - slope.gather(1, label)
        rival = (sign == label_sign) & (label_sign != 0)
        never = (sign > label_sign).any(1) & (label_sign.squeeze(1) <= 0)
        never |= (lower_index & (sign == 0) & (label_sign == 0)).any(1)
    else:
        height = z
        dslope = slope - slope[label]
        rival = torch.ones_like(z, dtype=torch.bool)
        never = torch.zeros_like(labels, dtype=torch.bool)
    rise = height - height.gather(1, label)
    tau = rise / dslope
    low = torch.where(rival & (dslope > 0), tau, -inf).amax(1)
    high = torch.where(rival & (dslope < 0), tau, inf).amin(1)
    never |= (rival & (dslope == 0) & ((rise > 0) | (lower_index & (rise == 0)))).any(1)
    never |= ~(low < high) | z.isnan().any(1)
    return low.masked_fill(never, inf), high.masked_fill(never, -inf)


def move_statistics(
    running_mean: Tensor, running_variance: Tensor, momentum: float, mean: Tensor, variance: Tensor, count: int
) -> None:
    """Move running statistics [C] towards the moments [C] of `count` values per channel, whose variance is biased."""
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_variance.lerp_((variance * (count / max(count - 1, 1))).to(running_variance.dtype), momentum)


def batch_norm_relu(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y [M, C], mean [C] and biased variance [C] of pixels [M, C]; move running statistics [C] towards these.

    y are the pixels normalised by these moments, plus the residual, rectified where `relu`.
    """
    wide = x.to(accumulator(x.dtype))
    variance, mean = torch.var_mean(wide, 0, correction=0)
    if running_mean is not None and running_variance is not None:
        move_statistics(running_mean, running_variance, momentum, mean, variance, len(x))
    y = (wide - mean) * (weight * torch.rsqrt(variance + eps)) + bias
    if residual is not None:
        y = y + residual
    return (y.relu() if relu else y).to(x.dtype), mean, variance


def batch_norm_relu_backward(
    grad: Tensor,
    other: Tensor | None,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x [M, C], of the residual ([0] without y), of weight [C] and of bias [C].

    The rectifier passed gradients on where y [M, C] is positive; without y, where there was no residual, y comes from x
    as in the forward pass. `other` [M, C] is the gradient of a second branch that starts at y.
    """
    wide = x.to(accumulator(x.dtype))
    rstd = torch.rsqrt(variance + eps)
    arriving = grad.to(wide.dtype)
    if other is not None:
        arriving = arriving + other
    if relu:
        passed = (wide - mean) * (weight * rstd) + bias if y is None else y
        arriving = torch.where(passed.to(x.dtype) > 0, arriving, 0.0)
    dresidual = x.new_empty(0)
    if y is not None:
        dresidual = arriving.to(x.dtype, copy=True)
        arriving = dresidual.to(wide.dtype)
    normal = (wide - mean) * rstd
    dbias, dweight = arriving.sum(0), (arriving * normal).sum(0)
    dx = weight * rstd * (arriving - dbias / len(x) - normal * (dweight / len(x)))
    return dx.to(x.dtype), dresidual, dweight, dbias


def sgd_step(
    parameter: Tensor,
    velocity: Tensor,
    gradient: Tensor,
    copy: Tensor | None,
    rates: Tensor,
    decays: Tensor,
    share: Tensor,
    momentum: float,
) -> None:
    """Take a step of SGD on parameters [K, ...] with rates share * rates [K] and decays [K], in place."""
    shape = (-1, *[1] * (parameter.ndim - 1))
    velocity.mul_(momentum).add_(gradient).add_(decays.view(shape) * parameter)
    parameter.sub_((share * rates).view(shape) * velocity)
    if copy is not None:
        copy.copy_(parameter)
