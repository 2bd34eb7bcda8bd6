"""A loss of the user's own in both stages: recorded, resumed, compiled, and refused before anything is computed."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from fastlt import RebalanceConfig, Run, TrainConfig, rebalance, recipe, train
from fastlt.cli import dispatch
from fastlt.data.transforms.preprocess import Preprocess
from fastlt.models import create_model
from fastlt.runtime.compiling import Compiler
from fastlt.training.step import StepInput, loss_function

MODULE = """
    from torch.nn import functional as F

    def plain(logits, labels, class_counts):
        return F.cross_entropy(logits, labels, reduction="none")

    def adjusted(logits, labels, class_counts):
        return F.cross_entropy(logits + class_counts.log(), labels)

    def broken(logits, labels, class_counts):
        return logits.sum(0)
"""

Write = Callable[[str], str]


def test_a_run_under_it_is_that_of_the_same_loss_of_ours_and_goes_on_with_it(
    small_config: TrainConfig, own_module: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = own_module(MODULE)
    config = dataclasses.replace(small_config, epochs=1, precision="fp32")
    ours = train(dataclasses.replace(config, out=tmp_path / "ours"))
    run = train(dataclasses.replace(config, loss=f"{name}:plain", out=tmp_path / "theirs"))
    losses = [json.loads(each.metrics.read_text().splitlines()[-1])["loss"] for each in (ours, run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert json.loads((run.path / "config.json").read_text())["loss"] == f"{name}:plain"
    resumed = dataclasses.replace(run.config, out=run.path, resume=True)
    with caplog.at_level(logging.WARNING, logger="fastlt"):
        train(resumed)
        assert "has changed since" not in caplog.text
        Path(f"{name}.py").write_text(Path(f"{name}.py").read_text() + "\n# another line\n")
        train(resumed)
    assert "has changed since" in caplog.text


def test_a_run_cannot_go_on_without_it_but_can_be_used(run_copy: Run) -> None:
    settings = json.loads((run_copy.path / "config.json").read_text())
    (run_copy.path / "config.json").write_text(json.dumps(settings | {"loss": "absent_module:loss"}))
    run = Run(run_copy.path)
    rebalance(run, RebalanceConfig(tau="1", device="cpu", num_threads=1))
    with pytest.raises(ValueError, match=r"^--loss: got absent_module:loss, .*No module named 'absent_module'"):
        dispatch(["train", "--resume", "--out", str(run.path)])


def test_a_mistake_in_it_costs_no_run(small_config: TrainConfig, own_module: Write, tmp_path: Path) -> None:
    name = own_module(MODULE)
    with pytest.raises(ValueError, match=rf"^--loss: got {name}:broken, which returned .*\[10\]"):
        train(dataclasses.replace(small_config, loss=f"{name}:broken", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_stage_2_retrains_with_it(run_copy: Run, own_module: Write) -> None:
    name = own_module(MODULE)
    config = RebalanceConfig(method="crt", epochs=2, lr=(0.1, 0.2), device="cpu", num_threads=1)
    rows = []
    for loss in ("balanced_softmax", f"{name}:adjusted"):
        rebalance(run_copy, dataclasses.replace(config, loss=loss))
        folder = run_copy.method("crt")
        assert json.loads((folder / "config.json").read_text())["loss"] == loss
        rows.append([row["nll"] for row in json.loads((folder / "results.json").read_text())["results"]])
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
    with pytest.raises(ValueError, match=rf"^--loss: got {name}:broken, "):
        rebalance(run_copy, dataclasses.replace(config, loss=f"{name}:broken"))


def test_it_is_compiled_with_the_step(own_module: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounterWithBackend("eager")
    compile_by_inductor = torch.compile
    monkeypatch.setattr(torch, "compile", lambda eager, **_: compile_by_inductor(eager, backend=counter))
    values = []
    for loss in ("balanced_softmax", f"{own_module(MODULE)}:adjusted"):
        config = dataclasses.replace(recipe("glyphs_lt"), precision="fp32", loss=loss)
        torch.manual_seed(0)
        model = create_model("resnet8", 3)
        preprocess = Preprocess(config.mean, config.std)
        compiler, counts = Compiler(), torch.tensor([9, 3, 1])
        step = loss_function(model, preprocess, config, torch.device("cpu"), compiler, counts)
        before = counter.frame_count
        values.append(step(StepInput(torch.full((4, 32, 32, 3), 99, dtype=torch.uint8), torch.tensor([0, 1, 2, 0])))[0])
        assert compiler.works
        assert counter.frame_count == before + 1
    assert values[0].item() == pytest.approx(values[1].item())
