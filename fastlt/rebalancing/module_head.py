"""The last linear layer of any network: found by what it computes, and checked against what the network returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..features.arrays import Features
from ..models import LinearHead

# Shapes: B batch, C classes, D feature width.

LINEAR = (nn.Linear, LinearHead)
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
FAITHFUL = ("equal", "its softmax", "its log-softmax")
"""Outputs that leave the layer's scores what they are: the network was trained on their softmax."""


def parts_of(output: Any) -> list[Tensor]:
    """Return the parts of an output that can be logits, those called so first."""
    if isinstance(output, Mapping):
        parts = [output["logits"]] if "logits" in output else list(output.values())
    elif isinstance(output, (tuple, list)):
        parts = list(output)
    else:
        parts = [getattr(output, "logits", output)]
    return [part for part in parts if isinstance(part, Tensor) and part.is_floating_point() and part.ndim >= 2]


def call(model: nn.Module, images: Any, device: torch.device) -> Any:
    """Run the network on a batch of images, as it is written: a compiled one would not call hooks."""
    if isinstance(images, Tensor):
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype)
        images = images.to(device=device, dtype=dtype if images.is_floating_point() else images.dtype)
    with torch.compiler.set_stance("force_eager"):
        return model(images)


def rows_of(tensor: Tensor) -> Tensor | None:
    """Return a tensor [B, 1, ..., D] as [B, D]; None if there is more than one row an image."""
    if tensor.ndim < 2 or tensor.shape[1:-1].numel() != 1:
        return None
    return tensor.reshape(len(tensor), -1)


@contextlib.contextmanager
def inputs_of(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect copies of what enters layers inside a block, by name."""
    inputs: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        entered = arguments[0] if arguments else next(iter(named.values()))
        inputs[name].append(entered.detach().clone())

    hooks = [
        layer.register_forward_pre_hook(lambda _, args, named, name=name: keep(name, args, named), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def find_head(model: nn.Module, images: Any, device: torch.device, head: str | None) -> str:
    """Return the name of the linear layer whose output the network returns, plain or as probabilities.

    Args:
        model: The network, in eval mode.
        images: A batch.
        device: Where the network is.
        head: The layer to take; it is checked, too.

    Raises:
        ValueError: No layer or more than one qualifies, or the network adds something to what the layer computes.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LINEAR)}
    if head is not None and head not in layers:
        raise ValueError(f"head: got {head}; expected one of the linear layers: {', '.join(layers) or 'none'}")
    output = call(model, images, device)
    widths = {part.shape[-1] for part in parts_of(output)}
    chosen = {name: layer for name, layer in layers.items() if layer.weight.shape[0] in widths and head in (None, name)}
    with inputs_of(chosen) as inputs:
        parts = [rows for part in parts_of(call(model, images, device)) if (rows := rows_of(part)) is not None]
    found: dict[str, str] = {}
    ordered = not isinstance(output, Mapping) and head is None
    for part in parts:
        for name, entered in inputs.items():
            features = rows_of(entered[0]) if len(entered) == 1 else None
            if features is None or (len(features), chosen[name].weight.shape[0]) != part.shape:
                continue
            relation = relation_of(part, features, chosen[name])
            if name not in found or relation in FAITHFUL:
                found[name] = relation
        if ordered and any(relation in FAITHFUL for relation in found.values()):
            break  # the first part is the main one
    for wanted in (FAITHFUL[:1], FAITHFUL[1:]):
        names = [name for name, relation in found.items() if relation in wanted]
        if len(names) == 1:
            return names[0]
        if names:
            raise ValueError(
                f"head: got none, and {len(names)} layers could be the last linear layer; expected one of "
                f"{', '.join(names)}; give head="
            )
    if not found:
        raise ValueError(
            f"model: got a network whose output has the shape of none of its {len(layers)} linear layers' that are "
            "called once, with one row of features an image; expected one that ends in a linear layer; name that with "
            "head="
        )
    layers_and_outputs = ", ".join(f"{name} (the output is {relation})" for name, relation in found.items())
    raise ValueError(
        f"head: got {layers_and_outputs}; expected a network that returns what its last linear layer computes, or the "
        "softmax of it; return that (multiply a factor into weight and bias), or name another layer with head="
    )


def relation_of(output: Tensor, features: Tensor, layer: nn.Linear | LinearHead) -> str:
    """Return in words what an output [B, C] is of a linear layer's scores of features [B, D]."""
    weight, bias = layer.weight, layer.bias
    scores = functional.linear(features.to(weight.dtype), weight, bias).float()
    tolerance = max(TOLERANCE.get(each, 1e-4) for each in (output.dtype, weight.dtype, features.dtype))
    output = output.float()

    def close(other: Tensor) -> bool:
        return bool(((output - other).abs() <= tolerance * other.abs().max()).all())  # NaN is close to nothing

    if close(scores):
        return "equal"
    for name, function in (
        ("softmax", functional.softmax),
        ("log-softmax", functional.log_softmax),
    ):
        if close(function(scores, dim=1)):
            return f"its {name}"
    if close(scores.sigmoid()):
        return "its sigmoid"
    factor = (output * scores).sum() / scores.square().sum()
    if close(factor * scores):
        return f"{factor:.4g} times what it computes"
    return f"up to {(output - scores).abs().max():.3g} away from what it computes"


@torch.inference_mode()
def features_of(
    model: nn.Module, layer: nn.Module, batches: Iterable[tuple[Any, Tensor]], device: torch.device, what: str
) -> Features:
    """Return the features of batches: the inputs of a layer of the network."""
    features: list[Tensor] = []
    labels: list[Tensor] = []
    for images, targets in batches:
        with inputs_of({what: layer}) as inputs:
            call(model, images, device)
        entered = inputs[what]
        rows = rows_of(entered[0]) if len(entered) == 1 else None
        if rows is None or len(rows) != len(targets):
            shapes = [list(tensor.shape) for tensor in entered]
            raise ValueError(
                f"{what}: got {len(targets)} labels in a batch, for which {shapes or 'nothing'} entered the last "
                "linear layer; expected one row of features an image, [B, D]"
            )
        features.append(rows.float().cpu())
        labels.append(targets.cpu())
    if not features:
        raise ValueError(f"{what}: got no batch; expected (images, labels) batches or a data set")
    return Features.of(torch.cat(features), torch.cat(labels), name=what)
