"""Training on a CPU, the plain PyTorch trainer against ours: the step alone, switch by switch, and with a loader.

The network and batch are the demo's (resnet8, 32 pixels, 128 images); `fastlt benchmark step` runs the same steps on
any network and device. `plain` is a first script: fp32, NCHW, eager, glibc's default allocator, and end to end a
DataLoader with Pillow in its workers; `plain bf16` adds autocast. With a loader ours runs eagerly too, since a CPU
compiles long runs only, and a round is a pass over small JPEG files. The plain ones run first: the allocator's setting
cannot be taken back. `FASTLT_BENCH_THREADS` sets workers and loader threads (default 2), `FASTLT_BENCH_IMAGES` the
number of files. Results hold `images_per_s` and `times_plain`, the ratio to the plain trainer in the same run.

`test_candidate` times the rewritings of ResNeXt-50 in `benchmarks/gpu/candidates.py` that need no kernels, beside the
unchanged network, eagerly; `python -m benchmarks.gpu` times all of them on a GPU.
"""

import os

import pytest
import torch

from benchmarks.gpu.candidates import CANDIDATES
from fastlt.data.loaders.loader import train_loader
from fastlt.data.sampler import LongTailSampler
from fastlt.data.transforms.augmentation import Augmentation
from fastlt.models import create_model
from fastlt.runtime.device import autocast, resolve_precision
from fastlt.timing.end_to_end import OurLoader, PlainLoader, train_on
from fastlt.timing.loader import photographs
from fastlt.timing.peers import PEERS
from fastlt.timing.step import OURS, algorithms_of, build, worth_timing

NUM_THREADS = int(os.environ.get("FASTLT_BENCH_THREADS", "2"))
NUM_IMAGES = int(os.environ.get("FASTLT_BENCH_IMAGES", "2048"))
BATCH, SIZE, PICTURE = 128, 32, (48, 48)
CANDIDATE_BATCH = 8
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def record():
    """Write a rate into a benchmark's results, and its ratio to the plain trainer's of the same group."""
    plain = {}

    def written(benchmark, group, name, num_images):
        rate = num_images / benchmark.stats.stats.median
        if name == "plain":
            plain[group] = rate
        benchmark.extra_info["images_per_s"] = rate
        if group in plain:  # not where it was deselected
            benchmark.extra_info["times_plain"] = rate / plain[group]

    return written


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("small") / "train", NUM_IMAGES, picture=PICTURE)


def make_step(variant):
    step, precision = build("resnet8", variant, device=CPU, batch_size=BATCH, image_size=SIZE)
    if precision == "fp32" and variant.endswith("bf16"):
        pytest.skip("this processor does not multiply bf16 in hardware")
    return step


@pytest.mark.parametrize("name", ["plain", "plain bf16"])
def test_plain_trainer(benchmark, dataset, record, name):
    step = make_step(name)
    batches = PlainLoader(dataset, device=CPU, batch_size=BATCH, image_size=SIZE, num_workers=NUM_THREADS)
    with algorithms_of(name):
        num_images = benchmark.pedantic(train_on, (step, batches), rounds=3, warmup_rounds=1)
    assert num_images == len(dataset) // BATCH * BATCH
    record(benchmark, "trainer", name, num_images)


@pytest.mark.parametrize("name", [name for name in worth_timing(CPU) if name in OURS or not PEERS[name].library])
def test_step(benchmark, record, name):
    step = make_step(name)
    with algorithms_of(name):
        benchmark.pedantic(step, rounds=40, warmup_rounds=10)
    record(benchmark, "step", name, BATCH)


@pytest.mark.parametrize("backend", ["memory", "dali", "pillow"])
def test_trainer(benchmark, dataset, record, backend):
    step = make_step("fastlt eager")
    sampler = LongTailSampler(dataset.labels, batch_size=BATCH)
    num_steps = len(dataset) // BATCH
    with train_loader(
        dataset, sampler, Augmentation(size=SIZE), num_steps=num_steps, backend=backend, num_threads=NUM_THREADS
    ) as loader:
        num_images = benchmark.pedantic(train_on, (step, OurLoader(loader)), rounds=3, warmup_rounds=1)
    assert num_images == num_steps * BATCH
    record(benchmark, "trainer", backend, num_images)


@pytest.mark.parametrize("name", [name for name in CANDIDATES if "kernel" not in name])
@pytest.mark.parametrize(("use", "size"), [("training", 64), ("training", 224), ("inference", 64)])
def test_candidate(benchmark, use, size, name):
    network, change = "resnext50_32x4d", CANDIDATES[name]
    if use == "training":
        run, _ = build(network, "fastlt eager", device=CPU, batch_size=CANDIDATE_BATCH, image_size=size, change=change)
    else:
        run = inference(network, change, size)
    benchmark.pedantic(run, rounds=5, warmup_rounds=2)
    benchmark.extra_info["images_per_s"] = CANDIDATE_BATCH / benchmark.stats.stats.median


def inference(network, change, size):
    model = create_model(network, 1000).eval().to(memory_format=torch.channels_last)
    if change is not None:
        change(model)
    images = torch.randn(CANDIDATE_BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    precision = resolve_precision("auto", CPU)

    @torch.inference_mode()
    def run():
        with autocast(CPU, precision):
            return model(images)

    return run
