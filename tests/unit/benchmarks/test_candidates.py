"""Rewritings of a network under measurement compute the same as the network, to float64."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastlt.data.transforms import preprocess
from fastlt.models import create_model

NAMES = (
    "1x1 as products",
    "groups of 16 channels",
    "groups of 32 channels",
    "groups of 64 channels",
    "batch norm by kernel",
    "blocks recomputed",
    "weights cast together",
    "fewest launches and bytes",
)


@pytest.fixture(scope="module")
def candidates(script: Callable[[str], Any]) -> Any:
    return script("gpu.candidates")


def outcome(model: torch.nn.Module) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits, and the gradients of their squares with the running statistics."""
    images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = model(images.contiguous(memory_format=torch.channels_last))
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    return logits.detach(), [*gradients, *(buffer for buffer in model.buffers() if buffer.is_floating_point())]


@pytest.fixture(scope="module")
def expected() -> tuple[torch.Tensor, list[torch.Tensor]]:
    return outcome(network())


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("resnext50_32x4d", 7).double().to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_gradients_are_the_networks(
    name: str, candidates: Any, expected: tuple[torch.Tensor, list[torch.Tensor]]
) -> None:
    model = network()
    parameters = {key: value.shape for key, value in model.named_parameters()}
    kinds = Counter(type(module) for module in model.modules())
    candidates.CANDIDATES[name](model)
    assert Counter(type(module) for module in model.modules()) != kinds
    assert {key: value.shape for key, value in model.named_parameters()} == parameters
    logits, others = outcome(model)
    torch.testing.assert_close(logits, expected[0], rtol=1e-9, atol=1e-9)
    for found, wanted in zip(others, expected[1], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7 * wanted.abs().max().item())


def test_weights_that_are_cast_together_get_their_gradients_in_float32(candidates: Any) -> None:
    torch.manual_seed(0)
    plain = create_model("resnet8", 7).to(memory_format=torch.channels_last)
    together = copy.deepcopy(plain)
    candidates.cast_together(together)
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    for model in (plain, together):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(images).float().square().sum().backward()
    for (name, ours), (_, theirs) in zip(together.named_parameters(), plain.named_parameters(), strict=True):
        assert ours.grad is not None
        assert ours.grad.dtype is torch.float32
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_all_are_tested(candidates: Any) -> None:
    assert set(candidates.CANDIDATES) == {"as it is", *NAMES}


@pytest.mark.parametrize(("width", "groups"), [(32, 4), (64, 2), (100, 1), (1000, 1), (1, 32)])
def test_groups_are_merged_to_a_width(candidates: Any, width: int, groups: int) -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(128, 128, 3, groups=32))
    candidates.merge_groups(layer, width)
    assert layer[0].groups == groups


def test_a_candidate_is_timed_in_two_blocks_a_stage(candidates: Any) -> None:
    assert candidates.change_of("") is None
    as_it_is, products = network(), network()
    candidates.change_of("as it is")(as_it_is)
    candidates.change_of("1x1 as products")(products)
    for short in (as_it_is, products):
        assert [len(stage) for stage in (short.layer1, short.layer2, short.layer3, short.layer4)] == [2] * 4
    replaced = [module for module in products.modules() if isinstance(module, candidates.PointwiseAsProduct)]
    assert len(replaced) == 2 * 8 + 4  # a block's two, and a shortcut for each stage


def test_inductor_has_the_settings_of_candidates(candidates: Any) -> None:
    from torch._inductor import config

    before = config.get_config_copy()
    for name, settings in candidates.INDUCTOR.items():
        with candidates.settings_of(name):
            now = config.get_config_copy()
            assert {key: now[key] for key in settings} == settings
            assert {key: before[key] for key in settings} != settings
    with candidates.settings_of("as it is"):
        assert config.get_config_copy() == before


def test_the_jitter_is_left_to_the_compiler_in_its_candidate(candidates: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "has_kernels", lambda images: True)
    images = torch.zeros(1, dtype=torch.uint8)
    with candidates.settings_of(candidates.BY_INDUCTOR):
        assert not preprocess.has_kernels(images)
    assert preprocess.has_kernels(images)


def test_the_gradient_of_pooling_is_left_to_inductor_in_its_candidate(candidates: Any) -> None:
    from torch._inductor.decomposition import select_decomp_table

    before = dict(select_decomp_table())
    with candidates.settings_of(candidates.GATHERED):
        assert torch.ops.aten.max_pool2d_with_indices_backward.default not in select_decomp_table()
    assert select_decomp_table() == before
