"""Fused batch norm: PyTorch's own sequence of operations, exactly, in training and in evaluation."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastlt import ops
from fastlt.models import create_model
from fastlt.models.batch_norm import FusedBatchNorm2d, soften_momentum, use_fused_batch_norm, use_ghost_batch_norm
from fastlt.ops import batch_norm

SHAPE = (3, 5, 4, 2)  # B, C, H, W


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_it_is_pytorchs_batch_norm_with_what_follows(relu: bool, with_residual: bool) -> None:
    x, weight, bias, other = draw(*SHAPE, seed=0) * 3 + 1, draw(5, seed=1), draw(5, seed=2), draw(*SHAPE, seed=3)
    leaves = [t.requires_grad_() for t in (x, weight, bias, other)]
    residual = other if with_residual else None
    out, again, mean, variance = ops.batch_norm_relu(x, weight, bias, residual=residual, relu=relu, eps=1e-3)
    expected = F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-3)
    if with_residual:
        expected = expected + other
    expected = expected.relu() if relu else expected
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(variance, x.var((0, 2, 3), correction=0))
    assert out.is_contiguous(memory_format=torch.channels_last)
    grad, wanted = draw(*SHAPE, seed=4), leaves[: 4 if with_residual else 3]
    second = draw(*SHAPE, seed=5)
    for used, grads in ((out,), (grad,)), ((again,), (grad,)), ((out, again), (grad, second)):
        ours = torch.autograd.grad(used, wanted, grads, retain_graph=True)
        theirs = torch.autograd.grad(expected, wanted, sum(grads), retain_graph=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_ghosts_are_batch_norms_of_consecutive_images() -> None:
    plain = nn.Sequential(nn.BatchNorm2d(5, eps=1e-2, momentum=0.3)).double()
    nn.init.normal_(plain[0].weight)  # type: ignore[arg-type]
    ghost = copy.deepcopy(plain)
    use_ghost_batch_norm(ghost, 2)
    assert list(ghost.state_dict()) == list(plain.state_dict())
    x = draw(6, 5, 4, 3, seed=0) * 3 + 1
    groups = [copy.deepcopy(plain) for _ in range(3)]
    expected = torch.cat([group(x[2 * at : 2 * at + 2]) for at, group in enumerate(groups)])
    torch.testing.assert_close(ghost(x), expected)
    for name in ("running_mean", "running_var"):  # linear in the moments: their mean is where the groups' mean goes
        mean = torch.stack([group.state_dict()[f"0.{name}"] for group in groups]).mean(0)
        torch.testing.assert_close(ghost.state_dict()[f"0.{name}"], mean)
    assert ghost.state_dict()["0.num_batches_tracked"] == 1
    with pytest.raises(ValueError, match=r"^--bn-group: got 2\b.*\b5 images"):
        ghost(x[:5])
    assert ghost.eval()(x[:5]).shape == x[:5].shape


def test_pieces_of_a_batch_move_the_statistics_as_far_as_the_batch() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1, momentum=0.1), nn.BatchNorm2d(1, momentum=None))
    soften_momentum(model, 3)
    statistic = 0.0
    for _ in range(3):
        statistic += (1 - statistic) * model[0].momentum  # type: ignore[operator]
    assert statistic == pytest.approx(0.1)
    assert model[1].momentum is None


def test_the_operation_is_registered_whole() -> None:
    x, weight, bias = draw(6, 5, seed=0), draw(5, seed=1), draw(5, seed=2)
    residual = draw(6, 5, seed=3)
    running = torch.zeros(5).double(), torch.ones(5).double()
    for given, moved in ((residual, (None, None)), (None, running)):
        torch.library.opcheck(batch_norm._batch_norm_relu, (x, given, weight, bias, *moved, 0.1, 1e-5, True))
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        rest = None, None, 0.1, 1e-5, False
        assert torch.autograd.gradcheck(
            lambda x, w, b, given=given, rest=rest: batch_norm._BatchNormReLU.apply(x, given, w, b, *rest)[0], leaves
        )


def test_low_precision_keeps_float32_moments() -> None:
    x = (draw(8, 4, 6, 6, seed=0, dtype=torch.float32) * 0.1 + 10).bfloat16()
    out, _, mean, variance = ops.batch_norm_relu(x, torch.ones(4), torch.zeros(4))
    assert (out.dtype, mean.dtype, variance.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    torch.testing.assert_close(variance, x.float().var((0, 2, 3), correction=0))


def test_what_does_not_fit_is_refused() -> None:
    x, vector = draw(*SHAPE, seed=0), torch.ones(5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^images\b.*\[4\]"):
        ops.batch_norm_relu(x, vector[:4], vector)
    with pytest.raises(ValueError, match=r"^running\b.*\[4\]"):
        ops.batch_norm_relu(x, vector, vector, running=(vector[:4], vector))
    with pytest.raises(ValueError, match=r"^residual\b.*torch\.float32"):
        ops.batch_norm_relu(x, vector, vector, residual=x.float())


@pytest.mark.parametrize("backbone", ["resnet8", "resnet50"])
def test_a_fused_network_trains_as_the_plain_one(backbone: str) -> None:
    torch.manual_seed(0)
    plain = create_model(backbone, 4).double().train()
    fused = copy.deepcopy(plain)
    use_fused_batch_norm(fused)
    assert sum(isinstance(each, FusedBatchNorm2d) for each in fused.modules()) == sum(
        isinstance(each, nn.BatchNorm2d) for each in plain.modules()
    )
    images = draw(4, 3, 32, 32, seed=1)
    losses = []
    for model in (plain, fused):
        loss = model(images).square().mean()
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(*losses)
    for (name, ours), (_, theirs) in zip(fused.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9, msg=name)
    for (name, ours), (_, theirs) in zip(fused.state_dict().items(), plain.state_dict().items(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    torch.testing.assert_close(fused.eval()(images), plain.eval()(images))


def test_a_fused_step_compiles_in_one_graph() -> None:
    model = create_model("resnet8", 3).train()
    use_fused_batch_norm(model)
    model.to(memory_format=torch.channels_last)
    images = draw(4, 3, 16, 16, seed=1, dtype=torch.float32)
    expected = copy.deepcopy(model)(images)
    explained = torch._dynamo.explain(model)(images)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(images), expected)
