"""The parts that rebalance any module: its outputs, its batches, its last layer."""

import pytest
import torch
from torch import nn

from fastlt.models import LinearHead
from fastlt.rebalancing.module import batches_of, logits_of, replace_head


def test_logits_are_found_in_whatever_a_network_returns() -> None:
    logits = torch.zeros(2, 3)
    for output in (logits, {"logits": logits}, (logits, "more"), [logits], type("Output", (), {"logits": logits})()):
        assert logits_of(output) is logits
    for output in ({}, (), {"logits": 3}, "text", None):
        assert logits_of(output) is None


def test_batches_come_from_loaders_lists_and_data_sets() -> None:
    images, labels = torch.arange(140.0).view(70, 2), torch.arange(70)
    dataset = torch.utils.data.TensorDataset(images, labels)
    assert [len(y) for _, y in batches_of(dataset, "train")] == [64, 6]
    loader = torch.utils.data.DataLoader(dataset, batch_size=40)
    for data in (loader, iter(loader)):
        assert [len(y) for _, y in batches_of(data, "train")] == [40, 30]
    batches = [(images[:3], labels[:3]), (images[3:4], labels[3:4], "more")]
    assert [y.tolist() for _, y in batches_of(batches, "train")] == [[0, 1, 2], [3]]
    for wrong, pattern in (
        (3, r"^train: got an? int\b"),
        ([images[0]], r"^train: .*\bTensor\b"),
        ([(images,)], r"^train: .*\btuple\b"),
        ([(images, labels.float())], r"^train: .*torch\.float32"),
        ([(images, labels[:, None])], r"^train: .*\[70, 1\]"),
    ):
        with pytest.raises(ValueError, match=pattern):
            list(batches_of(wrong, "train"))


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
