"""The order of a checkpoint's classes: told by names, by the images, or by the user."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

FLAGS = ("--image-size", "32", "--eval-resize", "32", "--mean", *["0.5"] * 3, "--std", *["0.25"] * 3, "--tau", "0.7")
NAMES = [f"colour {label}" for label in range(10)]
Tensors = dict[str, Tensor]


def good(tensors: Tensors) -> Path:
    torch.save(tensors, "net.pth")
    return Path("net.pth")


ANIMALS = ("Ant", "Bee", "Zebra 10", "Zebra 9", "ape", "cat", "zebra 8", "zebu", "zorilla", "zz")
"""Class folders, as torchvision sorts them."""
AS_TIMM = ("Ant", "ape", "Bee", "cat", "zebra 8", "Zebra 9", "Zebra 10", "zebu", "zorilla", "zz")


@pytest.fixture
def animals(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the colours under names that timm and torchvision sort differently."""
    root = tmp_path_factory.mktemp("animals")
    for split in ("train", "val", "test"):
        (root / split).mkdir()
        for label, name in enumerate(ANIMALS):
            (root / split / name).symlink_to(colours / split / f"colour {label}", target_is_directory=True)
    return root


def in_order(tensors: Tensors, order: list[int]) -> Tensors:
    """Return tensors with the rows of the head in another order."""
    return tensors | {name: tensors[name][order] for name in ("fc.weight", "fc.bias")}


def as_timm(tensors: Tensors) -> tuple[Tensors, list[int]]:
    """Return tensors with the rows of the head in timm's order, and the colour of each row."""
    order = [ANIMALS.index(name) for name in AS_TIMM]
    return in_order(tensors, order), order


def check_came_back(tensors: Tensors, order: list[int]) -> None:
    """Assert that the classes were told apart, and that the checkpoint came back in the order it came in."""
    row = json.loads(Path("said.json").read_text())["results"][0]
    assert (row["method"], row["all"]["value"] > 90) == ("joint", True)
    new, weight = torch.load("net.tau.pth"), tensors["fc.weight"][order]
    torch.testing.assert_close(new["fc.weight"], weight / weight.norm(dim=1, keepdim=True) ** 0.7)


def test_a_wrong_class_order_is_named_and_repaired(
    fitted: Any, workshop: Path, refusal: Callable[..., str], rebalance_checkpoint: Callable[..., None]
) -> None:
    tensors = dict(fitted("resnet10").tensors)
    order = np.random.default_rng(3).permutation(10).tolist()
    source = good(in_order(tensors, order))
    message = refusal(source, *FLAGS)
    for part in ("net.pth: ", "class order", "--classes", "--force"):
        assert part in message
    Path("names.txt").write_text("\n".join(NAMES[label] for label in order))
    rebalance_checkpoint(source, *FLAGS, "--classes", "names.txt", "--no-temperature", "--json", "said.json")
    check_came_back(tensors, order)


def test_the_images_tell_that_timm_sorted_the_folders(
    fitted: Any,
    workshop: Path,
    animals: Path,
    rebalance_checkpoint: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tensors = dict(fitted("resnet10").tensors)
    changed, order = as_timm(tensors)
    flags = (*FLAGS, "--no-temperature", "--json", "said.json", "--data-root", animals)
    rebalance_checkpoint(good(changed), *flags)
    check_came_back(tensors, order)
    assert "net.pth: classes in timm's order: " in capsys.readouterr().out
    rebalance_checkpoint(good(tensors), *flags)
    check_came_back(tensors, list(range(10)))
    assert "net.pth: classes in the data's order: " in capsys.readouterr().out


def test_an_order_that_the_images_do_not_tell_stops_until_it_is_given(
    fitted: Any, workshop: Path, animals: Path, refusal: Callable[..., str], rebalance_checkpoint: Callable[..., None]
) -> None:
    tensors = dict(fitted("resnet10").tensors)
    blind = tensors | {"fc.weight": torch.zeros_like(tensors["fc.weight"])}
    flags = (*FLAGS, "--no-temperature", "--json", "said.json", "--data-root", animals)
    message = refusal(good(blind), *flags)
    for part in ("net.pth: ", "the data's order (1 Bee, 2 Zebra 10", "timm's order (1 ape, 2 Bee", "--classes timm"):
        assert part in message
    changed, order = as_timm(tensors)
    rebalance_checkpoint(good(changed), *flags, "--classes", "timm")
    check_came_back(tensors, order)


def test_names_beside_the_weights_tell_the_order(
    fitted: Any, workshop: Path, animals: Path, refusal: Callable[..., str], rebalance_checkpoint: Callable[..., None]
) -> None:
    tensors = dict(fitted("resnet10").tensors)
    changed, order = as_timm(tensors)
    flags = (*FLAGS, "--no-temperature", "--json", "said.json", "--data-root", animals)
    numbers = {name: at for at, name in enumerate(AS_TIMM)}
    torch.save({"model": changed, "class_to_idx": numbers}, "net.pth")
    rebalance_checkpoint("net.pth", *flags)
    new = torch.load("net.tau.pth")
    assert new["class_to_idx"] == numbers
    torch.save(new["model"], "net.tau.pth")
    check_came_back(tensors, order)
    torch.save({"model": changed, "class_to_idx": numbers | {"yak": 10}}, "more.pth")
    assert "the data have no yak" in refusal("more.pth", *flags)
