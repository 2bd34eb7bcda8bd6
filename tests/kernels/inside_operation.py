"""Register the interpreted launchers for the CPU; take them through opcheck, autograd and torch.compile."""

import torch
import torch.nn.functional as F
from fastlt.kernels import launch_batch_norm, launch_crops, launch_cross_entropy, launch_intervals
from fastlt.kernels import launch_linear as launch

from fastlt import ops
from fastlt.ops import batch_norm, colours, cross_entropy, intervals, linear, ranking

linear._scaled_logits.register_kernel("cpu")(launch.scaled_logits)
linear._scaled_logits_backward.register_kernel("cpu")(launch.scaled_logits_backward)
for name in ("cross_entropy", "cross_entropy_backward"):
    getattr(cross_entropy, f"_{name}").register_kernel("cpu")(getattr(launch_cross_entropy, name))
intervals._intervals.register_kernel("cpu")(launch_intervals.intervals)
intervals._log_norms.register_kernel("cpu")(launch_intervals.log_norms)
ranking._predictions.register_kernel("cpu")(launch.predictions)
ranking._label_rank.register_kernel("cpu")(launch.label_rank)
batch_norm._batch_norm_relu.register_kernel("cpu")(launch_batch_norm.batch_norm_relu)
batch_norm._batch_norm_relu_backward.register_kernel("cpu")(launch_batch_norm.batch_norm_relu_backward)
colours._jittered.register_kernel("cpu")(launch_crops.jittered)

generator = torch.Generator().manual_seed(0)
x, w = (torch.randn(size, generator=generator).requires_grad_() for size in ((9, 5), (7, 5)))
scale, bias = (torch.rand(7, generator=generator).requires_grad_() for _ in range(2))
y = torch.randint(0, 7, (9,), generator=generator)

detached = x.detach(), w.detach()
torch.library.opcheck(linear._scaled_logits, (*detached, scale.detach(), None, None, None))
heads = detached[0], detached[1][None], y, None, None, None, None
torch.library.opcheck(cross_entropy._cross_entropy, (*heads, 0.1, -100, True, 16))
losses, *kept = cross_entropy._cross_entropy(*heads, 0.1, -100, True, 16)
torch.library.opcheck(cross_entropy._cross_entropy_backward, (losses, *heads, *kept, True, [True] * 5))
torch.library.opcheck(intervals._intervals, (*detached, y, bias.detach(), None, True))
torch.library.opcheck(intervals._log_norms, (w.detach(),))
torch.library.opcheck(ranking._label_rank, (*detached, y, None, None))
torch.library.opcheck(ranking._predictions, (*detached, y, bias.detach()))


def loss(*inputs: torch.Tensor) -> torch.Tensor:
    features, weight, s, b = inputs
    value = ops.scaled_cross_entropy(features, weight, y, scale=s, bias=b)
    return value + ops.scaled_logits(features, weight, scale=s, bias=b).square().mean()


def plain(*inputs: torch.Tensor) -> torch.Tensor:
    features, weight, s, b = inputs
    logits = (features @ weight.T + b) * s
    return F.cross_entropy(logits, y) + logits.square().mean()


expected = torch.autograd.grad(plain(x, w, scale, bias), (x, w, scale, bias))
for function in (loss, torch.compile(loss, fullgraph=True)):
    got = torch.autograd.grad(function(x, w, scale, bias), (x, w, scale, bias))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)

pixels = torch.randn(11, 5, generator=generator)
moments = torch.rand(5, generator=generator), torch.rand(5, generator=generator) + 1
torch.library.opcheck(
    batch_norm._batch_norm_relu, (pixels, pixels.clone(), *moments, torch.zeros(5), torch.ones(5), 0.1, 1e-5, True)
)
for y in (pixels.relu(), None):
    second = None if y is None else pixels.flip(0)
    torch.library.opcheck(
        batch_norm._batch_norm_relu_backward,
        (pixels, second, pixels.clone(), y, *moments, moments[0].clone(), moments[1].clone(), 1e-5, True),
    )

squares = torch.randint(0, 256, (6, 5, 7, 3), generator=generator, dtype=torch.uint8)
jitter = 0.6 + 0.8 * torch.rand(6, 3, generator=generator), torch.arange(6, dtype=torch.uint8)
torch.library.opcheck(colours._jittered, (squares, *jitter, [0.1, 0.2, 0.3], [1.0, 2.0, 3.0], torch.float32))
brightened = torch.compile(lambda x: ops.jittered(x, *jitter).permute(0, 3, 1, 2) + 1, fullgraph=True)
for given in (squares, squares.flip(1).transpose(1, 2).contiguous().transpose(1, 2)):
    exact = colours.color_jitter(given.double(), jitter[0].double(), jitter[1]).permute(0, 3, 1, 2) + 1
    torch.testing.assert_close(brightened(given).double(), exact, rtol=1e-5, atol=1e-4)
