"""Ceilings, the kernels' checks, and the operations of stage 2 and of evaluation beside what one would use instead."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import bench_ops
from fastlt import RebalanceConfig, ops
from fastlt.data.transforms.preprocess import Preprocess
from fastlt.features.arrays import Features
from fastlt.models import LinearHead
from fastlt.ops.cross_entropy import rescaled_cross_entropy
from fastlt.rebalancing.engine.cached import train_grid
from fastlt.rebalancing.engine.sgd import HeadTraining
from fastlt.rebalancing.methods.registry import REGISTRY
from fastlt.rebalancing.problem import Problem
from fastlt.runtime.log import first_line
from fastlt.runtime.machine import resolve_threads
from fastlt.timing.batches import random_batch

from .candidates import BY_INDUCTOR, settings_of
from .machine import ROOT
from .rows import Figures, Row, Target, attempt, rates, timed
from .summary import CHECKS

# Shapes: N rows, C classes, D feature width.

CHECKED = {
    "a": ("intervals", "cross_entropy", "linear", "crops", "batch_norm"),
    "b": ("crops",),
    "c": ("crops", "batch_norm"),
}
"""The modules of kernels that a call's figures rest on."""
STAGE2 = ("cross_entropy", "linear")  # the latter has the update
PRODUCTS = ((8192, 8192, 8192), (512, 8142, 2048), (24_426, 8142, 2048), (50_000, 1000, 2048), (50_176, 512, 1024))
TOY_CHECKS = {"crops": 4}  # of a few pixels; else the last one is small
SETS = 8  # of features: one batch would stay in the cache
Method = tuple[str, Callable[[int], object]]


def rows(call: str, target: Target) -> Iterator[Row]:
    """Yield the ceilings, the checks that a call needs, and in call a the operations."""
    yield Row("ceilings", functools.partial(ceilings, target))
    for module in CHECKED[call]:
        yield Row(f"{CHECKS}: {module}", functools.partial(checks, module, target), 120)  # they compile most
    if call != "a":
        return
    shape = target.pick((64, 50, 16), (24_426, 8142, 2048))  # iNaturalist's val set
    few = target.pick((32, 50, 16), (512, *shape[1:]))
    many = target.pick((64, 50, 16), (8192, *shape[1:]))
    places = target.pick((40, 30, 16), (50_000, 1000, 2048))  # ImageNet-LT's test set
    for name, size in (("iNaturalist", shape), ("ImageNet", places)):
        yield Row(f"operations: tau and rank, {name}", functools.partial(scores, target, size), 90, ("intervals",))
    for use, size in (("LWS", few), ("cRT", few), ("joint", many)):
        yield Row(f"operations: loss of {use}", functools.partial(losses, target, use, size), 90, ("cross_entropy",))
    for method in ("lws", "crt"):
        yield Row(f"stage 2: {method}", functools.partial(stage2, target, method, few), 90, STAGE2)
    yield Row("operations: images", functools.partial(images, target), 60, ("crops",))


def ceilings(target: Target) -> Iterator[Figures]:
    """Yield how fast random data are copied, and how fast cuBLAS multiplies them."""
    num = target.pick(1 << 20, 1 << 29)
    yield from attempt("copy", functools.partial(copying, target, num))
    for shape in target.pick(((64, 64, 64),), PRODUCTS):
        yield from attempt(f"product of {' x '.join(map(str, shape))}", functools.partial(product, target, shape))


def copying(target: Target, num: int) -> Figures:
    """Time a copy of float32 numbers."""
    source, copy = (torch.rand(num, device=target.device) for _ in range(2))
    return rates(timed(target, lambda _: copy.copy_(source)), 8 * num)


def product(target: Target, shape: tuple[int, int, int]) -> Figures:
    """Time a product of [N, D] and [C, D]."""
    num, classes, width = shape
    x, w = (torch.randn(n, width, device=target.device, dtype=target.dtype) for n in (num, classes))
    return rates(timed(target, lambda _: x @ w.T), flop=2 * num * classes * width)


def checks(module: str, target: Target) -> Iterator[Figures]:
    """Yield each check of a module's kernels; on a toy only the last and smallest group, under the interpreter."""
    groups = check_groups(module, target.device.type)
    if target.toy:
        yield from check(module, "cpu", TOY_CHECKS.get(module, len(groups) - 1))
        return
    context = multiprocessing.get_context("forkserver")  # from one that has imported PyTorch, but no device yet
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(min(8, resolve_threads(None)), mp_context=context) as pool:
        for found in pool.map(functools.partial(check, module, "cuda"), range(len(groups))):
            yield from found


def check_groups(module: str, device: str) -> list[tuple[str, Callable[..., object], tuple[object, ...]]]:
    """Return the groups of checks of a module."""
    folder = str(ROOT / "tests" / "kernels")
    if folder not in sys.path:
        sys.path.append(folder)
    found: list[tuple[str, Callable[..., object], tuple[object, ...]]]
    found = importlib.import_module(f"checks_{module}").groups(device)
    return found


def check(module: str, device: str, number: int) -> list[Figures]:
    """Make one group of checks."""
    label, call, args = check_groups(module, device)[number]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)  # with it, uninitialised memory is NaN
    try:
        found = call(*args)
        results: list[tuple[str, bool, str]] = [found] if isinstance(found, tuple) else list(found)  # type: ignore[call-overload]
    except Exception as error:  # of the kernel's own, or of a compiler
        return [{"name": f"{call.__name__} {label}", "ok": False, "error": first_line(error)}]
    finally:
        torch.use_deterministic_algorithms(False)
    return [
        {"name": f"{name} {label}".strip(), "ok": bool(good)} | ({} if good else {"error": text})
        for name, good, text in results
    ]


def problem(target: Target, shape: tuple[int, int, int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return features [N, D], weights [C, D] and labels [N]."""
    num, classes, width = shape
    generator = torch.Generator(target.device).manual_seed(seed)
    x = torch.randn(num, width, generator=generator, device=target.device).to(target.dtype)
    w = (torch.randn(classes, width, generator=generator, device=target.device) / width**0.5).to(target.dtype)
    return x, w, torch.randint(0, classes, (num,), generator=generator, device=target.device)


def beside_product(figures: Callable[..., Iterator[Figures]]) -> Callable[..., Iterator[Figures]]:
    """Yield the figures of a function with their ratios to the last product before them."""

    @functools.wraps(figures)
    def with_ratios(*arguments: Any) -> Iterator[Figures]:
        product = None
        for figure in figures(*arguments):
            ms = figure.get("ms")
            product = ms if figure["name"].endswith("product") else product
            yield figure | ({"times_product": ms / product} if ms and product else {})

    return with_ratios


@beside_product
def scores(target: Target, shape: tuple[int, int, int]) -> Iterator[Figures]:
    """Yield what finds the accuracy at every tau, and the rank of each label, beside plain products."""
    x, w, y = problem(target, shape)
    exact_x, exact_w = x.float(), w.float()
    methods = [
        (f"{group}: {name}", run)
        for group, name, run in bench_ops.interval_runs(x, w, y, compiled=False)
        if "21" not in name  # no rival
    ]
    methods += [
        ("float32 product", lambda: exact_x @ exact_w.T),
        ("float32 tau_intervals", lambda: ops.tau_intervals(exact_x, exact_w, y)),
    ]
    for name, run in methods:  # ours read a value at the end of a call
        yield from attempt(name, functools.partial(timed, target, lambda _, run=run: run(), graphed=False))


@beside_product
def losses(target: Target, use: str, shape: tuple[int, int, int]) -> Iterator[Figures]:
    """Yield the step of a use of the loss, forward and with its gradients, on rotating features."""
    _, w, _ = problem(target, shape)
    batches = [problem(target, shape, seed)[::2] for seed in range(target.pick(1, SETS))]
    made = [bench_ops.loss_runs(x, w, y, not target.toy, [use]) for x, y in batches]
    for same in zip(*made, strict=True):
        calls = [run for _, _, run in same]
        yield from attempt(same[0][1], functools.partial(timed, target, lambda i, calls=calls: calls[i](), len(calls)))
    if use == "LWS":
        yield from cached_products(target, w, batches)


def cached_products(target: Target, w: Tensor, batches: list[tuple[Tensor, Tensor]]) -> Iterator[Figures]:
    """Yield the LWS step where the products Z = X W' [N, C] are kept, since features and weights are constant."""
    scale = torch.ones(len(w), device=w.device, requires_grad=True)
    num, made = len(batches[0][0]), len(batches)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        sets = target.sets(num * len(w) * dtype.itemsize)
        given = [batches[number % made] for number in range(sets)]
        products = [F.pad(x @ w.T, (0, -len(w) % 16)).to(dtype) for x, _ in given]  # rows that start alike
        methods = {"fastlt": ours, "eager": eager, "torch.compile": target.compiled(eager)}
        for name, loss in methods.items():

            def step(i: int, products: list[Tensor] = products, loss: Any = loss) -> tuple[Tensor, ...]:
                return torch.autograd.grad(loss(products[i], scale, batches[i % made][1]), scale)

            label = f"cached {str(dtype).removeprefix('torch.')} products, {name}"
            yield from attempt(label, functools.partial(timed, target, step, sets))


def ours(products: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of rescaled products [N, C] by our kernels."""
    return rescaled_cross_entropy(products, scale[None], labels).sum()


def eager(products: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
    """Return the same by PyTorch."""
    return F.cross_entropy(products[:, : len(scale)].float() * scale, labels)


def stage2(target: Target, name: str, shape: tuple[int, int, int]) -> Iterator[Figures]:
    """Yield the seconds of a method's own training on cached features, and what each further step of it takes.

    The features' way to the device takes longer than many steps.
    """
    batch_size, classes, width = shape
    num = target.pick(4, 200) * batch_size
    labels = np.arange(num) % classes
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(num, width, generator=rng).clamp(min=0)
    weight = torch.randn(classes, width, generator=rng) / width**0.5
    train = Features(features=features.numpy(), labels=labels)
    task = Problem(
        head=LinearHead(weight, torch.zeros(classes)).to(target.device),
        train=(train,),
        selection=train,
        selected_on="train",
        class_counts=np.bincount(labels, minlength=classes),
        device=target.device,
        batch_size=batch_size,
    )
    method = REGISTRY[name].training
    if method is None:
        raise ValueError(f"{name}: got a method without training; expected one with")

    def train(epochs: int) -> tuple[float, int]:
        config = RebalanceConfig(method=name, epochs=epochs)
        training = HeadTraining.of(method, task, config)
        grid = method.start(task.head, config, len(training.settings))
        target.wait()
        began = time.perf_counter()
        train_grid(grid, training, task)
        target.wait()
        return time.perf_counter() - began, epochs * len(training.sampler(labels, classes))

    few, many = 4, 12  # one epoch does not pay for logits of all images
    seconds, steps = 0.0, 0
    for attempt_name in ("first training", "second training"):  # the first one compiles kernels
        seconds, steps = train(few)
        yield {"name": attempt_name, "seconds": seconds, "steps": steps, "batch": batch_size}
    longer_s, more = train(many)
    yield {"name": "a step", "ms": 1000 * (longer_s - seconds) / (more - steps), "batch": batch_size}


def images(target: Target) -> Iterator[Figures]:
    """Yield the jitter and normalisation of a batch of images."""
    batch, size = target.pick((2, 16), (256, 224))
    pixels = batch * size**2 * 3
    batches = [random_batch(batch, size, target.device) for _ in range(target.sets(pixels))]  # a cache may hold one
    preprocess = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).to(target.device)
    num_bytes = pixels * (1 + target.dtype.itemsize)  # read as bytes

    def measure(method: Callable[..., Tensor]) -> Figures:
        def call(i: int) -> Tensor:
            return method(batches[i].images, batches[i].jitter, batches[i].order, None, target.dtype)

        return rates(timed(target, call, len(batches)), num_bytes)

    yield from attempt("fastlt", functools.partial(measure, preprocess))
    with settings_of(BY_INDUCTOR):
        yield from attempt("torch.compile", functools.partial(measure, target.compiled(preprocess)))
        yield from attempt("eager", functools.partial(measure, preprocess))
