"""The names of a checkpoint's tensors, matched with ours."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastlt.checkpoints.names import find_head, match, match_backbone, unmatched
from fastlt.checkpoints.recognition import resembling
from fastlt.models import create_model

HERE = Path("net.pth")


def resnet(name: str = "resnet8", num_classes: int = 2) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(create_model(name, num_classes).state_dict())


def test_every_tensor_finds_its_place_and_what_has_none_is_named() -> None:
    tensors = resnet()
    plain = match(HERE, tensors, "resnet8", None, 2)
    assert plain.head == "fc"
    assert plain.names == {name: name for name in tensors}
    assert plain.absent == ()
    counters = {name: value for name, value in tensors.items() if name.endswith("num_batches_tracked")}
    lean = {name: value for name, value in tensors.items() if name not in counters and name != "fc.bias"}
    assert set(match(HERE, lean, "resnet8", None, 2).absent) == {*counters, "fc.bias"}
    renamed = {name.replace("fc.", "last."): value for name, value in tensors.items()}
    found = match(HERE, renamed, "resnet8", None, 2)
    assert (found.head, found.names["fc.weight"], found.names["fc.bias"]) == ("last", "last.weight", "last.bias")
    stem = "resnet.embedder.embedder.convolution.weight"
    theirs = {stem if name == "conv1.weight" else name: value for name, value in tensors.items()}
    assert match(HERE, theirs, "resnet8", None, 2).names["conv1.weight"] == stem


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("net.", "net.fc."),
        ("backbone.", "fc."),
        ("encoder.", "head."),
        ("a.b.encoder_q.", "a.b.classifier."),
        ("", "fc."),
    ],
)
def test_what_stands_before_all_names_is_passed_over(backbone: str, head: str) -> None:
    def theirs(name: str) -> str:
        return name.replace("fc.", head) if name.startswith("fc.") else f"{backbone}{name}"

    tensors = {theirs(name): value for name, value in resnet().items()}
    found = match(HERE, tensors, "resnet8", None, 2)
    assert found.head == head[:-1]
    assert found.names == {name: theirs(name) for name in resnet()}
    assert resembling(tensors) == "resnet8"
    tensors["projection.0"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"^net\.pth: .*\b1 not expected \(projection\.0\)"):
        match(HERE, tensors, "resnet8", None, 2)


def test_a_network_of_timm_keeps_the_names_that_its_own_begin_with() -> None:
    names = {f"blocks.{at}.mlp.weight": torch.zeros(1) for at in range(9)} | {"norm.weight": torch.zeros(1)}
    network: Any = SimpleNamespace(checkpoint_names=lambda: {f"trunk.{name}": name for name in names})
    ours = {f"trunk.{name}": name for name in names}
    assert match_backbone(network, [*names, "head.weight"]) == (ours, ["head.weight"])
    wrapped = {name: f"net.{theirs}" for name, theirs in ours.items()}
    assert match_backbone(network, wrapped.values()) == (wrapped, [])


@pytest.mark.parametrize(
    ("change", "head", "pattern"),
    [
        ({"bn1.weight": None}, None, r"^net\.pth: .*resnet8.*\b1 missing \(bn1\.weight\).*--backbone"),
        ({"bn1.weight": torch.zeros(32, dtype=torch.int8)}, None, r"^net\.pth: .*\(bn1\.weight .*int8.*\)"),
        ({"bn1.weight": torch.zeros(3)}, None, r"^net\.pth: .*\(bn1\.weight .*\[3\].*\[32\]\)"),
        (resnet("resnet10"), None, r"^net\.pth: .*--backbone resnet10\b"),
        ({"aux": torch.zeros(3)}, None, r"^net\.pth: .*\b1 not expected \(aux\).*--head"),
        ({"aux.weight": torch.zeros(2, 3)}, None, r"^net\.pth: .*fc, aux.*--head"),
        ({"fc.weight": None, "fc.bias": None}, None, r"^net\.pth: .*linear layer.*--head"),
        (
            {"fc.weight": torch.zeros(2, 9)},
            None,
            r"^net\.pth: .*\bfc .*\b9 .*resnet8 .*\b128\b.*--backbone.*--head",
        ),
        ({"fc.weight": torch.zeros(3, 128)}, None, r"^net\.pth: .*\bfc .*\b3 classes.*\b2\b.*--data-root.*--head"),
        (
            {"fc.weight": torch.zeros(2, 128, dtype=torch.int8)},
            None,
            r"^net\.pth: .*\bfc .*torch\.int8\b",
        ),
        ({}, "nothing", r"^--head: .*\bnothing\b.*\bfc\b"),
        ({}, "conv1", r"^--head: .*\bconv1\b.*\[32, 3, 3, 3\].*\bfc\b"),
    ],
)
def test_what_does_not_match_is_refused(
    change: dict[str, Tensor | None], head: str | None, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a long list goes
    whole = {} if len(change) > 2 else resnet()
    tensors = {name: value for name, value in {**whole, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=pattern) as caught:
        match(HERE, tensors, "resnet8", head, 2)
    assert "--image-size" not in str(caught.value)


def test_a_named_head_leaves_the_others_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    tensors = resnet() | {"aux.weight": torch.zeros(5, 3), "aux.bias": torch.zeros(5)}
    with caplog.at_level("INFO"):
        assert match(HERE, tensors, "resnet8", "fc", 2).head == "fc"
    assert "2 tensors are no part of resnet8 and stay as they are: aux.weight, aux.bias" in caplog.text
    assert "aux.weight" not in match(HERE, tensors, "resnet8", "fc", 2).names.values()


@pytest.mark.parametrize(("first", "second"), [("student.", "teacher."), ("", "ema."), ("net.", "net_ema.")])
def test_the_backbone_is_the_one_around_the_head(first: str, second: str) -> None:
    for one, other in ((first, second), (second, first)):
        tensors = {f"{prefix}{name}": value for prefix in (one, other) for name, value in resnet().items()}
        for prefix in (one, other):
            found = match(HERE, tensors, "resnet8", f"{prefix}fc", 2)
            assert found.names == {name: f"{prefix}{name}" for name in resnet()}
    deeper = {f"{second}{name}": value for name, value in resnet("resnet10").items()}
    both = {f"{first}{name}": value for name, value in resnet().items()} | deeper
    assert (resembling(both, f"{first}fc"), resembling(both, f"{second}fc")) == ("resnet8", "resnet10")


def test_a_head_beside_two_backbones_is_refused() -> None:
    backbone = {name: value for name, value in resnet().items() if not name.startswith("fc.")}
    tensors = {f"encoder_{part}.{name}": value for part in "qk" for name, value in backbone.items()}
    tensors |= {"fc.weight": torch.zeros(2, 64), "fc.bias": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"^--head: got fc .*net\.pth.* encoder_q\.\* and encoder_k\.\*"):
        match(HERE, tensors, "resnet8", "fc", 2)


def test_layers_of_a_deeper_network_are_not_left_out_with_a_named_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where all of their names are written
    with pytest.raises(ValueError, match=r"^net\.pth: .*resnet50: .* not expected .*layer3\.\d.*--backbone resnet101"):
        match(HERE, resnet("resnet101"), "resnet50", "fc", 2)


@pytest.mark.parametrize(("count", "named", "file"), [(10, 10, False), (11, 3, True)])
def test_a_long_list_goes_into_a_file(
    count: int, named: int, file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = unmatched(HERE, "resnet8", missing=[f"k{place:02}" for place in range(count)], remedy="--backbone")
    assert (f"k{named - 1:02}" in text, f"k{named:02}" in text) == (True, False)
    assert ((tmp_path / "net.unmapped.txt").is_file(), f"and {count - named} more" in text) == (file, file)


def test_matrices_inside_the_backbone_are_no_last_layer() -> None:
    with pytest.raises(ValueError, match=r"^net\.pth: .*\(inner\).*--head"):
        find_head(HERE, {"inner.weight": torch.zeros(2, 2)}, [])
