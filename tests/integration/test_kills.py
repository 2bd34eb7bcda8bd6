"""What a kill at any write leaves of a run's outputs: the old set of files, the new one, or none that is believed."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastlt import EvaluateConfig, ExportConfig, RebalanceConfig, Run, evaluate, export, files, rebalance
from fastlt.checkpoints import native
from fastlt.config import TrainConfig
from fastlt.evaluation import scoring
from fastlt.evaluation.classifier import Classifier, open_classifier
from fastlt.features.store import FeatureStore
from fastlt.files import owned, reserved
from fastlt.inference import exporting
from fastlt.rebalancing import run as stage2
from fastlt.report import writing as report
from fastlt.report.figures import Figure, Material
from fastlt.reproduce import is_current, reproduce

CPU = torch.device("cpu")
FOLDS = RebalanceConfig(method="tau", select_on="folds", device="cpu", num_threads=1)
FIXED = RebalanceConfig(tau="0.7", device="cpu", num_threads=1)
KilledAt = Callable[[int, Callable[[], object]], bool]


@pytest.fixture(scope="module")
def two(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The folder of tau under two settings."""
    run = Run(Path(shutil.copytree(trained.path, tmp_path_factory.mktemp("two") / "run")))
    return {config.tau: contents(rebalance(run, config).method("tau")) for config in (FOLDS, FIXED)} | {
        "features": contents(run.path / "features")
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def put(folder: Path, kept: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in kept.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def run(run_copy: Run, two: dict[str, dict[str, bytes]]) -> Run:
    """A run with features, so that nothing has to be computed."""
    put(run_copy.path / "features", two["features"])
    return run_copy


def store_of(run: Run) -> FeatureStore:
    return FeatureStore(run, device=CPU, loader="memory", num_threads=1)


@pytest.mark.parametrize(("old", "new"), [(FOLDS, FIXED), (FIXED, FOLDS)])
def test_a_classifier_is_the_old_one_or_the_new_one_or_refused(
    run: Run, two: dict[str, dict[str, bytes]], old: RebalanceConfig, new: RebalanceConfig, killed_at: KilledAt
) -> None:
    folder, states = run.method("tau"), set()
    put(folder, two[new.tau])
    classifier = open_classifier(store_of(run), "tau")
    results = stage2.read_results(run, ["tau"])

    def write() -> None:
        with owned(folder):
            stage2.write(classifier, new, results, None)

    for number in itertools.count():
        put(folder, two[old.tau] | {"evaluation.json": b"of the old one"})
        if not killed_at(number, write):
            break
        if not (folder / "results.json").exists():
            with pytest.raises(ValueError, match=rf"^{folder}: got no results\.json.*fastlt rebalance"):
                open_classifier(store_of(run), "tau")
            assert not is_current(run, new)
            states.add("refused")
            continue
        found = open_classifier(store_of(run), "tau")
        config = json.loads((folder / "config.json").read_text())
        (stored,) = {str(row.params) for row in stage2.read_results(run, ["tau"]) if row.method == "tau"}
        assert stored == str(found.params)
        assert config["select_on"] == ("folds" if found.held_out is not None else "val")
        assert (folder / "evaluation.json").exists() == (config["tau"] == old.tau)
        states.add(config["tau"])
    assert states == {old.tau, "refused", new.tau}
    assert contents(folder).keys() == two[new.tau].keys()
    assert stage2.read_results(run, ["tau"]) == results


def test_a_classifier_that_changes_while_it_is_read_is_refused(
    run: Run, two: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(run.method("tau"), two["0.7"])
    store, original = store_of(run), native.load

    def slow(path: Path) -> Any:
        rebalance(run, FIXED)
        return original(path)

    monkeypatch.setattr(native, "load", slow)
    with pytest.raises(ValueError, match=f"^{run.method('tau')}: .*another process"):
        open_classifier(store, "tau")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"params": [1]}, r"\$\.params"),
        ({"weights": 3}, r"\$\.weights"),
        ({"selected_on": {}}, r"\$\.selected_on"),
        ({"prior": ["x"]}, r"\$\.prior\[0\]"),
        ({"prior": [0.5]}, r"prior"),
        ({"prior": [float("nan")] * 10}, r"prior"),
        ({"backbone": 1.5}, r"\$\.backbone"),
        ({"weights": "0"}, r"other weights"),
    ],
)
def test_a_damaged_record_of_a_classifier_is_named(
    run: Run, two: dict[str, dict[str, bytes]], changes: dict[str, Any], named: str
) -> None:
    put(run.method("tau"), two["0.7"])
    path = run.method("tau") / "model.safetensors"
    tensors, metadata = native.load(path)
    native.save(path, tensors, metadata | changes)
    with pytest.raises(ValueError, match=rf"^{path}: got .*{named}.*fastlt rebalance"):
        open_classifier(store_of(run), "tau")


@pytest.mark.parametrize("weight", [torch.zeros(3, 2), torch.zeros(10), torch.zeros(10, 64, dtype=torch.int32), None])
def test_a_last_layer_of_another_form_is_refused(
    run: Run, two: dict[str, dict[str, bytes]], weight: Tensor | None
) -> None:
    put(run.method("tau"), two["0.7"])
    path = run.method("tau") / "model.safetensors"
    tensors, metadata = native.load(path)
    del tensors["fc.weight"]
    native.save(path, tensors if weight is None else tensors | {"fc.weight": weight}, metadata)
    with pytest.raises(ValueError, match=rf"^{path}: got a last layer of .*fastlt rebalance"):
        open_classifier(store_of(run), "tau")


def test_a_second_process_is_refused_before_anything_is_computed(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stage2, "fit_and_write", lambda *_: pytest.fail("computed"))
    for config in (FIXED, dataclasses.replace(FIXED, method="all")):
        with owned(run.method("tau")), pytest.raises(ValueError, match=f"^{run.method('tau')}: .*another process"):
            rebalance(run, config)
    with owned(run.path / "report"), pytest.raises(ValueError, match=r"/report: .*another process"):
        report.write_report(run, store_of(run))
    with owned(run.path / "export"), pytest.raises(ValueError, match=r"/export: .*another process"):
        export(run)
    out = tmp_path / "new" / "export"
    with reserved(out), pytest.raises(ValueError, match=f"^{out}: .*another process"):
        export(run, ExportConfig(out=out, format="safetensors"))
    assert not out.parent.exists()
    monkeypatch.setattr("fastlt.reproduce.trained_run", lambda *_: pytest.fail("trained"))
    out = tmp_path / "table"
    with owned(out), pytest.raises(ValueError, match=f"^{out}: .*another process"):
        reproduce(TrainConfig(), dataclasses.replace(FIXED, method="all"), samplings=["x"], seeds=[0], out=out)
    assert not list(run.path.rglob(".lock"))


def test_an_evaluation_goes_with_its_classifier(run: Run, two: dict[str, dict[str, bytes]]) -> None:
    put(run.method("tau"), two["auto"])
    evaluate(run, config=EvaluateConfig(method="tau", device="cpu", num_threads=1))
    assert (run.method("tau") / "evaluation.json").is_file()
    assert (run.method("tau") / "per_class.val.csv").is_file()
    rebalance(run, FIXED)
    assert not (run.method("tau") / "evaluation.json").exists()
    assert not (run.method("tau") / "per_class.val.csv").exists()


def test_an_evaluation_of_a_classifier_that_is_replaced_meanwhile_is_not_left(
    run: Run, two: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(run.method("tau"), two["auto"])
    original = scoring.write_class_table

    def slow(*arguments: Any) -> None:
        rebalance(run, FIXED)
        original(*arguments)

    monkeypatch.setattr(scoring, "write_class_table", slow)
    with pytest.raises(ValueError, match=f"^{run.method('tau')}: got another tau classifier"):
        evaluate(run, config=EvaluateConfig(method="tau", device="cpu", num_threads=1))
    assert contents(run.method("tau")).keys() == two["0.7"].keys()
    assert open_classifier(store_of(run), "tau").params["tau"] == 0.7


@pytest.mark.parametrize("style", ["torchvision", "safetensors"])
def test_an_exports_weights_are_never_beside_another_ones_description(
    run: Run, two: dict[str, dict[str, bytes]], style: str, killed_at: KilledAt
) -> None:
    put(run.method("tau"), two["0.7"])
    config = ExportConfig(method="tau", format=style)
    out = export(run, config).path
    weights, about = (
        (out / "model.safetensors", out / "config.json") if out.is_dir() else (out, out.with_suffix(".json"))
    )
    before, texts = contents(weights.parent), set()
    classifier = open_classifier(store_of(run), "tau")
    classifier.head.weight.data += 1
    changed = dataclasses.replace(classifier, params={"tau": 9.0})
    for number in itertools.count():
        put(weights.parent, before)
        killed = killed_at(number, lambda: exporting.write(changed, config, out))
        if weights.exists():
            is_new = weights.read_bytes() != before[weights.name]
            assert json.loads(about.read_text())["fastlt"]["params"]["tau"] == (9.0 if is_new else 0.7)
            texts.add(is_new)
        if not killed:
            break
    assert texts == {False, True}
    assert contents(weights.parent).keys() == before.keys()


@pytest.mark.parametrize("style", ["torchvision", "safetensors"])
def test_an_export_that_was_killed_is_begun_again(run: Run, style: str, killed_at: KilledAt, tmp_path: Path) -> None:
    made = 0
    classifier = open_classifier(store_of(run), "joint")
    for number in itertools.count():
        config = ExportConfig(
            format=style, out=tmp_path / f"out{number}" / ("x.pth" if style == "torchvision" else "x")
        )
        assert config.out is not None
        out = config.out
        killed = killed_at(number, lambda c=config, o=out: exporting.write(classifier, c, o))  # type: ignore[misc]
        if killed and not out.exists():
            exporting.check_unused(config)
            exporting.write(classifier, config, out)
            made += 1
        names = files.contents(out.parent if style == "torchvision" else out)
        assert names == (["x.json", "x.pth"] if style == "torchvision" else ["config.json", "model.safetensors"])
        if not killed:
            break
    assert made > 3


def test_an_export_overwrites_nothing_of_the_users(run: Run, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"mine": 1}')
    for name in ("settings.pth", "new.json"):
        with pytest.raises(ValueError, match=rf"^--out: got {tmp_path / name}"):
            export(run, ExportConfig(out=tmp_path / name))
    assert (tmp_path / "settings.json").read_text() == '{"mine": 1}'
    assert not (tmp_path / "new.json").exists()


def test_a_report_that_fails_leaves_the_old_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = ["a.png", "b.png"]

    def draw(material: Material) -> list[Figure]:
        for name in pictures:
            (material.folder / name).write_text("drawn")
        return []

    monkeypatch.setattr(report, "draw_figures", draw)
    report.write_report(run, store_of(run))
    before = contents(run.path / "report")
    assert before.keys() == {"index.html", "a.png", "b.png"}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", None)

    pictures[0] = "c.png"
    with monkeypatch.context() as patch:
        patch.setattr(report, "write_page", full)
        with pytest.raises(OSError, match="No space"):
            report.write_report(run, store_of(run))
    assert contents(run.path / "report") == before
    report.write_report(run, store_of(run))
    assert contents(run.path / "report").keys() == {"index.html", "b.png", "c.png"}


def test_damaged_results_are_made_again(run: Run, two: dict[str, dict[str, bytes]]) -> None:
    put(run.method("tau"), two["0.7"])
    assert is_current(run, FIXED)
    for name, content in (("results.json", b'{"schema": 1, "results": [{}]}'), ("config.json", b"[]")):
        put(run.method("tau"), two["0.7"] | {name: content})
        assert not is_current(run, FIXED)


def test_the_state_of_a_classifier_is_whole(run: Run, two: dict[str, dict[str, bytes]]) -> None:
    put(run.method("tau"), two["auto"])
    found: Classifier = open_classifier(store_of(run), "tau")
    assert found.held_out is not None
    (run.method("tau") / "folds.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"folds\.npz"):
        open_classifier(store_of(run), "tau")
    np.savez(run.method("tau") / "folds.npz", labels=np.zeros(3))
    with pytest.raises(ValueError, match=r"folds\.npz.*fastlt rebalance"):
        open_classifier(store_of(run), "tau")
