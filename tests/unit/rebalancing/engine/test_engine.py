"""The engine that trains many classifiers at once, and its features: in memory, in files, of several views."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastlt import RebalanceConfig
from fastlt.data.sampler import LongTailSampler
from fastlt.features import arrays
from fastlt.features.arrays import Features
from fastlt.models import LinearHead
from fastlt.rebalancing.engine import batches, cached, cost, sgd
from fastlt.rebalancing.engine.batches import FeatureBatches
from fastlt.rebalancing.engine.cached import check_features, train_grid, trainings
from fastlt.rebalancing.engine.grids import CosineGrid, HeadGrid, LinearGrid, ScaleGrid, new_head
from fastlt.rebalancing.engine.selection import select_head
from fastlt.rebalancing.engine.sgd import GridSGD, HeadTraining, Setting
from fastlt.rebalancing.methods.crt import CRT
from fastlt.rebalancing.methods.lws import LWS
from fastlt.rebalancing.problem import Problem
from fastlt.schedule import cosine

CPU = torch.device("cpu")
C, D = 6, 8
LABELS = np.repeat(np.arange(C), [60, 30, 15, 8, 4, 3])
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(C, D)) * 2
FEATURES = (CENTRES[LABELS] + RNG.normal(size=(len(LABELS), D))).astype(np.float32)
TRAIN = Features(features=FEATURES, labels=LABELS)
TRAINING = HeadTraining(
    sampling="class_balanced",
    samples_per_class=1,
    batch_size=24,
    epochs=3,
    protocol="paper",
    seed=1,
    settings=(Setting(0.1, 0.0), Setting(0.1, 0.01), Setting(0.5, 0.0), Setting(0.5, 0.01)),
)


def problem() -> Problem:
    generator = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(C, D, generator=generator), torch.randn(C, generator=generator))
    return Problem.of_features(head, TRAIN)


def as_bf16(array: np.ndarray) -> np.ndarray:
    return torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view(np.uint16)


def grid_of(kind: str, num_settings: int) -> HeadGrid:
    head = problem().head
    if kind == "scale":
        return ScaleGrid(head, num_settings)
    new = new_head(head, 1)
    if kind == "unit":
        return CosineGrid(new, num_settings, scale=8.0)
    return LinearGrid(new, num_settings, radius=0.7 if kind == "ball" else None)


def trained(kind: str, training: HeadTraining) -> HeadGrid:
    grid = grid_of(kind, len(training.settings))
    train_grid(grid, training, problem())
    return grid


@pytest.mark.parametrize("kind", ["linear", "ball", "unit", "scale"])
def test_a_grid_is_its_heads_one_by_one(kind: str) -> None:
    together = trained(kind, TRAINING)
    for index, setting in enumerate(TRAINING.settings):
        alone = trained(kind, dataclasses.replace(TRAINING, settings=(setting,)))
        for a, b in zip(together.head(index).parameters(), alone.head(0).parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not torch.equal(together.head(0).weight, together.head(1).weight)


def test_a_callers_autocast_does_not_lower_the_precision_of_logits() -> None:
    expected = trained("scale", TRAINING).head(3).weight
    with torch.autocast("cpu", torch.bfloat16):
        got = trained("scale", TRAINING).head(3).weight
    assert torch.equal(got, expected)


def test_the_ball_holds_every_class() -> None:
    assert trained("ball", TRAINING).head(2).norms().max() <= 0.7 * (1 + 1e-6)


def test_the_folded_unit_head_predicts_as_its_cosines() -> None:
    grid = trained("unit", TRAINING)
    x = torch.from_numpy(FEATURES)
    cosines = grid.logits(grid.inputs(x))
    for index in (0, 3):
        torch.testing.assert_close(grid.head(index)(x) / x.norm(dim=1, keepdim=True), cosines[index])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_files_give_what_memory_gives(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = []
    for view in range(3):
        array = FEATURES + view
        np.save(tmp_path / f"{view}.npy", as_bf16(array) if precision == "bf16" else array)
        views.append(Features(features=np.load(tmp_path / f"{view}.npy", mmap_mode="c"), labels=LABELS))
    sampler = TRAINING.sampler(LABELS, C)
    for number in (3, 1):
        monkeypatch.setattr(batches, "free_bytes", lambda device: 2**30)
        resident = FeatureBatches(views[:number], CPU)
        monkeypatch.setattr(batches, "free_bytes", lambda device: 0)
        mapped = FeatureBatches(views[:number], CPU)
        assert resident.table is not None
        assert mapped.table is None
        pairs = zip(resident.epoch(sampler, 1, 4), mapped.epoch(sampler, 1, 4), strict=True)
        for step, ((rows, labels), (features, other_labels)) in enumerate(pairs, len(sampler)):
            assert features.dtype == torch.float32
            assert torch.equal(resident.table[rows].float(), features)
            assert labels.tolist() == other_labels.tolist() == LABELS[sampler.batch(step)].tolist()


def test_memory_that_pytorch_keeps_unused_is_free_to_features(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = {"mem_get_info": (10, 80), "memory_reserved": 60, "memory_allocated": 20}
    for name, value in memory.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert batches.free_bytes(torch.device("cuda")) == 10 + 40


def test_every_image_comes_as_any_of_its_views() -> None:
    views = [Features(features=np.full((50, 2), view, np.float32), labels=np.zeros(50, np.int64)) for view in range(3)]
    source = FeatureBatches(views, CPU)
    sampler = LongTailSampler(views[0].labels, sampling="instance_balanced", batch_size=50, num_classes=1)

    def drawn_at(seed: int, step: int) -> torch.Tensor:
        ((rows, _),) = source.epoch(sampler, step, seed)
        assert source.table is not None
        return source.table[rows][np.argsort(sampler.batch(step)), 0]

    drawn = torch.stack([drawn_at(0, step) for step in range(40)])
    shares = torch.bincount(drawn.long().flatten(), minlength=3) / drawn.numel()
    assert ((shares - 1 / 3).abs() < 0.05).all()
    assert all(len(drawn[:, image].unique()) == 3 for image in range(50))
    assert torch.equal(drawn_at(0, 7), drawn[7])  # the step decides
    assert not torch.equal(drawn_at(1, 7), drawn[7])  # and the seed


def test_the_best_of_a_grid_is_chosen_where_it_is_scored() -> None:
    grid, settings = trained("linear", TRAINING), TRAINING.settings
    x = torch.from_numpy(FEATURES)
    scores = []
    for index in range(len(settings)):
        right = (grid.head(index)(x).argmax(1).numpy() == LABELS).astype(float)
        scores.append(np.mean([right[c == LABELS].mean() for c in range(C)]))
    result = select_head(grid, TRAINING, problem(), RebalanceConfig(method="crt"), extra=1.0)
    best = settings[int(np.argmax(scores))]
    assert result.params == {"extra": 1.0, "lr": best.lr, "weight_decay": best.weight_decay}
    assert result.selected_on == "train"
    assert problem().accuracy(result.head, "class_mean") == pytest.approx(max(scores))


def test_a_diverged_setting_loses_and_all_diverged_is_an_error() -> None:
    training = dataclasses.replace(TRAINING, settings=(Setting(1e30, 1.0), Setting(0.1, 0.0)), epochs=6)
    result = select_head(trained("linear", training), training, problem(), RebalanceConfig(method="crt"))
    assert result.params["lr"] == 0.1
    training = dataclasses.replace(training, settings=training.settings[:1])
    with pytest.raises(ValueError, match=r"^--lr: .*\b1e\+30\b"):
        trained("linear", training)


def test_groups_are_those_of_the_training_images_wherever_settings_are_chosen() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(C).repeat(12)
    predicted = np.where(rng.random(12 * C) < 0.5, labels, rng.integers(C, size=12 * C))
    selection = Features(features=np.eye(D, dtype=np.float32)[predicted], labels=labels)
    counts = np.array([200, 150, 50, 30, 9, 8])
    tailed = dataclasses.replace(problem(), selection=selection, selected_on="val", class_counts=counts)
    right = predicted == labels
    for name, members in (("many", labels < 2), ("medium", labels // 2 == 1), ("few", labels > 3)):
        assert tailed.accuracy(LinearHead(torch.eye(C, D)), name) == pytest.approx(right[members].mean())


def test_a_group_without_images_cannot_choose() -> None:
    with pytest.raises(ValueError, match=r"^--select-by: got many\b.*class_mean"):
        problem().accuracy(problem().head, "many")


def test_features_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^features: .*\b8\b.*\b5\b"):
        check_features((TRAIN,), LinearHead(torch.zeros(C, 5)))
    with pytest.raises(ValueError, match=r"^features: .*class 6\b"):
        check_features((TRAIN,), LinearHead(torch.zeros(C + 1, D)))
    with pytest.raises(ValueError, match=r"^labels: got class 5\b"):
        check_features((TRAIN,), LinearHead(torch.zeros(C - 1, D)))


MANY_CLASSES = """
import resource, sys
import numpy as np, torch
from pathlib import Path
from fastlt import RebalanceConfig
from fastlt.features.arrays import Features
from fastlt.models import LinearHead
from fastlt.data.sampler import LongTailSampler
from fastlt.rebalancing.engine import batches, cost
from fastlt.rebalancing.methods.registry import fit
from fastlt.rebalancing.methods.crt import CRT
from fastlt.rebalancing.problem import Problem

C, D = 8142, 2048
path = Path(sys.argv[1])
rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(60_000, D))  # 246 MB, all of it a hole
rng = np.random.default_rng(0)
labels = np.concatenate([np.arange(C), rng.integers(C, size=len(rows) - C)])
del rows
train = Features(features=np.load(path, mmap_mode="c"), labels=labels)
batches.free_bytes = lambda device: 0  # from the file, row by row
head = LinearHead(torch.zeros(C, D), torch.zeros(C))
few = Features(features=np.zeros((8, D), np.float32), labels=np.arange(8))
problem = Problem(head=head, train=(train,), selection=few, selected_on="val",
                  class_counts=np.bincount(labels), device=torch.device("cpu"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
LongTailSampler.__len__ = lambda self: 1  # two steps instead of two epochs
for method in ("crt", "lws"):
    head = fit(problem, RebalanceConfig(method=method, epochs=2))[method].head
    assert head.weight.shape == (C, D) and torch.isfinite(head.weight).all()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_inaturalists_classes_take_bounded_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY_CLASSES, str(tmp_path / "features.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    # A head of 67 MB, its momentum and gradients, and logits of 17 MB; the features of 246 MB are never held
    assert float(done.stdout) < 700


@pytest.mark.parametrize("resident", [True, False])
def test_a_step_does_not_wait_for_the_gpu_to_be_told_its_images(
    resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[int] = []

    def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(tensor.numel())
        return tensor.to(device)

    monkeypatch.setattr(batches, "on_device", on_device)
    monkeypatch.setattr(arrays, "on_device", on_device)
    monkeypatch.setattr(batches, "free_bytes", lambda device: 2**30 if resident else 0)
    trained("linear", TRAINING)
    steps = len(LABELS) // TRAINING.batch_size
    features = [24 * steps] if resident else [24 * D] * steps  # which rows, or what is in them
    epoch = [24 * steps, *features]
    assert moved == epoch * TRAINING.epochs


def test_trainings_that_may_go_on_end_at_a_budget_that_every_machine_shares() -> None:
    def epochs(num_classes: int, num_images: int, width: int, dataset: str = "folder", **settings: object) -> list[int]:
        features = Features(
            features=np.zeros((num_images, width), np.float32), labels=np.arange(num_images) % num_classes
        )
        head = LinearHead(torch.zeros(num_classes, width), torch.zeros(num_classes))
        problem = dataclasses.replace(Problem.of_features(head, features), dataset=dataset)
        config = RebalanceConfig(method="crt", **settings)  # type: ignore[arg-type]
        return [training.epochs for training in trainings(CRT, problem, config)]

    assert epochs(12, 300, 32) == [10, 20, 40, 80]
    assert epochs(12, 300, 32, epochs=4) == [4]
    assert epochs(3, 300, 32, "imagenet_lt") == [10]
    assert epochs(1000, 10_000, 512) == [10, 20]
    assert epochs(1000, 10_000, 512, lr=(0.1, 0.2, 0.3)) == [10]
    assert epochs(2, 500_000, 1, batch_size=64) == [10]  # many small steps


def test_an_estimate_of_time_counts_the_trainings_that_may_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second here, and an epoch is one step."""
    clock = iter((0.0, 0.0, 10.0, 12.0) * 4)  # what precedes the trained part takes no time
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    given = {"method": "crt", "batch_size": len(LABELS)}
    assert cost.training_seconds(CRT, problem(), RebalanceConfig(**given)) == 10 + 20 + 40 + 80
    assert cost.training_seconds(CRT, problem(), RebalanceConfig(**given, epochs=7)) == 7
    assert cost.training_seconds(CRT, problem(), RebalanceConfig(**given, epochs=7), by_folds=True) == 7 * 6
    assert cost.training_seconds(CRT, problem(), RebalanceConfig(**given, epochs=7, lr=(0.1, 0.2))) == 7 * 11


@pytest.mark.parametrize(("memory", "seconds"), [(2**30, 3 * 3 + 1 * 2), (0, 3 * 3 + 3 * 2)])
def test_an_estimate_knows_what_is_computed_once(memory: int, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch's logits take two seconds, a step on them three, and each of three epochs is a step."""
    clock = iter((0.0, 4.0, 10.0, 16.0))
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(cached, "free_bytes", lambda device: memory)
    config = RebalanceConfig(method="lws", batch_size=len(LABELS), epochs=3)
    assert cost.training_seconds(LWS, problem(), config) == seconds


def test_kept_logits_train_as_those_of_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    views = tuple(Features(features=FEATURES + view, labels=LABELS) for view in range(2))
    heads, rows = [], []
    inputs = ScaleGrid.inputs

    def counted(self: ScaleGrid, features: torch.Tensor) -> torch.Tensor:
        rows.append(len(features))
        return inputs(self, features)

    monkeypatch.setattr(ScaleGrid, "inputs", counted)
    monkeypatch.setattr(Features, "rows", None)  # all are on the device, so none is read from a file again
    for memory in (2**30, 0):
        monkeypatch.setattr(cached, "free_bytes", lambda device, memory=memory: memory)
        grid = grid_of("scale", 4)
        train_grid(grid, TRAINING, dataclasses.replace(problem(), train=views))
        heads.append(grid.head(3).weight)
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-6, atol=1e-7)
    assert rows == [240] + [24] * 15  # all views once; every batch of three epochs
    rows.clear()
    many = dataclasses.replace(problem(), train=views * 2)  # more rows than draws
    train_grid(grid_of("scale", 4), TRAINING, many)
    assert rows == [24] * 15


@pytest.mark.parametrize("kind", ["linear", "ball", "unit", "scale"])
def test_fused_losses_train_as_plain_ones(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU trains by, here with the reference in place of the kernels."""
    changes = [{}, {"label_smoothing": 0.9}, {"loss": "balanced_softmax"}] if kind != "scale" else [{}]
    for change in changes:
        training = dataclasses.replace(TRAINING, **change)  # type: ignore[arg-type]
        plain = trained(kind, training)
        with monkeypatch.context() as patch:
            patch.setattr(sgd, "has_kernels", lambda tensor: True)
            patch.setattr(sgd, "batch_loss", None)
            fused = trained(kind, training)
        for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "ball"])
def test_a_copy_for_products_follows_the_weights(kind: str) -> None:
    grid = grid_of(kind, 4)
    optimizer = GridSGD(grid, TRAINING, torch.from_numpy(problem().class_counts))
    grid.multiply_in(torch.bfloat16)
    for epoch in range(2):
        optimizer.begin(epoch)
        optimizer.learn(torch.from_numpy(FEATURES), torch.from_numpy(LABELS))
        weight, factor = grid.parameters()[0], grid.leaves()[0]
        assert torch.equal(factor, weight.bfloat16())
    plain = trained_on_all(kind)
    torch.testing.assert_close(grid.parameters()[0], plain.parameters()[0], rtol=0.05, atol=0.02)


def trained_on_all(kind: str) -> HeadGrid:
    """Two steps on all images, as plain SGD takes them."""
    grid = grid_of(kind, 4)
    optimizer = GridSGD(grid, TRAINING, torch.from_numpy(problem().class_counts))
    for epoch in range(2):
        optimizer.begin(epoch)
        optimizer.learn(torch.from_numpy(FEATURES), torch.from_numpy(LABELS))
    return grid


def test_steps_are_those_of_pytorchs_optimizer() -> None:
    grid = trained_on_all("linear")
    for index, (rate, decay) in enumerate(TRAINING.settings):
        head = new_head(problem().head, 1)
        weight, bias = (torch.zeros(C) if p is None else p.detach().clone() for p in (head.weight, head.bias))
        optimizer = torch.optim.SGD([weight.requires_grad_(), bias.requires_grad_()], rate, 0.9, weight_decay=decay)
        for epoch in range(2):
            optimizer.param_groups[0]["lr"] = rate * cosine(epoch, TRAINING.epochs)
            logits = torch.nn.functional.linear(torch.from_numpy(FEATURES), weight, bias)
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS)).backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.testing.assert_close(grid.head(index).weight, weight.detach())
