"""A training step on a CPU: the plain eager trainer against ours, switch by switch; results hold `images_per_s`.

The network and batch are the demo's (resnet8, 32 pixels, 128 images); `fastlt benchmark step` runs the same steps on
any network and device. `plain` is what a first script would do: fp32, NCHW, eager, glibc's default allocator; it runs
first, since the allocator's setting cannot be taken back.
"""

import pytest
import torch

from fastlt.benchmark.step import CUDA_ONLY, VARIANTS, build
from fastlt.hardware import cpu_multiplies_bf16

BATCH, SIZE = 128, 32
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in CUDA_ONLY])
def test_step(benchmark, name):
    if VARIANTS[name].low_precision and not cpu_multiplies_bf16():
        pytest.skip("this processor does not multiply bf16 in hardware")
    step, _ = build("resnet8", name, device=CPU, batch_size=BATCH, image_size=SIZE)
    benchmark.pedantic(step, rounds=40, warmup_rounds=10)
    benchmark.extra_info["images_per_s"] = BATCH / benchmark.stats.stats.median
