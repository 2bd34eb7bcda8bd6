"""Checkpoints of timm's own networks go through `fastlt rebalance` and come back for timm."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

FLAGS = ["--image-size", "32", "--eval-resize", "32", "--mean", *["0.5"] * 3, "--std", *["0.25"] * 3]
NAMES = [f"colour {label}" for label in range(10)]


@pytest.mark.parametrize(
    ("name", "size", "last"),
    [("resnet18.a1_in1k", 32, "fc"), ("convnext_atto", 32, "head.fc"), ("vit_tiny_patch16_224", 224, "head")],
)
def test_a_network_of_timm_comes_back(
    name: str, size: int, last: str, workshop: Path, rebalance_checkpoint: Callable[..., None]
) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    before = timm.create_model(name, num_classes=10).eval()
    torch.save({"state_dict": before.state_dict()}, "net.pth")
    form = ["--image-size", size, "--eval-resize", size]
    # It has learned nothing, and --force says that this is known
    rebalance_checkpoint("net.pth", "--backbone", f"timm:{name}", "--tau", "0.7", "--force", *form, "--no-temperature")
    after = timm.create_model(name, num_classes=10).eval()
    after.load_state_dict(torch.load("net.tau.pth")["state_dict"], strict=True)
    old, new = before.state_dict(), after.state_dict()
    assert {key for key in old if not torch.equal(old[key], new[key])} <= {f"{last}.weight", f"{last}.bias"}
    weight = old[f"{last}.weight"]
    torch.testing.assert_close(new[f"{last}.weight"], weight / weight.norm(dim=1, keepdim=True) ** 0.7)


def test_a_folder_of_timm_comes_back(workshop: Path, rebalance_checkpoint: Callable[..., None]) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    before = timm.create_model("convnext_atto", num_classes=10, drop_path_rate=0.1)
    timm.models.save_for_hf(before, "hub", model_config={"label_names": NAMES}, safe_serialization=True)
    rebalance_checkpoint("hub", "--tau", "0.7", "--image-size", "32", "--force")
    after = timm.create_model("local-dir:hub.tau", pretrained=True)
    changed = {key for key, value in before.state_dict().items() if not torch.equal(value, after.state_dict()[key])}
    assert changed <= {"head.fc.weight", "head.fc.bias"}
    assert "head.fc.weight" in changed


def test_a_size_that_a_checkpoint_of_timm_is_not_for_is_refused(
    workshop: Path, rebalance_checkpoint: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=10).state_dict(), "net.pth")
    with pytest.raises(SystemExit):
        rebalance_checkpoint("net.pth", "--backbone", "timm:vit_tiny_patch16_224", *FLAGS)
    assert re.search("net.pth: .*--backbone and --image-size", capsys.readouterr().err)
