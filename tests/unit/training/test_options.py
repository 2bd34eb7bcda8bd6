"""Mixup, RandAugment, moving averages, warm-up and the losses' place in the step; all are off by default."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.nn import functional as F

from fastlt.config import TrainConfig
from fastlt.data.sampler import LongTailSampler
from fastlt.data.transforms.mixup import draw_share, neighbours
from fastlt.data.transforms.preprocess import Preprocess
from fastlt.data.transforms.randaugment import OPERATIONS, RandAugment, draw_operations
from fastlt.losses import batch_loss
from fastlt.models import create_model
from fastlt.runtime.distributed import World
from fastlt.schedule import learning_rate
from fastlt.training import loaders
from fastlt.training.ema import MovingAverage, with_cosine_head
from fastlt.training.loaders import Streams
from fastlt.training.step import StepInput, TrainingLoss

CPU = torch.device("cpu")


def picture(size: int = 24) -> np.ndarray:
    coarse = np.random.default_rng(1).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def augmented(name: str, *, magnitude: float, negative: bool = False) -> np.ndarray:
    """One operation on the picture, beside one that does nothing."""
    images = torch.from_numpy(np.stack([picture(), picture()])).float()
    codes = torch.tensor([[2 * OPERATIONS.index(name) + negative], [0]], dtype=torch.uint8)
    changed, same = RandAugment(magnitude)(images, codes)
    torch.testing.assert_close(same, images[1], rtol=0, atol=1e-4)
    return changed.numpy()


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(
    ("name", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("color", ImageEnhance.Color),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
def test_colour_operations_are_pillows(name: str, enhancer: type, negative: bool) -> None:
    strength = -0.27 if negative else 0.27
    expected = np.array(enhancer(Image.fromarray(picture())).enhance(1 + strength)).astype(float)
    got = augmented(name, magnitude=9, negative=negative)
    assert np.abs(got - expected).max() < 1.6  # Pillow works in whole numbers
    assert got.min() >= 0
    assert got.max() <= 255


def test_operations_without_a_sign_are_pillows() -> None:
    image = Image.fromarray(picture())
    # 15 of 30: 8 - 2 bits; half the range; the full stretch of each channel
    np.testing.assert_array_equal(augmented("posterize", magnitude=15), np.array(ImageOps.posterize(image, 6)))
    np.testing.assert_array_equal(augmented("posterize", magnitude=5), np.array(ImageOps.posterize(image, 7)))
    np.testing.assert_array_equal(augmented("solarize", magnitude=15), np.array(ImageOps.solarize(image, 128)))
    at_threshold, solarize = torch.full((1, 4, 4, 3), 204.0), torch.tensor([[2 * OPERATIONS.index("solarize")]])
    assert (RandAugment(6)(at_threshold, solarize) == 255 - 204).all()
    narrow, stretch = torch.full((1, 4, 4, 3), 60.0), torch.tensor([[2 * OPERATIONS.index("autocontrast")]])
    narrow[0, 0, :, 0] = torch.tensor([60.0, 80, 100, 120])
    stretched = RandAugment(9)(narrow, stretch)
    torch.testing.assert_close(stretched[0, 0, :, 0], torch.tensor([0.0, 85, 170, 255]))
    assert (stretched[..., 1:] == 60).all()  # nothing to stretch
    assert np.abs(augmented("autocontrast", magnitude=9) - np.array(ImageOps.autocontrast(image))).max() < 1.01


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_geometric_operations_are_pillows(name: str, negative: bool) -> None:
    size, sign = 24, -1 if negative else 1
    shear, shift = sign * 0.3 / 2, sign * 150 / 331 * size / 2
    angle = np.deg2rad(sign * 15)
    a, b, c, d, e, f = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, shift, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, shift),
        "rotate": (np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0),
    }[name]
    middle = size / 2  # Pillow's coordinates are from the corner
    matrix = (a, b, c + middle * (1 - a - b), d, e, f + middle * (1 - d - e))
    moved = Image.fromarray(picture()).transform(
        (size, size), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
    )
    expected, got = np.array(moved).astype(float), augmented(name, magnitude=15, negative=negative)
    inside = expected.min(2) > 0
    inside[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    inside[[0, -1]] = inside[:, [0, -1]] = False
    assert inside.mean() > 0.3
    assert np.abs(got - expected)[inside].max() < 2


def test_operations_are_a_function_of_seed_and_slot() -> None:
    whole = draw_operations(1000, 64, num_operations=5, seed=7)
    parts = [draw_operations(1000 + at, 16, num_operations=5, seed=7) for at in range(0, 64, 16)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert (whole != draw_operations(1000, 64, num_operations=5, seed=8)).any()
    many = draw_operations(0, 26_000, num_operations=1, seed=0)
    counts = np.bincount(many[:, 0], minlength=2 * len(OPERATIONS))
    assert ((counts - 1000) ** 2 / 1000).sum() < 60  # chi-squared with 25 degrees of freedom: 1 in 10,000 is above


def test_golden_draws() -> None:
    """The streams are a promise: a run that goes on draws what it would have drawn."""
    shares = [draw_share(step, alpha=0.4, seed=9) for step in (0, 1, 2**40)]
    assert shares == pytest.approx([0.9102516060900611, 0.9946491185971372, 0.969833823414934], rel=1e-12)
    five = [[2, 10, 21, 17, 13], [13, 18, 22, 24, 22], [18, 6, 10, 9, 24]]
    assert draw_operations(7, 3, num_operations=5, seed=9).tolist() == five
    assert draw_operations(2**40, 2, num_operations=1, seed=9).tolist() == [[16], [10]]


def test_a_process_draws_by_the_runs_seed_for_its_own_slots() -> None:
    sampler = LongTailSampler(np.arange(20) % 5, batch_size=4, rank=1, world_size=2)
    run = Streams(TrainConfig(mixup=0.4, randaugment=2, seed=9), {}, sampler, World(), CPU)
    operations, share = run.draws(3)
    np.testing.assert_array_equal(operations, draw_operations(3 * 4 + 2, 2, num_operations=2, seed=9))
    assert share is not None
    assert share.item() == pytest.approx(draw_share(3, alpha=0.4, seed=9), rel=1e-6)
    assert Streams(TrainConfig(), {}, sampler, World(), CPU).draws(3) == (None, None)


def test_val_comes_in_pieces_as_large_as_those_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    monkeypatch.setattr(loaders, "train_loader", lambda *_, **__: SimpleNamespace(name="memory"))
    monkeypatch.setattr(loaders, "eval_loader", lambda *_, batch_size, **__: opened.append(batch_size))
    labels = np.arange(96) % 5
    sampler = LongTailSampler(labels, batch_size=24, rank=1, world_size=2)
    for accumulate in (1, 4):
        config = TrainConfig(batch_size=24, accumulate=accumulate)
        Streams(config, {"train": labels, "val": labels}, sampler, World(), CPU).open(0, None)  # type: ignore[dict-item]
    assert opened == [12, 3]


def test_mixup_pairs_neighbours_and_draws_by_step() -> None:
    assert neighbours(torch.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]
    shares = [draw_share(step, alpha=0.4, seed=3) for step in range(2000)]
    assert shares[5] == draw_share(5, alpha=0.4, seed=3) != draw_share(5, alpha=0.4, seed=4)
    assert min(shares) >= 0.5
    # max(x, 1 - x) of Beta(a, a): the variance of x about 1/2 is 1 / (4 (2 a + 1))
    assert np.mean((np.array(shares) - 0.5) ** 2) == pytest.approx(1 / (4 * 1.8), rel=0.06)


def loss_of(config: TrainConfig, **extra: torch.Tensor) -> tuple[torch.Tensor, TrainingLoss]:
    torch.manual_seed(0)
    model = create_model("resnet8", 5).eval()
    module = TrainingLoss(model, Preprocess((0.5,) * 3, (0.25,) * 3), config, CPU, torch.tensor([50, 20, 10, 5, 2]))
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    return module(StepInput(images, torch.tensor([0, 1, 2, 4]), **extra))[0], module


def test_mixup_of_share_one_is_none_and_is_linear_in_the_labels() -> None:
    config = TrainConfig(precision="fp32")
    plain, _ = loss_of(config)
    whole, _ = loss_of(config, mixup_share=torch.tensor(1.0))
    half, _ = loss_of(config, mixup_share=torch.tensor(0.5))
    torch.testing.assert_close(whole, plain)
    assert (half - plain).abs() > 1e-4


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "balanced_softmax", "cb_focal", "ldam"])
def test_the_steps_loss_by_hand(loss: str, mixed: bool) -> None:
    smoothing = 0.0 if loss == "cb_focal" else 0.2
    config = TrainConfig(precision="fp32", loss=loss, label_smoothing=smoothing)
    counts, labels, swapped = torch.tensor([50, 20, 10, 5, 2]), torch.tensor([0, 1, 2, 4]), [1, 0, 3, 2]
    torch.manual_seed(0)
    model = create_model("resnet8", 5).eval()
    torch.nn.init.normal_(model.fc.bias)
    module = TrainingLoss(model, Preprocess((0.5,) * 3, (0.25,) * 3), config, CPU, counts)
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    late, mean_weight, share = torch.tensor(0.9), torch.tensor(0.7, dtype=torch.float64), 0.7 if mixed else 1.0
    mixing = {"mixup_share": torch.tensor(share)} if mixed else {}
    got, hits = module(StepInput(images, labels, epoch_share=late, mean_weight=mean_weight, **mixing))

    x = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    features = model.features(share * x + (1 - share) * x[swapped])
    logits = model.fc(features)
    if loss == "ldam":
        logits = F.normalize(features) @ F.normalize(model.fc.weight).T
    settings = {"epoch_fraction": 0.9, "label_smoothing": smoothing, "mean_weight": mean_weight}
    ours, others = (batch_loss(loss, logits, y, counts, **settings) for y in (labels, labels[swapped]))
    expected = share * ours + (1 - share) * others
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert hits == (logits.argmax(1) == labels).sum()


def test_hits_are_counted() -> None:
    model = create_model("resnet8", 5).eval()
    torch.nn.init.zeros_(model.fc.weight)
    model.fc.bias.data = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    module = TrainingLoss(model, Preprocess((0.5,) * 3, (0.25,) * 3), TrainConfig(precision="fp32"), CPU)
    assert module(StepInput(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.tensor([2, 1, 2, 2])))[1] == 3


def test_ldam_sees_cosines_and_reweights_late() -> None:
    config = TrainConfig(precision="fp32", loss="ldam")
    early, module = loss_of(config, epoch_share=torch.tensor(0.5))
    late, _ = loss_of(config, epoch_share=torch.tensor(0.9))
    assert (late - early).abs() > 1e-3
    x = torch.randn(3, 3, 32, 32)
    cosines = module.logits(x)
    assert cosines.abs().max() <= 1 + 1e-6
    model = module.model
    with torch.no_grad():
        model.fc.bias.copy_(torch.tensor([9.0, -9.0, 5.0, -5.0, 0.0]))  # of no effect on cosines
    nn_bias = model.fc.bias.detach().clone()
    with with_cosine_head(model, enabled=True):
        assert torch.equal(model(x).argmax(1), cosines.argmax(1))
        torch.testing.assert_close(model.fc.norms(), torch.ones(5))
    assert torch.equal(model.fc.bias, nn_bias)


@pytest.mark.parametrize("loss", ["cb_focal", "balanced_softmax"])
def test_other_losses_reach_the_step(loss: str) -> None:
    got, _ = loss_of(TrainConfig(precision="fp32", loss=loss))
    plain, _ = loss_of(TrainConfig(precision="fp32"))
    assert got.isfinite()
    assert (got - plain).abs() > 1e-3


def test_a_moving_average_follows_and_settles() -> None:
    model = create_model("resnet8", 5)
    average = MovingAverage(model, 0.9)
    start = model.conv1.weight.detach().clone()
    with torch.no_grad():
        model.conv1.weight.add_(1)
        model.bn1.num_batches_tracked.add_(4)
    average.update(1)
    # d = (1 + 1) / (10 + 1) in the first step, before the asked-for decay is reached
    torch.testing.assert_close(average.network.conv1.weight, start + 9 / 11)
    assert average.network.bn1.num_batches_tracked == 4
    average.update(1000)
    torch.testing.assert_close(average.network.conv1.weight, start + 1 - 0.9 * 2 / 11)


def test_warm_up_rises_step_by_step_to_the_schedule() -> None:
    config = TrainConfig(epochs=10, lr=0.2, warmup_epochs=2)
    plain = TrainConfig(epochs=10, lr=0.2)
    rates = [learning_rate(config, epoch, done) for epoch in (0, 1) for done in (0.25, 0.5, 0.75, 1.0)]
    assert rates[0] == pytest.approx(0.2 / 8)
    assert rates[-1] == pytest.approx(learning_rate(plain, 1))
    assert rates == sorted(rates)
    assert learning_rate(config, 2, 0.5) == learning_rate(plain, 2)


def test_the_schedule_is_switchable_alone() -> None:
    released = TrainConfig(epochs=10, lr=0.2, protocol="released", schedule="paper")
    assert learning_rate(released, 0) == 0.2
    assert released.draws_per_class == 4
    assert learning_rate(TrainConfig(epochs=10, lr=0.2, schedule="released"), 9) == 0
