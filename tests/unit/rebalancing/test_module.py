"""A layer takes the numbers of a rebalanced head."""

import pytest
import torch
from torch import nn

from fastlt.models import LinearHead
from fastlt.rebalancing.module import replace_head


@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_takes_a_heads_numbers_in_its_own_dtype(frozen: bool) -> None:
    weight, bias = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0, 6.0])
    layer = nn.Linear(2, 2).bfloat16().requires_grad_(not frozen)
    replace_head(layer, LinearHead(weight, bias), "fc")
    assert (layer.weight.tolist(), layer.bias.tolist()) == (weight.tolist(), bias.tolist())
    assert layer.weight.dtype == layer.bias.dtype == torch.bfloat16
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (not frozen, not frozen)
    replace_head(layer, LinearHead(weight), "fc")
    assert layer.bias.tolist() == [0, 0]  # a bias that it need not have
    bare = nn.Linear(2, 2, bias=False).requires_grad_(not frozen)
    replace_head(bare, LinearHead(weight, torch.zeros(2)), "fc")
    assert bare.bias is None
    replace_head(bare, LinearHead(weight, bias), "fc")
    assert bare.bias.tolist() == bias.tolist()
    assert bare.bias.requires_grad is not frozen


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_numbers_beyond_the_layers_dtype_are_refused(part: str) -> None:
    layer = nn.Linear(2, 2).half()
    before = [parameter.clone() for parameter in layer.parameters()]
    numbers = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    numbers[part] *= 1e5
    numbers[part] += 1e5
    with pytest.raises(ValueError, match=r"^model: got a rebalanced fc of up to .*e\+05; .*float16.*temperature=False"):
        replace_head(layer, LinearHead(**numbers), "fc")
    assert all(map(torch.equal, layer.parameters(), before))
