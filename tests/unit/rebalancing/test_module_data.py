"""Class counts and features come from the data set, whatever a loader's sampler draws of it."""

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from fastlt import rebalance_model
from fastlt.data import LongTailSampler
from fastlt.features import Features
from fastlt.rebalancing.module_data import class_counts_of, open_source, tell_repeats

COUNTS = [30, 12, 5]
LABELS = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))[
    torch.randperm(47, generator=torch.manual_seed(1))
]
IMAGES = torch.arange(47.0)[:, None].repeat(1, 4)
DATA = TensorDataset(IMAGES, LABELS)


class ClassAware(Sampler[int]):
    """Draws a class, then an image of it."""

    def __iter__(self) -> Iterator[int]:
        for step in range(47):
            yield int(np.random.default_rng(step).choice(np.flatnonzero(LABELS.numpy() == step % 3)))

    def __len__(self) -> int:
        return 47


class Undersampled(Sampler[list[int]]):
    """Batches of other images of every class in each pass, none twice."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(1):
            yield [int(i) for c in range(3) for i in self.rng.permutation(np.flatnonzero(LABELS.numpy() == c))[:4]]

    def __len__(self) -> int:
        return 1


class Endless(Sampler[int]):
    """Never ends."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


def weighted() -> WeightedRandomSampler:
    return WeightedRandomSampler((1 / torch.tensor(COUNTS, dtype=torch.double))[LABELS], 47)


WHOLE: dict[str, Callable[[], Any]] = {
    "plain": lambda: DataLoader(DATA, batch_size=8),
    "data set": lambda: DATA,
    "list of samples": lambda: list(zip(IMAGES, LABELS.tolist(), strict=True)),
    "shuffled, last batch dropped": lambda: DataLoader(DATA, batch_size=10, shuffle=True, drop_last=True),
    "weighted": lambda: DataLoader(DATA, batch_size=8, sampler=weighted()),
    "weighted, in workers": lambda: DataLoader(DATA, batch_size=8, sampler=weighted(), num_workers=1),
    "weighted batches": lambda: DataLoader(DATA, batch_sampler=BatchSampler(weighted(), 8, drop_last=True)),
    "with replacement": lambda: DataLoader(DATA, batch_size=8, sampler=RandomSampler(DATA, replacement=True)),
    "fewer than all": lambda: DataLoader(DATA, batch_size=8, sampler=RandomSampler(DATA, num_samples=20)),
    "ours": lambda: DataLoader(DATA, batch_sampler=LongTailSampler(LABELS, sampling="class_balanced", batch_size=8)),
    "class-aware": lambda: DataLoader(DATA, batch_size=8, sampler=ClassAware()),
    "undersampled": lambda: DataLoader(DATA, batch_sampler=Undersampled()),
    "endless": lambda: DataLoader(DATA, batch_size=8, sampler=Endless()),
    "distributed": lambda: DataLoader(DATA, sampler=DistributedSampler(DATA, num_replicas=3, rank=1)),
    "repeated by a subset": lambda: DataLoader(Subset(DATA, [*range(47), *[3] * 40, 5]), batch_size=8),
    "concatenated with itself": lambda: ConcatDataset([DATA, Subset(DATA, [1, 1, 2]), DATA]),
}


def images_of(data: Any) -> list[float]:
    return torch.cat([images[:, 0] for images, _ in open_source(data, "train").batches]).tolist()


@pytest.mark.parametrize("kind", WHOLE)
def test_every_image_is_taken_once_whatever_is_drawn(kind: str) -> None:
    source = open_source(WHOLE[kind](), "train")
    assert source.is_whole
    parts = list(source.batches)
    assert torch.cat([images[:, 0] for images, _ in parts]).tolist() == list(range(47))
    labels = torch.cat([labels for _, labels in parts]).numpy()
    assert class_counts_of(labels, 3, None, is_whole=source.is_whole).tolist() == COUNTS


def test_a_fixed_choice_of_images_is_kept() -> None:
    chosen = [40, 7, 9, 7]
    weights = torch.zeros(47, dtype=torch.double).index_fill(0, torch.tensor(chosen), 0.5)

    class Fold(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            yield from (9, 40, 7)

    for sampler in (SubsetRandomSampler(chosen), chosen, np.array(chosen), WeightedRandomSampler(weights, 9), Fold()):
        assert images_of(DataLoader(DATA, batch_size=2, sampler=sampler)) == [7, 9, 40]
    assert images_of(DataLoader(DATA, batch_sampler=[[9, 40], [7]])) == [7, 9, 40]
    assert images_of(DataLoader(DATA, sampler=RandomSampler(range(5)))) == [0, 1, 2, 3, 4]
    assert images_of(Subset(Subset(DATA, [5, 9, 40]), [2, 2, 0])) == [40, 5]


def test_what_a_loader_does_to_its_images_is_kept() -> None:
    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([image for image, _ in samples]) + 100, torch.stack([label for _, label in samples])

    class Moving(DataLoader[Any]):
        def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
            for images, labels in super().__iter__():
                yield images * 2, labels

    loader = Moving(DATA, batch_size=20, sampler=weighted(), collate_fn=collate)
    assert images_of(loader) == [2.0 * (number + 100) for number in range(47)]
    assert len(list(loader)) == 3  # it is as it was

    class Shorter(DataLoader[Any]):
        def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
            yield next(super().__iter__())

    with pytest.raises(ValueError, match=r"^train: got 20 images\b.*\b47\b"):
        images_of(Shorter(DATA, batch_size=20))


def test_a_data_set_of_batches_is_taken_once() -> None:
    class Shards(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return IMAGES[10 * index : 10 * index + 10], LABELS[10 * index : 10 * index + 10]

    loader = DataLoader(Shards(), batch_size=None, sampler=[3, 1, 1, 0, 2])
    assert images_of(loader) == list(range(40))


class Stream(IterableDataset[Any]):
    """A stream of single samples."""

    def __iter__(self) -> Iterator[Any]:
        yield from zip(IMAGES, LABELS, strict=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


@pytest.mark.parametrize("kind", ["generator", "loader of a stream", "iterator of a loader"])
def test_class_counts_are_asked_for_where_images_may_repeat(kind: str) -> None:
    def train() -> Any:
        loader = DataLoader(Stream(), batch_size=8)
        return {"generator": ((x, y) for x, y in loader), "loader of a stream": loader}.get(kind, iter(loader))

    settings: dict[str, Any] = {"method": "logit_adjustment", "strength": 1.0, "temperature": False}
    with pytest.raises(ValueError, match=r"^class_counts: got none\b"):
        rebalance_model(network(), train(), DATA, **settings)
    rebalanced = rebalance_model(network(), train(), DATA, class_counts=COUNTS, **settings)
    expected = rebalance_model(network(), DATA, train(), **settings)  # val needs no counts
    torch.testing.assert_close(rebalanced[2].bias, expected[2].bias)


@pytest.mark.parametrize("wrong", [[1, 2], [1.5, 2.0, 3.0], [-1, 2, 3], [0, 0, 0], [9, 0, 9], 3])
def test_class_counts_that_do_not_fit_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^class_counts: got .*\b3 integers\b"):
        rebalance_model(network(), DATA, DATA, class_counts=wrong, tau=1.0)


@pytest.mark.parametrize("kind", ["weighted", "ours", "undersampled", "shuffled, last batch dropped"])
@pytest.mark.parametrize("method", ["logit_adjustment", "tau", "ncm"])
def test_a_reweighting_loader_gives_the_head_of_a_plain_one(method: str, kind: str) -> None:
    settings = {"tau": {"tau": "auto"}, "logit_adjustment": {"strength": "auto"}, "ncm": {}}[method]
    plain = rebalance_model(network(), WHOLE["plain"](), WHOLE["plain"](), method=method, **settings)
    other = rebalance_model(network(), WHOLE[kind](), WHOLE[kind](), method=method, **settings)
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (3, r"^train: got an? int\b"),
        ([IMAGES[0]], r"^train: .*\bTensor\b"),
        ([(IMAGES,)], r"^train: .*\btuple\b"),
        ([(IMAGES, LABELS.float())], r"^train: .*torch\.float32"),
        ([(IMAGES, LABELS[:, None])], r"^train: .*\[47, 1\]"),
    ],
)
def test_what_holds_no_batches_is_refused(wrong: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        images_of(wrong)


@pytest.mark.parametrize("repeated", [True, False])
def test_a_list_of_draws_is_told(repeated: bool, caplog: pytest.LogCaptureFixture) -> None:
    draws = torch.Generator().manual_seed(0)
    images, labels = torch.randn(40, 4, generator=draws), torch.arange(40) % 2
    order = torch.randint(40, (40,), generator=draws) if repeated else torch.randperm(40, generator=draws)
    batches = [(images[part], labels[part]) for part in order.split(8)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    rebalance_model(model, batches, batches, tau=0.5, temperature=False)
    assert ("images are repeated" in caplog.text) is repeated
    caplog.clear()
    rebalance_model(model, batches, batches, tau=0.5, temperature=False, class_counts=[20, 20])
    assert "images are repeated" not in caplog.text


def test_a_look_for_repeats_takes_little_memory(caplog: pytest.LogCaptureFixture) -> None:
    rows = torch.arange(2048.0)[:, None].repeat(1, 512)
    for features in (rows, rows // 2):
        given = Features.of(features, torch.zeros(2048, dtype=torch.int64))
        tracemalloc.start()
        tell_repeats(given)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < given.features.nbytes / 4
    (record,) = caplog.records
    assert "1024 of 2048 images are repeated" in record.getMessage()
