"""Stage 2 on made-up features: a grid of heads at once or one by one, every method, and iNaturalist's shape.

`FASTLT_BENCH_DEVICE` (cpu, cuda) sets where. The demo's shape is 8,716 x 128 with 100 classes. With
FASTLT_BENCH_SCALE=1 also 437,513 x 2048 with 8142 classes in bf16 (1.8 GB on disk): a few steps of crt and lws or, on a
GPU, every method in full. Results hold `peak_rss_mib`, the process's peak so far, and `gpu_peak_mib`.
"""

import dataclasses
import os
import resource

import numpy as np
import pytest
import torch

from fastlt import RebalanceConfig
from fastlt.config import METHODS
from fastlt.data.sampler import LongTailSampler
from fastlt.features.arrays import Features
from fastlt.models import LinearHead
from fastlt.rebalancing.engine import batches
from fastlt.rebalancing.engine.cached import train_grid
from fastlt.rebalancing.engine.sgd import HeadTraining
from fastlt.rebalancing.methods.crt import CRT
from fastlt.rebalancing.methods.registry import REGISTRY, fit
from fastlt.rebalancing.problem import Problem

DEVICE = torch.device(os.environ.get("FASTLT_BENCH_DEVICE", "cpu"))
SCALE = bool(os.environ.get("FASTLT_BENCH_SCALE"))
RATES, DECAYS = (0.02, 0.05, 0.1, 0.2), (0.0, 5e-4)
BLOCK = 16_384


def labels_of(num_samples, num_classes):
    """Draw labels of a long tail, every class at least twice."""
    rng = np.random.default_rng(0)
    share = np.geomspace(500, 1, num_classes)
    drawn = rng.choice(num_classes, size=num_samples - 2 * num_classes, p=share / share.sum())
    return np.concatenate([np.tile(np.arange(num_classes), 2), drawn])


def block(labels, centres, seed):
    """Make features like those of a ReLU network: one centre per class, and noise."""
    noise = torch.randn(len(labels), centres.shape[1], generator=torch.Generator().manual_seed(seed))
    return (centres[torch.from_numpy(labels)] + noise).clamp(min=0)


def problem_of_shape(num_samples, num_classes, width, *, batch_size, dataset="", path=None):
    """Make a problem; with a path the training features are written there in bf16, a block at a time."""
    centres = torch.randn(num_classes, width, generator=torch.Generator().manual_seed(0))
    labels = labels_of(num_samples, num_classes)
    if path is None:
        features = block(labels, centres, 1).numpy()
    else:
        features = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(num_samples, width))
        for start in range(0, num_samples, BLOCK):
            rows = block(labels[start : start + BLOCK], centres, 1 + start)
            features[start : start + BLOCK] = rows.bfloat16().view(torch.int16).numpy().view(np.uint16)
        features.flush()
        features = np.load(path, mmap_mode="c")
    val = np.repeat(np.arange(num_classes), 3)
    head = LinearHead(centres * torch.logspace(0, -0.5, num_classes)[:, None], torch.zeros(num_classes)).to(DEVICE)
    return Problem(
        head=head,
        train=(Features(features=features, labels=labels),),
        selection=Features(features=block(val, centres, 0).numpy(), labels=val),
        selected_on="val",
        class_counts=np.bincount(labels),
        device=DEVICE,
        batch_size=batch_size,
        dataset=dataset,
    )


def wait():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def record(benchmark):
    benchmark.extra_info["device"] = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    benchmark.extra_info["peak_rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if DEVICE.type == "cuda":
        benchmark.extra_info["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)


@pytest.fixture(scope="module")
def demo():
    return problem_of_shape(8716, 100, 128, batch_size=128)


@pytest.fixture(scope="module")
def inaturalist(tmp_path_factory):
    if not SCALE:
        pytest.skip("set FASTLT_BENCH_SCALE=1: it writes 1.8 GB")
    path = tmp_path_factory.mktemp("features") / "train.npy"
    return problem_of_shape(437_513, 8142, 2048, batch_size=512, dataset="inat2018", path=path)


def train(problem, config, trainings):
    for training in trainings:
        train_grid(CRT.start(problem.head, config, len(training.settings)), training, problem)
    wait()


@pytest.mark.parametrize("how", ["one", "together", "one by one"])
def test_grid(benchmark, demo, how):
    """Eight heads (four rates, two decays) against one; two epochs."""
    config = RebalanceConfig(method="crt", lr=RATES, weight_decay=DECAYS, epochs=2)
    grid = HeadTraining.of(CRT, demo, config)
    alone = [dataclasses.replace(grid, settings=(setting,)) for setting in grid.settings]
    trainings = {"one": alone[:1], "together": [grid], "one by one": alone}[how]
    benchmark.pedantic(train, args=(demo, config, trainings), rounds=5, warmup_rounds=1)
    record(benchmark)


@pytest.mark.parametrize("method", [*METHODS, "all"])
def test_method(benchmark, demo, method):
    def run():
        fit(demo, RebalanceConfig(method=method))
        wait()

    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    record(benchmark)


@pytest.mark.parametrize("method", ["crt", "lws"])
def test_inaturalist_steps(benchmark, inaturalist, method, monkeypatch):
    """Five steps from the file, row by row, as where memory is short."""
    monkeypatch.setattr(batches, "free_bytes", lambda device: 0)
    monkeypatch.setattr(LongTailSampler, "__len__", lambda self: 1)  # one step per epoch
    config = RebalanceConfig(method=method, epochs=5)

    def run():
        REGISTRY[method].fit(inaturalist, config)
        wait()

    benchmark.pedantic(run, rounds=2)
    benchmark.extra_info["num_steps"] = 5
    record(benchmark)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="the whole of stage 2 at this shape is for a GPU")
@pytest.mark.parametrize("method", METHODS)
def test_inaturalist_whole(benchmark, inaturalist, method):
    def run():
        REGISTRY[method].fit(inaturalist, RebalanceConfig(method=method))
        wait()

    benchmark.pedantic(run, rounds=1)
    record(benchmark)
