"""The sampler in other people's loops: epochs that are left early, data loaders, process groups and torchrun."""

import itertools
import pickle
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fastlt.data import LongTailSampler

LABELS = np.repeat(np.arange(5), [40, 20, 10, 6, 4])
BATCH = 8
LENGTH = len(LABELS) // BATCH


def make(**options: object) -> LongTailSampler:
    return LongTailSampler(LABELS, sampling="class_balanced", batch_size=BATCH, seed=3, **options)


def place_of(batch: object) -> int:
    """Return the step that a batch is of."""
    sampler = make()
    return next(step for step in range(20 * LENGTH) if np.array_equal(sampler.batch(step), np.asarray(batch)))


def first_places(sampler: LongTailSampler, epochs: int) -> list[int]:
    return [place_of(next(iter(sampler))) for _ in range(epochs)]


class Positions(TensorDataset):
    """Samples that are their own positions."""

    def __init__(self) -> None:
        super().__init__(torch.arange(len(LABELS)))


def leave(loop: str, batches: object) -> list[object]:
    """Take batches as many loops do."""
    if loop == "zip":
        return [batch for _, batch in zip(range(LENGTH), batches, strict=False)]
    if loop == "islice":
        return list(itertools.islice(batches, 4))
    seen = []
    for batch in batches:
        seen.append(batch)
        if len(seen) == 2:
            break
    return seen


@pytest.mark.parametrize("loop", ["zip", "islice", "break"])
def test_a_loop_that_leaves_early_still_sees_a_new_epoch_each_time(loop: str) -> None:
    sampler = make()
    for epoch in range(3):
        taken = leave(loop, sampler)
        assert [place_of(batch) for batch in taken] == [epoch * LENGTH + i for i in range(len(taken))]


@pytest.mark.parametrize(
    "workers", [{}, {"num_workers": 1}, {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 4}]
)
def test_a_loader_begins_an_epoch_per_iteration_however_far_it_fetches_ahead(workers: dict[str, object]) -> None:
    loader = DataLoader(Positions(), batch_sampler=make(), **workers)
    for epoch in range(3):
        taken = [batch for (batch,) in itertools.islice(loader, 3)]
        assert [place_of(batch) for batch in taken] == [epoch * LENGTH + i for i in range(3)]
    assert len(list(loader)) == len(loader) == LENGTH


def test_set_epoch_before_every_epoch_or_only_once() -> None:
    sampler = make()
    for epoch in (0, 1, 2, 2, 7):
        sampler.set_epoch(epoch)
        assert first_places(sampler, 1) == [epoch * LENGTH]
    assert first_places(sampler, 2) == [8 * LENGTH, 9 * LENGTH]


def test_set_epoch_while_an_iteration_runs_leaves_it_alone() -> None:
    sampler = make()
    running = iter(sampler)
    next(running)
    sampler.set_epoch(5)
    assert place_of(next(running)) == 1
    assert first_places(sampler, 1) == [5 * LENGTH]


def test_two_iterations_at_once_are_epochs_of_their_own() -> None:
    pairs = list(zip(sampler := make(), sampler, strict=True))
    assert [(place_of(a), place_of(b)) for a, b in pairs] == [(i, LENGTH + i) for i in range(LENGTH)]
    unused = iter(sampler)
    assert first_places(sampler, 1) == [2 * LENGTH]
    assert place_of(next(unused)) == 3 * LENGTH


@pytest.mark.parametrize("calls_set_epoch", [False, True])
def test_a_resumed_loop_finishes_its_epoch_first(calls_set_epoch: bool) -> None:
    sampler = make()
    sampler.load_state_dict(make().state_dict(step=2 * LENGTH + 3))
    seen = []
    for epoch in range(2, 5):
        if calls_set_epoch:
            sampler.set_epoch(epoch)
        seen += [place_of(batch) for batch in sampler]
    assert seen == list(range(2 * LENGTH + 3, 5 * LENGTH))
    sampler.set_epoch(2)
    assert first_places(sampler, 1) == [2 * LENGTH]


def test_another_epoch_than_the_resumed_one_starts_at_its_first_batch() -> None:
    sampler = make()
    sampler.load_state_dict(make().state_dict(step=LENGTH + 3))
    sampler.set_epoch(4)
    assert first_places(sampler, 1) == [4 * LENGTH]


def test_the_last_epoch_of_a_bounded_training_can_be_repeated() -> None:
    sampler = make(num_steps=LENGTH + 3)
    assert [len(list(sampler)) for _ in range(3)] == [LENGTH, 3, 0]
    sampler.set_epoch(1)
    assert [place_of(batch) for batch in sampler] == [LENGTH, LENGTH + 1, LENGTH + 2]


def join(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    """Make torch.distributed say that this process is one of several."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)


@pytest.mark.parametrize("made", ["before", "after"])
def test_the_rank_is_that_in_the_process_group(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make(rank=0, world_size=1)
    early = make()
    np.testing.assert_array_equal(early.batch(2), whole.batch(2))
    shares = []
    for rank in range(4):
        join(monkeypatch, rank, 4)
        sampler = early if made == "before" else make()
        assert (sampler.rank, sampler.world_size, sampler.local_batch_size) == (rank, 4, 2)
        sampler.set_epoch(0)
        shares.append(next(itertools.islice(sampler, 2, None)))
        assert sampler.first_slot(2) == 2 * BATCH + 2 * rank
        np.testing.assert_array_equal(make(rank=0, world_size=1).batch(2), whole.batch(2))
    np.testing.assert_array_equal(np.concatenate(shares), whole.batch(2))
    assert make().fingerprint == whole.fingerprint


def test_a_batch_that_a_process_group_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    early = make()
    join(monkeypatch, 0, 3)
    for draw in (make, lambda: early.batch(0)):
        with pytest.raises(ValueError, match=r"^world_size: got 3\b.*batch_size 8\b"):
            draw()


class Drawn(IterableDataset):
    """A data set that draws in the worker."""

    def __init__(self, sampler: LongTailSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from self.sampler


def test_a_workers_copy_keeps_the_rank_of_the_process_that_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as inside:
        join(inside, 1, 2)
        pickled = pickle.dumps(pickle.loads(pickle.dumps(Drawn(make()))))
    monkeypatch.setenv("RANK", "1")  # as in a spawned worker under torchrun
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    copy = pickle.loads(pickled)
    np.testing.assert_array_equal(next(iter(copy)), make(rank=1, world_size=2).batch(0))
    with pytest.raises(ValueError, match=r"^world_size: (?=.*init_process_group).*WORLD_SIZE=2\b"):
        make().batch(0)
    assert len(make()) == LENGTH
    assert "LongTailSampler" in repr(make())


def test_without_torch_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch.distributed", raising=False)
    assert make().world_size == 1
    monkeypatch.setitem(sys.modules, "torch.distributed", types.SimpleNamespace(is_available=lambda: False))
    assert (make().rank, make().batch(0).shape) == (0, (BATCH,))
