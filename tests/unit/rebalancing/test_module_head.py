"""The last linear layer explains what the network returns, or the network is refused."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlt import rebalance_model
from fastlt.rebalancing.module_head import find_head

CPU = torch.device("cpu")
IMAGES, LABELS = torch.randn(40, 2, 3, generator=torch.manual_seed(2)), torch.arange(40) % 5 // 2
BATCHES = [(IMAGES[:25], LABELS[:25]), (IMAGES[25:], LABELS[25:])]


class Net(nn.Module):
    """Features, a head `fc` of three classes, and what a test makes of both."""

    def __init__(self, ending: Callable[["Net", Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh())
        self.fc, self.aux, self.skip = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(6, 3)
        self.drop, self.ending = nn.Dropout(0.5), ending

    def forward(self, x: Tensor) -> Any:
        self.x = x
        return self.ending(self, self.body(x))


class Cosine(nn.Linear):
    """A linear layer in name only."""

    def forward(self, x: Tensor) -> Tensor:
        return 16 * functional.linear(functional.normalize(x), functional.normalize(self.weight))


def scaled_in_place(net: Net, features: Tensor) -> Tensor:
    return net.fc(features).mul_(30)


GOOD: dict[str, Callable[[Net, Tensor], Any]] = {
    "plain": lambda net, f: net.fc(f),
    "dropout, which rests": lambda net, f: net.drop(net.fc(f)),
    "main and auxiliary": lambda net, f: (net.fc(f), net.aux(f)),
    "features first": lambda net, f: (f, net.fc(f)),
    "model output": lambda net, f: SimpleNamespace(logits=net.fc(f), hidden=net.aux(f)),
    "dictionary": lambda net, f: {"features": f, "out": net.fc(f)},
    "extra dimensions": lambda net, f: net.fc(f[:, None, None])[:, 0, 0],
    "softmax": lambda net, f: net.fc(f).softmax(1),
    "log-softmax": lambda net, f: net.fc(f).log_softmax(1),
    "softmax when not training": lambda net, f: net.fc(f) if net.training else net.fc(f).softmax(-1),
}

BAD: dict[str, tuple[Callable[[Net, Tensor], Any], str]] = {
    "scale": (lambda net, f: 30 * net.fc(f), "30 times"),
    "a little scale": (lambda net, f: 1.01 * net.fc(f), "1.01 times"),
    "scale in place": (scaled_in_place, "30 times"),
    "temperature": (lambda net, f: net.fc(f) / 4, r"0\.25 times"),
    "sigmoid": (lambda net, f: net.fc(f).sigmoid(), "its sigmoid"),
    "softmax of a scale": (lambda net, f: (30 * net.fc(f)).softmax(1), "away"),
    "residual": (lambda net, f: net.fc(f) + net.skip(net.x.flatten(1)), "away"),
    "constant": (lambda net, f: net.fc(f) - torch.tensor([1.0, 2.0, 4.0]), "away"),
    "two heads": (lambda net, f: net.fc(f) + net.aux(f), "away.*, aux .*away"),
    "not a number": (lambda net, f: net.fc(f) * torch.nan, "nan away"),
}


@pytest.mark.parametrize("way", GOOD)
def test_a_head_that_is_followed_by_nothing_or_a_softmax_is_found(way: str) -> None:
    model = Net(GOOD[way]).train()
    rebalanced = rebalance_model(model, BATCHES, BATCHES, tau=1.0, temperature=False)
    before, after = model.state_dict(), rebalanced.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"fc.weight", "fc.bias"}
    expected = model.fc.weight / model.fc.weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(rebalanced.fc.weight, expected)
    assert rebalanced.training
    assert rebalanced.drop.training


def test_a_compiled_network_is_rebalanced_as_it_is_written() -> None:
    net = Net(GOOD["plain"])
    compiled: Any = torch.compile(net, backend="eager")
    before = compiled(IMAGES)
    rebalanced = rebalance_model(compiled, BATCHES, BATCHES, tau=1.0)
    torch.testing.assert_close(rebalanced(IMAGES), rebalance_model(net, BATCHES, BATCHES, tau=1.0)(IMAGES))
    assert torch.equal(compiled(IMAGES), before)


@pytest.mark.parametrize("way", BAD)
def test_a_network_that_changes_what_its_head_computes_is_refused(way: str) -> None:
    ending, words = BAD[way]
    with pytest.raises(ValueError, match=rf"^head: got fc \(.*{words}"):
        rebalance_model(Net(ending), BATCHES, BATCHES, tau=1.0)
    with pytest.raises(ValueError, match=r"^head: got fc \("):
        rebalance_model(Net(ending), BATCHES, BATCHES, tau=1.0, head="fc")


def test_a_named_head_may_be_the_one_of_another_part() -> None:
    model = Net(GOOD["main and auxiliary"])
    assert find_head(model.eval(), IMAGES, CPU, "aux") == "aux"
    with pytest.raises(ValueError, match=r"^model: "):
        find_head(model, IMAGES, CPU, "body.1")  # of another shape


def test_heads_that_cannot_be_told_apart_are_named() -> None:
    model = Net(GOOD["plain"])
    two = Net(lambda net, f: {"a": net.fc(f), "b": net.aux(f)})
    with pytest.raises(ValueError, match=r"^head: .*\bfc, aux; give head="):
        find_head(two.eval(), IMAGES, CPU, None)
    assert find_head(two, IMAGES, CPU, "aux") == "aux"
    with pytest.raises(ValueError, match=r"^head: got last\b.*\bfc\b"):
        find_head(model, IMAGES, CPU, "last")


def test_a_linear_layer_in_name_only_is_refused() -> None:
    model = Net(GOOD["plain"])
    model.fc = Cosine(4, 3)
    with pytest.raises(ValueError, match=r"^head: got fc\b.*\baway\b"):
        rebalance_model(model, BATCHES, BATCHES, tau=1.0)


@pytest.mark.parametrize("way", ["a row for each token", "called twice", "convolution"])
def test_a_network_without_one_row_of_features_an_image_is_refused(way: str) -> None:
    endings: dict[str, Callable[[Net, Tensor], Any]] = {
        "a row for each token": lambda net, f: net.fc(torch.stack([f, 2 * f], 1)).mean(1),
        "called twice": lambda net, f: (net.fc(f) + net.fc(2 * f)) / 2,
        "convolution": lambda net, f: functional.conv1d(f[:, :, None], net.fc.weight[:, :, None])[:, :, 0],
    }
    with pytest.raises(ValueError, match=r"^model: .*\bhead="):
        rebalance_model(Net(endings[way]), BATCHES, BATCHES, tau=1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_compared_in_their_own(dtype: torch.dtype) -> None:
    model = Net(GOOD["plain"]).to(dtype).eval()
    assert find_head(model, IMAGES, CPU, None) == "fc"
    scaled = Net(BAD["scale"][0]).to(dtype).eval()
    with pytest.raises(ValueError, match=r"^head: got fc\b.*\btimes\b"):
        find_head(scaled, IMAGES, CPU, None)
