"""Labels of other people's loaders mean the classes that the network means by them, or are refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from fastlt import rebalance_model
from fastlt.rebalancing.loaders import check_names, check_order, numbers_of

FOLDERS = ["Ant", "Zebra 10", "Zebra 9", "bee"]
AS_TIMM = ["Ant", "bee", "Zebra 9", "Zebra 10"]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Ten images a class, each showing its class, numbered in an order of names as class folders are."""

    def __init__(self, order: list[str] | None, *, named: bool = True) -> None:
        order = order or FOLDERS
        if named:
            self.class_to_idx = {name: number for number, name in enumerate(order)}
        torch.manual_seed(0)
        self.items = [
            (torch.eye(4)[FOLDERS.index(name)] + 0.1 * torch.randn(4), number)
            for number, name in enumerate(order)
            for _ in range(10)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.items[index]


def network(order: list[str]) -> nn.Module:
    """Return a network that knows the pictures, with its classes in an order."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, len(order), bias=False))
    model[1].weight.data.copy_(torch.eye(4)[[FOLDERS.index(name) for name in order]])
    return model


def wrapped(data: Any) -> Any:
    return DataLoader(Subset(data, range(len(data))), batch_size=8)


def test_the_numbers_of_a_data_set_are_found_within_loaders_and_subsets() -> None:
    assert numbers_of(wrapped(Pictures(AS_TIMM))) == {"Ant": 0, "bee": 1, "Zebra 9": 2, "Zebra 10": 3}
    assert numbers_of(SimpleNamespace(classes=["a", "b"])) == {"a": 0, "b": 1}
    assert numbers_of(wrapped(Pictures(None, named=False))) == numbers_of([(torch.ones(2, 3), torch.ones(2))]) == {}


@pytest.mark.parametrize("order", [FOLDERS, AS_TIMM])
def test_one_order_for_all_is_fine(order: list[str]) -> None:
    data = wrapped(Pictures(order))
    rebalanced = rebalance_model(network(order), data, data, tau=0.5)
    images = torch.eye(4)[[FOLDERS.index(name) for name in order]]
    assert rebalanced(images).argmax(1).tolist() == [0, 1, 2, 3]


def test_val_in_another_order_than_train_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^val: .* 2 of 4 .*bee is 1 there and 3 in train"):
        rebalance_model(network(FOLDERS), wrapped(Pictures(FOLDERS)), wrapped(Pictures(AS_TIMM)), tau=0.5)
    other = Pictures(FOLDERS)
    other.class_to_idx = {"Ant": 0, "Zebra 10": 1, "Zebra 9": 2, "wasp": 3}
    with pytest.raises(ValueError, match=r"^val: .* 1 of 4 .*wasp is 3 there and unknown"):
        rebalance_model(network(FOLDERS), Pictures(FOLDERS), other, tau=0.5)


@pytest.mark.parametrize(
    ("first", "second", "fault"),
    [
        (["Ant", "Zebra 9", "bee"], ["Ant", "bee"], r"bee is 1 and 2"),  # folders without a zebra
        (["Ant", "Zebra 9"], ["Zebra 10", "bee"], r"0 is \w+ \w* ?and .*1 is"),
    ],
)
def test_data_sets_of_train_that_number_classes_in_two_ways_are_refused(
    first: list[str], second: list[str], fault: str
) -> None:
    both = ConcatDataset([Pictures(first), Subset(Pictures(second), range(20))])
    with pytest.raises(ValueError, match=rf"^train: got data sets .*\(.*{fault}.*class_to_idx"):
        check_names(nn.Identity(), DataLoader(both), None)
    with pytest.raises(ValueError, match=r"^val: got other numbers of "):
        check_names(nn.Identity(), Pictures(first), both)


def test_data_sets_of_train_may_lack_classes_and_join_them() -> None:
    more = ConcatDataset([Pictures(FOLDERS[:3]), Pictures(FOLDERS)])
    check_names(nn.Identity(), more, Pictures(FOLDERS))
    joined = [SimpleNamespace(class_to_idx=numbers) for numbers in ({"ant": 0, "bee": 0, "cow": 1}, {"ant": 0})]
    check_names(nn.Identity(), SimpleNamespace(datasets=joined), joined[0])


def test_names_in_the_network_are_compared() -> None:
    model = network(AS_TIMM)
    model.config = SimpleNamespace(id2label=dict(enumerate(AS_TIMM)))  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"^model: .*bee is 1 there and 3 in train"):
        rebalance_model(model, Pictures(FOLDERS), Pictures(FOLDERS), tau=0.5)
    model.config = SimpleNamespace(id2label={0: "LABEL_0"})  # type: ignore[assignment]
    rebalance_model(model, Pictures(AS_TIMM), Pictures(AS_TIMM), tau=0.5)


def test_a_network_whose_classes_timm_sorted_refuses_labels_of_image_folder() -> None:
    for named in (True, False):
        val = Pictures(FOLDERS, named=named)
        with pytest.raises(ValueError, match=r"^train: .* 50\.0%.* timm does .*100\.0%"):
            rebalance_model(network(AS_TIMM), Pictures(FOLDERS), val, tau=0.5)


def test_labels_of_more_classes_than_are_named_tell_no_order() -> None:
    names, labels = SimpleNamespace(classes=["a 10", "a 9"]), np.array([2, 2, 2, 2, 2, 2])
    check_order(names, labels, labels)
    check_order(names, labels // 2, labels)
