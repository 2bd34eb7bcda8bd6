"""Rebalance any nn.Module: its features are the inputs of its last linear layer."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import nn

from ..config import RebalanceConfig
from ..config.base import CHOOSING
from ..evaluation.calibration import with_temperature
from ..evaluation.predictions import predict
from ..models import LinearHead
from ..runtime.log import log
from .loaders import check_names, check_order
from .module_data import class_counts_of, open_source, tell_repeats
from .module_head import LINEAR, features_of, find_head
from .problem import Problem
from .validation import validate

# Shapes: B batch, C classes.

RUN_SETTINGS = ("features", "views", "fine_tune", "reestimate_batch_norm", "select_on", "protocol", "target")
"""Settings that need the images or splits of a run."""


def rebalance_model(
    model: nn.Module,
    train: Any,
    val: Any = None,
    *,
    head: str | None = None,
    method: str = "tau",
    class_counts: ArrayLike | None = None,
    **options: Any,
) -> nn.Module:
    """Return a copy of a network in which only the last linear layer is changed.

    Every image goes through the network once, in eval mode; the inputs of its last linear layer are the features. So a
    loader's sampler, shuffling or `drop_last` do not matter, and class counts are those of the data set. The copy is on
    the same device, in the same dtype and in the same training or eval mode.

    Args:
        model: Any network that ends in a linear layer; it stays as it is.
        train: Training images: a DataLoader, a map-style data set of (image, label), or a list of (images, labels [B])
            batches; with `class_counts` any iterable of batches.
        val: Validation images, on which settings are chosen; in the same forms, or any iterable of batches. Without
            any, they are chosen by folds of the training images, although the network has learned these; then an
            iterable will not do for `train`, as it may repeat images.
        head: Name of the last linear layer, as in `model.named_modules()`; by default the one whose output the network
            returns. Nothing but a softmax or log-softmax may follow it, which is checked on a batch.
        method: A rebalancing method: one of `fastlt.config.METHODS`, a registered one, or `module:function`.
        class_counts: [C] training images of every class; by default counted.
        options: Settings of `RebalanceConfig`, for example `tau=0.7`.

    Returns:
        The copy.

    Raises:
        ValueError: There is no last linear layer or more than one candidate, the network changes what the layer
            computes, classes cannot be counted, data and layer do not fit, the data sets or the network number their
            classes (`class_to_idx`) in different orders, or a setting is unknown or does not fit.

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
    source = open_source(train, "train")
    if val is None and not source.is_whole:
        raise ValueError(
            "val: got none, and training images from an iterable, which may repeat or leave out some; expected every "
            "image once, for folds of them; give val=, or the images as a DataLoader of a map-style data set, a data "
            "set or a list of batches"
        )
    first = next(source.batches, None)
    if first is None:
        raise ValueError("train: got no batch; expected (images, labels) batches or a data set")
    modes = {name: module.training for name, module in network.named_modules()}
    network.eval()
    name = find_head(network, first[0], device, head)
    layer = network.get_submodule(name)
    assert isinstance(layer, LINEAR)
    splits = {"train": features_of(network, layer, itertools.chain([first], source.batches), device, "train")}
    if class_counts is None and isinstance(train, (list, tuple)):
        tell_repeats(splits["train"])
    if val is not None:
        splits["val"] = features_of(network, layer, open_source(val, "val").batches, device, "val")
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
        selection=splits.get("val", splits["train"]),
        selected_on="train" if val is None else "val",
        class_counts=class_counts_of(splits["train"].labels, num_classes, class_counts, is_whole=source.is_whole),
        device=layer.weight.device,
        seed=config.seed,
        select_by=config.select_by,
    )
    answers = predict(problem.head, *problem.training_tensors())
    check_order(train, answers.classes, answers.labels)
    validation = validate(problem, place="this call", seed=config.seed)
    (result,) = validation.fit(config).values()
    log.info("%s of %s: %s", method, name, ", ".join(f"{key} {value}" for key, value in result.params.items()))
    rebalanced = result.head
    if config.temperature:
        rebalanced = with_temperature(rebalanced, validation.temperature(next(iter(config.methods)), rebalanced))
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


@torch.no_grad()
def replace_head(layer: nn.Linear | LinearHead, head: LinearHead, name: str) -> None:
    """Copy a head's weights into a layer, in its dtype; a bias is added where the layer has none and the head does.

    Raises:
        ValueError: The layer's weight is computed from other parameters, or its dtype cannot hold the head's numbers.
    """
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        raise ValueError(
            f"head: got {name}, whose weight is computed from other parameters; expected a plain nn.Linear; fold it "
            "first, for example with torch.nn.utils.parametrize.remove_parametrizations"
        )
    for tensor in (head.weight, *([] if head.bias is None else [head.bias])):
        if not torch.isfinite(tensor.to(layer.weight)).all():
            raise ValueError(
                f"model: got a rebalanced {name} of up to {tensor.abs().max():.3g}; expected what {layer.weight.dtype} "
                "can hold; try temperature=False, or give the model in float32"
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
