"""Compiling the step, and going on without a compiler."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastlt import recipe
from fastlt.data.preprocess import Preprocess
from fastlt.models import create_model
from fastlt.step import MIN_STEPS_TO_COMPILE_ON_CPU, loss_function

CPU = torch.device("cpu")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 5, (8,), generator=generator)


@pytest.mark.slow
def test_compiled_and_eager_agree() -> None:
    config = dataclasses.replace(recipe("glyphs_lt"), precision="fp32")
    losses, gradients = [], []
    for num_steps in (MIN_STEPS_TO_COMPILE_ON_CPU - 1, MIN_STEPS_TO_COMPILE_ON_CPU):
        torch.manual_seed(0)
        model = create_model("resnet8", 5).to(memory_format=torch.channels_last)
        loss, hits = loss_function(model, Preprocess(config.mean, config.std), config, CPU, num_steps)(
            *batch(), None, None
        )
        loss.backward()
        losses.append((loss.item(), hits.item()))
        gradients.append(model.conv1.weight.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-2, atol=1e-4)


WITHOUT_COMPILER = """
import logging, sys, torch
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from fastlt.step import compiled_or_eager
def eager(images, labels, jitter, order):
    return images.float().mean() * 0.125, labels.sum()
function = compiled_or_eager(eager)
for _ in range(2):
    loss, hits = function(torch.full((4, 2, 2, 3), 8, dtype=torch.uint8), torch.arange(4), None, None)
    assert (loss.item(), hits.item()) == (1.0, 6)
"""


def test_without_a_compiler_the_step_runs_eagerly_and_says_so(tmp_path: Path) -> None:
    environment = {"PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("torch.compile does not work here") == 1
