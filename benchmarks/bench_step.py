"""A training step on a CPU: the plain eager trainer against ours, each switch in turn; results hold `images_per_s`.

The network and batch are the demo's (resnet8, 32 pixels, 128 images). `plain` is what a first script would do: fp32,
NCHW, eager, glibc's default allocator; it runs first, since the allocator's setting cannot be taken back.
"""

import pytest
import torch
from torch.nn import functional as F

from fastlt.data.preprocess import Preprocess
from fastlt.hardware import autocast, cpu_multiplies_bf16, keep_freed_memory
from fastlt.models import create_model

BATCH, SIZE, CLASSES = 128, 32, 100
CPU = torch.device("cpu")
# name: (channels_last, keep freed memory, bf16, compiled)
SWITCHES = {
    "plain": (False, False, False, False),
    "channels_last": (True, False, False, False),
    "channels_last+memory": (True, True, False, False),
    "channels_last+memory+bf16": (True, True, True, False),
    "channels_last+memory+bf16+compile": (True, True, True, True),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_step(benchmark, name):
    channels_last, memory, bf16, compiled = SWITCHES[name]
    if bf16 and not cpu_multiplies_bf16():
        pytest.skip("this processor does not multiply bf16 in hardware")
    if memory:
        keep_freed_memory()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    model = create_model("resnet8", CLASSES).to(memory_format=layout)
    preprocess = Preprocess((0.5,) * 3, (0.25,) * 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = torch.randint(0, 256, (BATCH, SIZE, SIZE, 3), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (BATCH,))

    def loss_function(images, labels):
        with autocast(CPU, "bf16" if bf16 else "fp32"):
            logits = model(preprocess(images).contiguous(memory_format=layout))
        return F.cross_entropy(logits.float(), labels)

    if compiled:
        loss_function = torch.compile(loss_function, dynamic=False)

    def step():
        loss_function(images, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    benchmark.pedantic(step, rounds=40, warmup_rounds=10)
    benchmark.extra_info["images_per_s"] = BATCH / benchmark.stats.stats.median
