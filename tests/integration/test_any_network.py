"""Stage 2 on other people's networks: a module from Python, a checkpoint from the command line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastlt
from fastlt import Run, cli
from fastlt.checkpoints.native import load
from fastlt.rebalancing import tau_normalize


class Net(nn.Module):
    """A network whose last layer is called otherwise."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU())
        self.scores = nn.Linear(6, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.body(x))


def batches(seed: int, num_classes: int = 3) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(4):
        labels = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), 32, replacement=True, generator=generator)
        yield torch.randn(32, 3, 2, 2, generator=generator) + labels[:, None, None, None], labels % num_classes


def test_only_the_last_linear_layer_changes() -> None:
    torch.manual_seed(0)
    model = Net().train()
    rebalanced = fastlt.rebalance_model(model, list(batches(0)), list(batches(1)), tau=0.7, temperature=False)
    assert rebalanced.training
    expected = tau_normalize(fastlt.models.LinearHead(model.scores.weight.detach()), 0.7)
    torch.testing.assert_close(rebalanced.scores.weight, expected.weight)
    assert (rebalanced.scores.bias == 0).all()
    before, after = model.state_dict(), rebalanced.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"scores.weight", "scores.bias"}


SCRIPT = """
import sys, torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU())
        self.scores = nn.Linear(6, 3)
    def forward(self, x):
        return self.scores(self.body(x))

net = Net().eval()
net.load_state_dict(torch.load("new.pth", weights_only=True), strict=True)
reference = torch.load("given.pth", weights_only=True)
torch.testing.assert_close(net(reference["images"]), reference["logits"], rtol=1e-5, atol=1e-5)
assert "fastlt" not in sys.modules
"""


def test_a_plain_script_loads_what_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    rebalanced = fastlt.rebalance_model(model, list(batches(0)), batches(1), head="scores", tau=0.7, temperature=False)
    torch.save(rebalanced.state_dict(), tmp_path / "new.pth")
    images, _ = next(batches(2))
    with torch.inference_mode():
        folded = tau_normalize(fastlt.models.LinearHead(model.scores.weight), 0.7)
        torch.save({"images": images, "logits": folded(model.body(images)).clone()}, tmp_path / "given.pth")
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, cwd=tmp_path)


class Branches(Net):
    """Two heads of the same shape; the forward pass returns what `way` makes of them."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.aux = way, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        features = self.body(x)
        main, aux = self.scores(features), self.aux(features)
        return {"tuple": (main, aux), "dict": {"logits": main, "aux": aux}, "mean": (main + aux) / 2}[self.way]


@pytest.mark.parametrize("way", ["tuple", "dict"])
def test_the_head_whose_output_is_returned_is_the_last(way: str) -> None:
    torch.manual_seed(0)
    model = Branches(way)
    rebalanced = fastlt.rebalance_model(model, list(batches(0)), batches(1), tau=1.0)
    before, after = model.state_dict(), rebalanced.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"scores.weight", "scores.bias"}


def test_a_mean_of_heads_is_refused_whichever_is_named() -> None:
    for head, named in ((None, r"scores .*, aux"), ("scores", "scores"), ("aux", "aux")):
        with pytest.raises(ValueError, match=rf"^head: got {named} .*\baway\b"):
            fastlt.rebalance_model(Branches("mean"), list(batches(0)), batches(1), tau=1.0, head=head)


@pytest.mark.parametrize("method", ["crt", "lws", "ncm", "logit_adjustment", "cosine"])
def test_every_method_works_on_a_module(method: str) -> None:
    torch.manual_seed(0)
    model = Net(bias=False)
    rebalanced = fastlt.rebalance_model(model, list(batches(0)), list(batches(1)), head="scores", method=method)
    assert isinstance(rebalanced.scores, nn.Linear)
    assert torch.isfinite(rebalanced(next(batches(2))[0])).all()


def test_wrong_calls_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"^model: .*linear layer.*\bhead\b"):
        fastlt.rebalance_model(nn.Sequential(nn.Flatten(), nn.ReLU()), batches(0), batches(1), tau=1.0)
    with pytest.raises(ValueError, match=r"^head: got fc\b"):
        fastlt.rebalance_model(Net(), list(batches(0)), batches(1), head="fc")
    with pytest.raises(ValueError, match=r"^taus: "):
        fastlt.rebalance_model(Net(), list(batches(0)), batches(1), taus=1.0)
    with pytest.raises(ValueError, match=r"^model: got an? str\b"):
        fastlt.rebalance_model("resnet50", batches(0), batches(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^val: .*batch"):
        fastlt.rebalance_model(Net(), list(batches(0)), [], lr=1, method="crt")
    with pytest.raises(ValueError, match=r"class 2\b"):
        fastlt.rebalance_model(Net(), list(batches(0, num_classes=2)), list(batches(1)), method="crt")


def test_a_checkpoint_comes_back_in_its_own_format(
    trained: Run, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors, _ = load(trained.checkpoint("best"))
    source = tmp_path / "net.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in tensors.items()}, "epoch": 3}, source)
    original = source.read_bytes()
    command = ["fastlt", "rebalance", str(source), "--data-root", str(data_root), "--backbone", "resnet8"]
    command += ["--image-size", "32", "--eval-resize", "32", "--mean", "0.5", "0.5", "0.5"]
    command += ["--std", "0.25", "0.25", "0.25", "--tau", "0.7", "--no-temperature", "--device", "cpu", "--force"]
    monkeypatch.setattr(sys, "argv", command)
    cli.main()
    assert source.read_bytes() == original
    written = tmp_path / "net.tau.pth"
    script = (
        "import sys, torch\n"
        f"new = torch.load({str(written)!r}, weights_only=True)['state_dict']\n"
        f"old = torch.load({str(source)!r}, weights_only=True)['state_dict']\n"
        "same = [k for k in old if torch.equal(old[k], new[k])]\n"
        "assert list(new) == list(old) and set(old) - set(same) <= {'module.fc.weight', 'module.fc.bias'}\n"
        "w = old['module.fc.weight']\n"
        "torch.testing.assert_close(new['module.fc.weight'], w / w.norm(dim=1, keepdim=True) ** 0.7)\n"
        "assert 'fastlt' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_pickle_that_would_run_is_refused(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    source = tmp_path / "evil.pth"
    torch.save({"state_dict": Evil()}, source)
    command = ["fastlt", "rebalance", str(source), "--data-root", str(data_root), "--backbone", "resnet8"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert not (tmp_path / "ran").exists()
    assert capsys.readouterr().err.count("\n") == 1
