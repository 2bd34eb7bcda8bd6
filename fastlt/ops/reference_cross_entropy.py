"""Cross entropy of K heads side by side in plain PyTorch, over chunks of rows; `reference` has the legend.

A head's score is y = z * scale + offset of z = X @ W.T + bias, or of z that are stored. With class weights v and label
smoothing e, row i's loss is r_i ((1 - e) v_label (lse_i - y_label) + e/C sum_j v_j (lse_i - y_ij)). Its weight r_i is 0
if the row is ignored, NaN if its label is out of range, else 1, or the share that makes a weighted mean of the sum.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .checks import accumulator
from .reference import chunk_rows, products, score


def cross_entropy(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    offset: Tensor | None,
    class_weights: Tensor | None,
    label_smoothing: float,
    ignore_index: int,
    mean: bool,
    width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return losses [K, N] of K heads, their log-sum-exps, row weights [3, N] and z = X @ W.T + bias, [N, K, width].

    weight is [K, C, D], scale and bias [K, C], offset and class weights [C]; z is empty if width is 0, else C wide.
    """
    heads, classes, _ = weight.shape
    z = features.new_empty((len(features), heads, width) if width else 0, dtype=accumulator(features.dtype))
    weights = _row_weights(labels, classes, class_weights, label_smoothing, ignore_index, mean, z.dtype)
    losses, lse = (z.new_empty(heads, len(features)) for _ in range(2))
    kept = z.view(len(features), heads * classes) if width else None
    for rows, _, each in products(features, weight.flatten(0, 1), kept):
        each = _biased(each, bias).view(-1, heads, classes)
        y = _scores(each, scale, offset, in_place=not width)
        losses[:, rows], lse[:, rows] = _row_losses(y, labels[rows], weights[:, rows], class_weights, label_smoothing)
    return losses, lse, weights, z


def cross_entropy_backward(
    grad: Tensor,
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    offset: Tensor | None,
    class_weights: Tensor | None,
    lse: Tensor,
    row_weights: Tensor,
    z: Tensor,
    smooth: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of features, weight, scale, bias and offset [K, C] for those of losses, grad [K, N].

    Each is empty unless needed.
    """
    need_x, need_w, need_s, need_bias, need_offset = needs
    heads, classes, width = weight.shape
    flat = weight.flatten(0, 1)
    w = flat.to(lse.dtype)
    dx = features.new_empty(features.shape if need_x else (0,))
    dw = lse.new_zeros((heads * classes, width) if need_w else (0,))
    ds, dshift = (lse.new_zeros((heads, classes) if need else (0,)) for need in (need_s, need_bias or need_offset))
    for rows, x, each in _kept(features, z) if z.dim() == 3 else products(features, flat):
        if z.dim() != 3:
            each = _biased(each, bias).view(-1, heads, classes)
        dy = _scores(each, scale, offset, in_place=False)
        _score_gradient(dy, lse[:, rows], labels[rows], row_weights[:, rows], grad[:, rows], class_weights, smooth)
        if need_bias or need_offset:
            dshift += dy.sum(0)
        if need_s:
            ds += torch.mul(each, dy).sum(0)
        if not need_x and not need_w:
            continue
        dz = (dy if scale is None else dy.mul_(scale)).flatten(1)
        with torch.autocast(features.device.type, enabled=False):
            if need_x:
                dx[rows] = dz @ w
            if need_w:
                torch.addmm(dw, dz.T, x, beta=int(rows.start > 0), out=dw)
    dbias = (dshift if scale is None else dshift * scale) if need_bias else lse.new_empty(0)
    doffset = dshift.clone() if need_offset else lse.new_empty(0)
    return dx, dw.view(weight.shape if need_w else (0,)).to(weight.dtype), ds, dbias, doffset


def rescaled_cross_entropy(
    logits: Tensor, scale: Tensor, labels: Tensor, rows: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses [K, B] of logits [N, C or more] under scales [K, C], log-sum-exps [K, B] and row weights [3, B].

    Sample i of the batch is row `rows[i]` of the logits, or row i; a head's losses sum to their mean.
    """
    weights = _row_weights(labels, scale.shape[1], None, 0.0, -100, True, scale.dtype)
    losses, lse = (scale.new_empty(len(scale), len(labels)) for _ in range(2))
    for part, z in _stored(logits, scale, rows, len(labels)):
        losses[:, part], lse[:, part] = _row_losses(z * scale, labels[part], weights[:, part], None, 0.0)
    return losses, lse, weights


def rescaled_cross_entropy_backward(
    grad: Tensor, logits: Tensor, scale: Tensor, labels: Tensor, rows: Tensor | None, lse: Tensor, row_weights: Tensor
) -> Tensor:
    """Return the gradient of scale [K, C] for those of losses, grad [K, B]."""
    ds = torch.zeros_like(scale)
    for part, z in _stored(logits, scale, rows, len(labels)):
        dy = z * scale
        _score_gradient(dy, lse[:, part], labels[part], row_weights[:, part], grad[:, part], None, False)
        ds += dy.mul_(z).sum(0)
    return ds


def _kept(features: Tensor, z: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield (rows, x, z) as `products` does, of a product that was kept, [N, K, C]."""
    size = chunk_rows(z.shape[1] * z.shape[2], z.device)
    for start in range(0, len(z), size):
        rows = slice(start, min(start + size, len(z)))
        yield rows, features[rows].to(z.dtype), z[rows]


def _stored(logits: Tensor, scale: Tensor, rows: Tensor | None, num: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield (samples, z [n, 1, C]) for chunks of a batch's samples."""
    heads, classes = scale.shape
    size = chunk_rows(heads * classes, logits.device)
    for start in range(0, num, size):
        part = slice(start, min(start + size, num))
        z = logits[part] if rows is None else logits.index_select(0, rows[part])
        yield part, z[:, None, :classes].to(scale.dtype)


def _biased(z: Tensor, bias: Tensor | None) -> Tensor:
    """Add the biases of all heads to a chunk's product [n, K C], in place."""
    return z if bias is None else z.add_(bias.flatten())


def _scores(z: Tensor, scale: Tensor | None, offset: Tensor | None, *, in_place: bool) -> Tensor:
    """Return z * scale + offset, [n, K, C]: z itself where it may be overwritten, else a new tensor."""
    if scale is None and offset is None:
        return z if in_place else z.clone()
    return score(z, scale, offset, z if in_place else torch.empty_like(z))


def _row_weights(
    labels: Tensor,
    classes: int,
    class_weights: Tensor | None,
    smoothing: float,
    ignore_index: int,
    mean: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Return what each row's log-sum-exp, label's score and smoothed scores are multiplied by, [3, N]."""
    label = labels.long()
    kept = label != ignore_index
    inside = label.clamp(0, classes - 1)
    weights = None if class_weights is None else class_weights[inside]
    row = kept.to(dtype)
    if mean:
        row = row / (row if weights is None else row * weights).sum()
    row = row.masked_fill(kept & (label != inside), float("nan"))
    target = (row if weights is None else row * weights) * (1.0 - smoothing)
    spread = row * (smoothing / classes)
    soft = target + spread * (classes if class_weights is None else class_weights.sum())
    return torch.stack([soft, target, spread])


def _row_losses(
    y: Tensor, labels: Tensor, weights: Tensor, class_weights: Tensor | None, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return losses and log-sum-exps [K, n] of scores [n, K, C]."""
    soft, target, spread = weights
    classes = y.shape[2]
    label = labels.long().clamp(0, classes - 1)[:, None, None].expand(-1, y.shape[1], 1)
    lse = y.logsumexp(2).T
    losses = soft * lse - target * y.gather(2, label).squeeze(2).T
    if smoothing > 0:
        losses -= spread * (y.sum(2) if class_weights is None else y @ class_weights).T
    return losses, lse


def _score_gradient(
    y: Tensor,
    lse: Tensor,
    labels: Tensor,
    weights: Tensor,
    grad: Tensor,
    class_weights: Tensor | None,
    smooth: bool,
) -> None:
    """Replace scores y [n, K, C] by the gradients of losses for them, in place."""
    soft, target, spread = ((row * grad).T[:, :, None] for row in weights)
    label = labels.long().clamp(0, y.shape[2] - 1)[:, None, None].expand(-1, y.shape[1], 1)
    y.sub_(lse.T[:, :, None]).exp_().mul_(soft).scatter_add_(2, label, -target)
    if smooth:
        y.sub_(spread if class_weights is None else spread * class_weights)
