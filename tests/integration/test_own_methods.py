"""A method of the user's own at the command line: made, evaluated, predicted with, exported, reported."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastlt import Run
from fastlt.cli import dispatch
from fastlt.config import plugins

MODULE = """
    from fastlt.models import LinearHead
    from fastlt.rebalancing import RebalancedHead

    def unit_norm(problem):
        assert problem.train == ()
        head = LinearHead(problem.head.weight.detach() / problem.head.norms()[:, None])
        return RebalancedHead(head=head, params={"power": 1.0})

    def doubled(problem):
        return LinearHead(2 * problem.head.weight)
"""
WHERE = ("--device", "cpu", "--num-threads", "1")


def test_every_command_knows_it(
    run_copy: Run, own_module: Callable[[str], str], data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = own_module(MODULE)
    Path(f"{name}.py").write_text(
        Path(f"{name}.py").read_text() + "\nimport fastlt\n"
        "fastlt.rebalancing.register('unit', unit_norm, needs_training=False)\n"
    )
    run = str(run_copy.path)
    dispatch(["rebalance", run, "--method", f"{name}:unit_norm", "--no-temperature", "--json", "made.json", *WHERE])
    dispatch(["rebalance", run, "--method", f"{name}:doubled", "--select-on", "folds", *WHERE])
    folder = run_copy.method("unit")
    weight = load_file(folder / "model.safetensors")["fc.weight"]
    assert torch.allclose(weight.norm(dim=1), torch.ones(10))
    rows = [row for row in json.loads(Path("made.json").read_text())["results"] if row["method"] == "unit"]
    assert [(row["params"], row["selected_on"]) for row in rows] == [({"power": 1.0}, None)] * 2
    assert json.loads((folder / "config.json").read_text())["method"] == f"{name}:unit_norm"
    assert (run_copy.method(f"{name}.doubled") / "folds.npz").is_file()

    # From here on, as in a process that has never heard of it
    plugins.OWN.clear()
    Path(f"{name}.py").unlink()
    for asked in ("unit", f"{name}:unit_norm"):
        dispatch(["evaluate", run, "--method", asked, "--split", "test", "--json", "one.json", *WHERE])
        (row,) = json.loads(Path("one.json").read_text())["results"]
        assert row["all"] == next(each for each in rows if each["split"] == "test")["all"]
    dispatch(["evaluate", run, "--method", "all", "--json", "all.json", *WHERE])
    methods = [row["method"] for row in json.loads(Path("all.json").read_text())["results"]]
    assert sorted(set(methods)) == sorted(["joint", "unit", f"{name}.doubled"])
    dispatch(["report", run, "--device", "cpu"])
    page = (run_copy.path / "report" / "index.html").read_text()
    assert "unit" in page
    assert f"Chosen by class mean on folds: {name}.doubled." in page
    dispatch(["predict", run, str(data_root / "test"), "--method", "unit", "--json", "predicted.json", *WHERE])
    assert json.loads(Path("predicted.json").read_text())["method"] == "unit"
    dispatch(["export", run, "--method", f"{name}:unit_norm"])
    assert torch.equal(torch.load(run_copy.path / "export" / "unit.pth")["fc.weight"], weight)
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"^--method: got 'units'; did you mean 'unit'\?"):
        dispatch(["evaluate", run, "--method", "units", *WHERE])


def test_a_function_that_fails_writes_nothing(run_copy: Run, own_module: Callable[[str], str]) -> None:
    name = own_module("def broken(problem):\n    return problem.heads\n")
    with pytest.raises(ValueError, match=rf"^--method: got {name}\.broken .*AttributeError: .*{name}\.py line 2"):
        dispatch(["rebalance", str(run_copy.path), "--method", f"{name}:broken", *WHERE])
    assert not (run_copy.method(f"{name}.broken") / "model.safetensors").exists()
