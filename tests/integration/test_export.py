"""`fastlt export`: the file, loaded as its readers load it, gives the folded head's logits."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fastlt import ExportConfig, RebalanceConfig, Run, export, rebalance
from fastlt.checkpoints.class_order import settle_order
from fastlt.checkpoints.native import load
from fastlt.checkpoints.preprocessing import settle_preprocessing
from fastlt.checkpoints.reading import read_checkpoint
from fastlt.commands import export as command
from fastlt.config.checkpoint import CheckpointConfig
from fastlt.features.store import load_model
from fastlt.models import create_model

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def rebalanced(run_copy: Run) -> Run:
    rebalance(run_copy, RebalanceConfig(tau="0.7", device="cpu", num_threads=1))
    return run_copy


@torch.inference_mode()
def logits(run: Run, method: str) -> Tensor:
    """The joint network's features under the method's head."""
    best = run.checkpoint("best")
    model = load_model(run.config, load(best)[0], len(run.data["class_names"]), best)
    tensors = load(run.method(method) / "model.safetensors")[0]
    scores = model.features(IMAGES) @ tensors["fc.weight"].T
    return scores + tensors["fc.bias"] if "fc.bias" in tensors else scores


@torch.inference_mode()
def reloaded(run: Run, tensors: dict[str, Tensor]) -> Tensor:
    """What a plain network with torchvision's names says after a strict load."""
    model = create_model(run.config.backbone, len(run.data["class_names"])).eval()
    model.load_state_dict(tensors, strict=True)
    return model(IMAGES)


def test_a_state_dict_with_torchvisions_names(rebalanced: Run) -> None:
    exported = export(rebalanced)
    assert exported.path == rebalanced.path / "export" / "tau.pth"
    tensors = torch.load(exported.path, weights_only=True)
    torch.testing.assert_close(reloaded(rebalanced, tensors), logits(rebalanced, "tau"))
    assert json.loads(exported.path.with_suffix(".json").read_text())["label_names"] == rebalanced.data["class_names"]
    export(rebalanced)  # its own place is written anew


def test_a_folder_that_timm_and_fastlt_read(rebalanced: Run, tmp_path: Path) -> None:
    exported = export(rebalanced, ExportConfig(format="safetensors", out=tmp_path / "folder"))
    torch.testing.assert_close(
        reloaded(rebalanced, load_file(exported.path / "model.safetensors")), logits(rebalanced, "tau")
    )
    config = json.loads((exported.path / "config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == list(rebalanced.config.mean)
    source = read_checkpoint(exported.path)
    outputs = settle_preprocessing(exported.path, source.settings, {}, CheckpointConfig(), force=False)
    assert (outputs["image_size"], outputs["eval_resize"]) == (rebalanced.config.image_size, rebalanced.config.resize)
    (order,) = settle_order(exported.path, source.settings, None, rebalanced.data["class_names"])
    assert order.rows == tuple(range(10))


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (32, 36), (300, 331), (7, 9), (96, 96)])
def test_the_crop_share_gives_the_size_back(trained: Run, size: int, resize: int) -> None:
    from fastlt.evaluation.classifier import joint_classifier
    from fastlt.features.store import FeatureStore
    from fastlt.inference.exporting import describe

    classifier = joint_classifier(FeatureStore(trained, device=torch.device("cpu")))
    run = dataclasses.replace(trained)
    run.__dict__["config"] = dataclasses.replace(trained.config, image_size=size, eval_resize=resize)
    other = dataclasses.replace(classifier, store=classifier.store.with_backbone(classifier.store.tensors, "x"))
    other.store.run = run
    share = describe(other, classifier.store.model)["pretrained_cfg"]["crop_pct"]
    assert math.floor(size / share) == resize


@pytest.mark.slow
def test_an_onnx_file_agrees_with_torch(rebalanced: Run) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exported = export(rebalanced, ExportConfig(format="onnx"))
    assert exported.difference is not None
    assert exported.difference < 1e-4
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    expected = logits(rebalanced, "tau").numpy()
    (outputs,) = session.run(["logits"], {"images": IMAGES.numpy()})
    np.testing.assert_allclose(outputs, expected, atol=1e-4 * np.abs(expected).max())
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["label_names"]) == rebalanced.data["class_names"]
    assert json.loads(metadata["fastlt"])["params"]["tau"] == 0.7


def test_an_onnx_file_that_disagrees_is_not_written(rebalanced: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")

    class Program:
        class model:  # noqa: N801
            metadata_props: dict[str, str] = {}  # noqa: RUF012

        def save(self, path: Path, **_: object) -> None:
            Path(path).write_bytes(b"x")

    monkeypatch.setattr(torch.onnx, "export", lambda *_args, **_options: Program())
    monkeypatch.setattr("fastlt.inference.onnx_file.compare_onnx", lambda *_: 0.5)
    with pytest.raises(ValueError, match=r"tau\.onnx: .*\b5\.0e-01\b"):
        export(rebalanced, ExportConfig(format="onnx"))
    assert not list((rebalanced.path / "export").glob("tau*"))


def test_what_cannot_be_exported_is_said_in_one_line(rebalanced: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = rebalanced.path / "config.json"
    for arguments, message in (
        (["--format", "tf"], "^--format: got 'tf'"),
        (["--method", "crt"], "crt classifier.*fastlt rebalance"),
        (["--out", str(taken)], f"^--out: .*{taken}"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            command.run([str(rebalanced.path), *arguments])
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"onnx and onnxscript.*pip install"):
        export(rebalanced, ExportConfig(format="onnx"))
