"""Compiling the step, and going on without a compiler."""

import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config
from torch._inductor.graph import GraphLowering

from fastlt import recipe
from fastlt.data.transforms.preprocess import Preprocess
from fastlt.models import create_model
from fastlt.runtime.compiling import Compiler
from fastlt.training.step import (
    MIN_STEPS_TO_COMPILE_ON_CPU,
    StepInput,
    ValidationPredictor,
    loss_function,
    worth_compiling,
)

CPU = torch.device("cpu")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 5, (8,), generator=generator)


@pytest.mark.slow
def test_compiled_and_eager_agree() -> None:
    config = dataclasses.replace(recipe("glyphs_lt"), precision="fp32")
    losses, gradients = [], []
    for compiler in (Compiler(enabled=False), Compiler()):
        torch.manual_seed(0)
        model = create_model("resnet8", 5).to(memory_format=torch.channels_last)
        loss_and_hits = loss_function(model, Preprocess(config.mean, config.std), config, CPU, compiler)
        loss, hits = loss_and_hits(StepInput(*batch()))
        loss.backward()
        losses.append((loss.item(), hits.item()))
        gradients.append(model.conv1.weight.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("precision", "share", "expected"),
    [("fp32", None, torch.float32), ("bf16", None, torch.bfloat16), ("bf16", torch.tensor(0.3), torch.float32)],
)
def test_images_are_rounded_once_and_after_they_were_blended(
    precision: str, share: torch.Tensor | None, expected: torch.dtype
) -> None:
    config = dataclasses.replace(recipe("glyphs_lt"), precision=precision)
    preprocess, types = Preprocess(config.mean, config.std), []
    preprocess.register_forward_hook(lambda _module, _arguments, result: types.append(result.dtype))
    step = loss_function(create_model("resnet8", 5), preprocess, config, CPU, Compiler(enabled=False))
    step(StepInput(*batch(), mixup_share=share))
    assert types == [expected]


def test_a_cpu_compiles_long_runs_and_a_gpu_every_run() -> None:
    config = recipe("glyphs_lt")
    assert not worth_compiling(config, CPU, MIN_STEPS_TO_COMPILE_ON_CPU - 1)
    assert worth_compiling(config, CPU, MIN_STEPS_TO_COMPILE_ON_CPU)
    assert worth_compiling(config, torch.device("cuda"), 1)
    assert not worth_compiling(dataclasses.replace(config, compile=False), torch.device("cuda"), 1)


def test_a_smaller_last_batch_is_filled_up_where_it_would_be_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[int] = []

    def watched(eager: Callable[..., torch.Tensor], **_: object) -> Callable[..., torch.Tensor]:
        def call(images: torch.Tensor) -> torch.Tensor:
            shapes.append(len(images))
            return eager(images)

        return call

    monkeypatch.setattr(torch, "compile", watched)
    config = dataclasses.replace(recipe("glyphs_lt"), precision="fp32")
    model, preprocess = create_model("resnet8", 5).double(), Preprocess(config.mean, config.std).double()
    monkeypatch.setattr(preprocess, "forward", lambda images: images.double().permute(0, 3, 1, 2) / 255)
    images, _ = batch()
    loader = [SimpleNamespace(images=piece) for piece in images.split(3)]
    predictions = [
        ValidationPredictor(model, preprocess, config, CPU, Compiler(enabled=enabled)).predict(loader)  # type: ignore[arg-type]
        for enabled in (False, True)
    ]
    assert shapes == [3, 3, 3]
    assert predictions[0].equal(predictions[1])
    assert len(predictions[0]) == 8


def test_the_last_batch_and_every_pass_share_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = CompileCounterWithBackend("eager")
    compiled = functools.partial(torch.compile, backend=graphs, fullgraph=True)
    monkeypatch.setattr(torch, "compile", lambda function, options, **settings: compiled(function, **settings))
    torch._dynamo.reset()
    config = dataclasses.replace(recipe("glyphs_lt"), precision="fp32")
    model, preprocess = create_model("resnet8", 5), Preprocess(config.mean, config.std)
    predictor = ValidationPredictor(model, preprocess, config, CPU, Compiler())
    loader = [SimpleNamespace(images=piece) for piece in batch()[0].split(3)]
    passes = [predictor.predict(loader) for _ in range(2)]  # type: ignore[arg-type]
    assert graphs.frame_count == 1
    assert passes[0].equal(passes[1])
    assert not any(parameter.grad_fn for parameter in model.parameters())


def test_results_outlast_the_next_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    def replayed(eager: Callable[..., torch.Tensor], **_: object) -> Callable[..., object]:
        buffer = torch.empty(3)
        return lambda x: (buffer.copy_(eager(x)), None)

    monkeypatch.setattr(torch, "compile", replayed)
    for cuda_graphs in (False, True):
        double = Compiler(cuda_graphs=cuda_graphs)(lambda x: 2 * x)
        first, nothing = double(torch.ones(3))
        double(torch.zeros(3))
        assert first.tolist() == [2.0 * cuda_graphs] * 3
        assert nothing is None


@pytest.mark.parametrize("channels_last", [False, True])
def test_inductor_keeps_to_the_layout_that_is_wanted(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = []
    decide = GraphLowering.decide_layout_opt

    def watched(*graph: object, **settings: object) -> bool:
        decided.append(decide(*graph, **settings))  # type: ignore[arg-type]
        return decided[-1]

    monkeypatch.setattr(GraphLowering, "decide_layout_opt", staticmethod(watched))
    torch._dynamo.reset()
    grouped = torch.nn.Conv2d(8, 8, 3, groups=4)
    compiler = Compiler(channels_last=channels_last)
    with inductor_config.patch(fx_graph_cache=False), functorch_config.patch(enable_autograd_cache=False):
        assert compiler(grouped)(torch.randn(2, 8, 5, 5)).shape == (2, 8, 3, 3)
    assert compiler.works
    assert decided == [channels_last]


WITHOUT_COMPILER = """
import logging, sys, torch
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from fastlt.runtime.compiling import Compiler
def eager(images, labels, jitter, order):
    return images.float().mean() * 0.125, labels.sum()
compiler = Compiler()
functions = compiler(eager), compiler(lambda *batch: eager(*batch))
for function in functions:
    for _ in range(2):
        loss, hits = function(torch.full((4, 2, 2, 3), 8, dtype=torch.uint8), torch.arange(4), None, None)
        assert (loss.item(), hits.item()) == (1.0, 6)
assert not compiler.works
"""


def test_without_a_compiler_the_step_runs_eagerly_and_says_so(tmp_path: Path) -> None:
    environment = {"PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("torch.compile does not work here") == 1


KEPT = """
import torch
from torch._dynamo.utils import counters
from fastlt.runtime.compiling import Compiler
weight = torch.randn(5, 12, requires_grad=True)
def loss(images):
    return (images.flatten(1).float() @ weight.T).relu().logsumexp(1).mean()
compiler = Compiler()
compiler(loss)(torch.arange(48, dtype=torch.uint8).reshape(4, 2, 2, 3)).backward()
assert compiler.works
print(counters["inductor"]["fxgraph_cache_hit"], counters["aot_autograd"]["autograd_cache_hit"])
"""


@pytest.mark.slow
def test_what_was_compiled_is_kept_for_the_next_run(tmp_path: Path) -> None:
    hits = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", KEPT],
            env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        )
        hits.append([int(word) for word in done.stdout.split()])
    assert sum(hits[0]) == 0
    assert sum(hits[1]) > 0
