"""Runs that are made from checkpoints."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastlt.checkpoints import native
from fastlt.checkpoints.import_run import IMPORTED, store_run, timm_preprocessing
from fastlt.config import TrainConfig
from fastlt.files.writing import contents
from fastlt.run import Run

TENSORS = {"fc.weight": torch.ones(2, 3)}
DATA = {
    "class_names": ["a", "b"],
    "class_counts": [2, 1],
    "splits": {"train": {"fingerprint": "f", "num_images": 3, "num_skipped": 0}},
}


def stored() -> Run:
    return store_run(Path("net.pth"), TrainConfig(), DATA, TENSORS, {"source": "net.pth"})


def is_good(run: Run) -> bool:
    tensors, _ = native.load(run.checkpoint("best"))
    same = torch.equal(tensors["fc.weight"], TENSORS["fc.weight"])
    return same and run.config.out == run.path and run.data["class_names"] == ["a", "b"]


def test_a_killed_import_leaves_no_run_and_goes_on(
    killed_at: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in range(1, 6):  # four files and the folder
        assert killed_at(call, stored) == 9
        assert contents(IMPORTED) == []
    run = stored()
    assert is_good(run)
    assert [path.name for path in IMPORTED.iterdir()] == [run.path.name]


@pytest.mark.parametrize(
    "damaged", ["checkpoints/best.safetensors", "config.json", "data.json", "environment.json", "absent"]
)
def test_a_damaged_import_is_made_again_and_its_results_stay(
    damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = stored()
    (run.path / "rebalanced").mkdir()
    if damaged == "absent":  # killed, with an earlier version
        run.checkpoint("best").unlink()
    else:
        file = run.path / damaged
        file.write_bytes(file.read_bytes()[:-3])
    again = stored()
    assert again.path == run.path
    assert is_good(again)
    assert (run.path / "rebalanced").is_dir()


def test_timms_own_configuration_is_asked_for_what_its_script_leaves_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"input_size": (3, 224, 224), "crop_pct": 0.95}
    known = SimpleNamespace(get_pretrained_cfg=lambda name: SimpleNamespace(to_dict=lambda: config | {"url": name}))
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(models=known))
    monkeypatch.setitem(sys.modules, "timm.models", known)
    here, unsaid = Path("net.pth"), dict.fromkeys(("crop_pct", "mean", "std", "interpolation"))
    assert timm_preprocessing(here, unsaid, "resnet50") == config | {"url": "resnet50"}
    assert timm_preprocessing(here, {"lr": 0.1}, "resnet50") == {}
    assert not caplog.records
    monkeypatch.setitem(sys.modules, "timm.models", None)
    assert timm_preprocessing(here, unsaid, "resnet50") == {}
    assert "pip install 'fastlt[timm]'" in caplog.text
