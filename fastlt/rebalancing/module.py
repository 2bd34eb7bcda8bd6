"""Rebalance any nn.Module: its features are the inputs of its last linear layer."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import RebalanceConfig
from ..config.base import CHOOSING
from ..evaluation.calibration import fit_temperature, warn_if_rough, with_temperature
from ..evaluation.predictions import predict
from ..features.arrays import Features
from ..models import LinearHead
from ..runtime.log import log
from .loaders import check_names, check_order
from .methods.registry import fit
from .problem import Problem

# Shapes: N samples, B batch, C classes, D feature width.

BATCH_SIZE = 64  # of a data set that comes without a loader
LINEAR = (nn.Linear, LinearHead)
RUN_SETTINGS = ("features", "views", "fine_tune", "reestimate_batch_norm", "select_on", "protocol", "target")
"""Settings that need the images or splits of a run."""


def rebalance_model(
    model: nn.Module, train: Any, val: Any, *, head: str | None = None, method: str = "tau", **options: Any
) -> nn.Module:
    """Return a copy of a network in which only the last linear layer is changed.

    Every image goes through the network once, in eval mode; the inputs of its last linear layer are the features. The
    copy is on the same device, in the same dtype and in the same training or eval mode.

    Args:
        model: Any network that ends in a linear layer; it stays as it is.
        train: Training images: a DataLoader or any iterable of (images, labels [B]) batches, or a map-style data set.
        val: Validation images, on which settings are chosen; in the same forms.
        head: Name of the last linear layer, as in `model.named_modules()`; by default the one whose output the network
            returns.
        method: A rebalancing method: one of `fastlt.config.METHODS`, a registered one, or `module:function`.
        options: Settings of `RebalanceConfig`, for example `tau=0.7`.

    Returns:
        The copy.

    Raises:
        ValueError: There is no last linear layer or more than one candidate, data and layer do not fit, the data sets
            or the network number their classes (`class_to_idx`) in different orders, or a setting is unknown or does
            not fit.

    Example:
        >>> import torch
        >>> from fastlt import rebalance_model
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))  # the rare class is short
        >>> batches = [(torch.tensor([[1.0, 0.2], [0.5, 1.0]]), torch.tensor([0, 1]))]  # images, labels
        >>> rebalanced = rebalance_model(model, batches, batches, tau=1.0)
        >>> images = batches[0][0]
        >>> model(images).argmax(1).tolist(), rebalanced(images).argmax(1).tolist()
        ([0, 0], [0, 1])
    """
    config = configure(method, options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got a {type(model).__name__}; expected an nn.Module with its weights loaded")
    check_names(model, train, val)
    network = copy.deepcopy(model)
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    batches = batches_of(train, "train")
    first = next(batches, None)
    if first is None:
        raise ValueError("train: got no batch; expected (images, labels) batches or a data set")
    modes = {name: module.training for name, module in network.named_modules()}
    network.eval()
    name = find_last_linear(network, first[0], device, head)
    layer = network.get_submodule(name)
    assert isinstance(layer, LINEAR)
    splits = {
        "train": features_of(network, layer, itertools.chain([first], batches), device, "train"),
        "val": features_of(network, layer, batches_of(val, "val"), device, "val"),
    }
    num_classes = layer.weight.shape[0]
    for split, features in splits.items():
        if features.labels.min() < 0 or features.labels.max() >= num_classes:
            raise ValueError(
                f"{split}: got labels from {features.labels.min()} to {features.labels.max()}; expected 0 to "
                f"{num_classes - 1}, as the last linear layer {name} is for {num_classes} classes"
            )
    problem = Problem(
        head=LinearHead(layer.weight.detach().float(), None if layer.bias is None else layer.bias.detach().float()),
        train=(splits["train"],),
        selection=splits["val"],
        selected_on="val",
        class_counts=np.bincount(splits["train"].labels, minlength=num_classes).astype(np.int64),
        device=device,
        seed=config.seed,
        select_by=config.select_by,
    )
    answers = predict(problem.head, *problem.training_tensors())
    check_order(train, answers.classes, answers.labels)
    (result,) = fit(problem, config).values()
    log.info("%s of %s: %s", method, name, ", ".join(f"{key} {value}" for key, value in result.params.items()))
    rebalanced = result.head
    if config.temperature:
        rebalanced = with_temperature(rebalanced, fit_temperature(rebalanced, *problem.selection_tensors()))
        warn_if_rough(rebalanced, *problem.selection_tensors(), split=problem.selected_on)
    replace_head(layer, rebalanced, name)
    for module_name, module in network.named_modules():
        module.training = modes[module_name]
    return network


def configure(method: str, options: Mapping[str, Any]) -> RebalanceConfig:
    """Return the settings of a call.

    Raises:
        ValueError: An option is unknown, or needs more than a network and batches.
    """
    fields = {field.name: field for field in dataclasses.fields(RebalanceConfig)}
    for name, value in options.items():
        if name not in fields:
            raise ValueError(f"{name}: got {value}; expected one of RebalanceConfig's settings: {', '.join(fields)}")
        if name in RUN_SETTINGS and value != fields[name].default:
            raise ValueError(
                f"{name}: got {value}; expected {fields[name].default}, as rebalance_model takes images as they come; "
                "drop it"
            )
    if method in ("all", *CHOOSING):
        raise ValueError(
            f"method: got {method}; expected one method, as one network is returned; call again for another"
        )
    settings = dict(options)
    for name in set(settings) & {"tau", "strength"}:
        settings[name] = str(settings[name])
    for name in set(settings) & {"lr", "weight_decay"}:
        if isinstance(settings[name], (int, float)):
            settings[name] = (float(settings[name]),)
    return RebalanceConfig(method=method, **settings)


def batches_of(data: Any, what: str) -> Iterator[tuple[Any, Tensor]]:
    """Yield (images, labels [B]) batches of a loader, an iterable of batches, or a map-style data set."""
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping) and len(data):
        sample = data[0]
        if isinstance(sample, (tuple, list)) and len(sample) >= 2 and torch.as_tensor(sample[1]).ndim == 0:
            data = torch.utils.data.DataLoader(data, batch_size=BATCH_SIZE)
    if not isinstance(data, Iterable):
        raise ValueError(
            f"{what}: got a {type(data).__name__}; expected a DataLoader, an iterable of (images, labels) batches, or "
            "a data set"
        )
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise ValueError(f"{what}: got a batch that is a {type(batch).__name__}; expected (images, labels)")
        labels = torch.as_tensor(batch[1])
        if labels.ndim != 1 or labels.is_floating_point():
            raise ValueError(
                f"{what}: got labels {list(labels.shape)} of {labels.dtype}; expected integers, one an image: [B]"
            )
        yield batch[0], labels


def logits_of(output: Any) -> Tensor | None:
    """Return the part of an output that can be logits: the tensor itself, `.logits`, `["logits"]` or the first part."""
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, (tuple, list)):
        output = output[0] if output else None
    else:
        output = getattr(output, "logits", output)
    return output if isinstance(output, Tensor) else None


def call(model: nn.Module, images: Any, device: torch.device) -> Any:
    """Run the network on a batch of images."""
    if isinstance(images, Tensor):
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype)
        images = images.to(device=device, dtype=dtype if images.is_floating_point() else images.dtype)
    return model(images)


@torch.inference_mode()
def find_last_linear(model: nn.Module, images: Any, device: torch.device, head: str | None) -> str:
    """Return the name of the linear layer whose output the network returns.

    Raises:
        ValueError: No layer or more than one qualifies, or the named one is not a linear layer.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LINEAR)}
    if head is not None:
        if head not in layers:
            raise ValueError(f"head: got {head}; expected one of the linear layers: {', '.join(layers) or 'none'}")
        return head
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.update({name: output}))
        for name, module in layers.items()
    ]
    try:
        logits = logits_of(call(model, images, device))
    finally:
        for hook in hooks:
            hook.remove()
    if logits is not None:
        last = [n for n, out in outputs.items() if out.shape == logits.shape and torch.equal(out, logits)]
        if len(last) == 1:
            return last[0]
        if not last:  # something monotone, such as a softmax, may follow
            last = [name for name, out in outputs.items() if out.shape == logits.shape]
        if len(last) == 1:
            return last[0]
        if last:
            raise ValueError(
                f"head: got none, and {len(last)} layers could be the last linear layer; expected one of "
                f"{', '.join(last)}; give head="
            )
    raise ValueError(
        f"model: got a network whose output is that of none of its {len(layers)} linear layers; expected one that ends "
        "in a linear layer; name the layer with head="
    )


@torch.inference_mode()
def features_of(
    model: nn.Module, layer: nn.Module, batches: Iterable[tuple[Any, Tensor]], device: torch.device, what: str
) -> Features:
    """Return the features of batches: the inputs of a layer of the network."""
    features: list[Tensor] = []
    labels: list[Tensor] = []
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    try:
        for images, targets in batches:
            inputs.clear()
            call(model, images, device)
            if len(inputs) != 1 or inputs[0].ndim != 2 or len(inputs[0]) != len(targets):
                shapes = [list(tensor.shape) for tensor in inputs]
                raise ValueError(
                    f"{what}: got {len(targets)} labels in a batch, for which {shapes or 'nothing'} entered the last "
                    "linear layer; expected one row of features an image, [B, D]"
                )
            features.append(inputs[0].float().cpu())
            labels.append(targets.cpu())
    finally:
        hook.remove()
    if not features:
        raise ValueError(f"{what}: got no batch; expected (images, labels) batches or a data set")
    return Features.of(torch.cat(features), torch.cat(labels), name=what)


@torch.no_grad()
def replace_head(layer: nn.Linear | LinearHead, head: LinearHead, name: str) -> None:
    """Copy a head's weights into a layer, in its dtype; a bias is added where the layer has none and the head does.

    Raises:
        ValueError: The layer's weight is computed from other parameters.
    """
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        raise ValueError(
            f"head: got {name}, whose weight is computed from other parameters; expected a plain nn.Linear; fold it "
            "first, for example with torch.nn.utils.parametrize.remove_parametrizations"
        )
    # Not in place: the weight may be shared with another layer, which must not change
    layer.weight = nn.Parameter(head.weight.to(layer.weight), requires_grad=layer.weight.requires_grad)
    bias = head.bias
    if layer.bias is None and bias is not None and bool((bias != 0).any()):
        log.info("%s gets a bias, which the rebalanced head has", name)
        layer.bias = nn.Parameter(bias.to(layer.weight), requires_grad=layer.weight.requires_grad)
    elif layer.bias is not None:
        new = torch.zeros_like(layer.bias) if bias is None else bias.to(layer.bias)
        layer.bias = nn.Parameter(new, requires_grad=layer.bias.requires_grad)
