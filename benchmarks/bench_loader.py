"""Images per second from the loaders, on a CPU: small pictures (48 to 32 pixels) and photographs (500 x 375 to 224).

A round is a pass by a loader that has been opened before. Where files are decoded anew, a round includes starting
workers or a pipeline. Where images are in memory, decoding them is reported as `decode_s` instead.
`FASTLT_BENCH_THREADS` sets the threads (default 2). Results hold `images_per_s`.
"""

import os
import time

import pytest

from fastlt.data.loaders.loader import eval_loader, train_loader
from fastlt.data.sampler import LongTailSampler
from fastlt.data.transforms.augmentation import Augmentation, EvalTransform
from fastlt.timing.loader import photographs

NUM_THREADS = int(os.environ.get("FASTLT_BENCH_THREADS", "2"))
KINDS = {"small": (2000, (48, 48), 32, 128), "photographs": (240, (500, 375), 224, 32)}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request, tmp_path_factory):
    """Return (data set, side of the squares, batch size)."""
    num_images, picture, size, batch_size = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "train"
    return photographs(folder, num_images, picture=picture), size, batch_size


def measure(benchmark, loader, num_images):
    with loader:
        benchmark.pedantic(lambda: sum(len(batch.ids) for batch in loader), rounds=5, warmup_rounds=1)
    benchmark.extra_info["num_threads"] = NUM_THREADS
    benchmark.extra_info["num_images"] = num_images
    benchmark.extra_info["images_per_s"] = num_images / benchmark.stats.stats.median


@pytest.mark.parametrize("backend", ["memory", "dali", "pillow"])
def test_train(benchmark, kind, backend):
    dataset, size, batch_size = kind
    num_steps = 4 * len(dataset) // batch_size
    sampler = LongTailSampler(dataset.labels, sampling="class_balanced", batch_size=batch_size)
    start_s = time.perf_counter()
    loader = train_loader(
        dataset, sampler, Augmentation(size=size), num_steps=num_steps, backend=backend, num_threads=NUM_THREADS
    )
    benchmark.extra_info["decode_s"] = time.perf_counter() - start_s if backend == "memory" else 0.0
    measure(benchmark, loader, num_steps * batch_size)


@pytest.mark.parametrize("backend", ["memory", "dali", "pillow"])
def test_eval(benchmark, kind, backend):
    dataset, size, batch_size = kind
    transform = EvalTransform(size=size, resize=size * 8 // 7)
    loader = eval_loader(dataset, transform, batch_size=batch_size, backend=backend, num_threads=NUM_THREADS)
    measure(benchmark, loader, len(dataset))
