"""DALI's batches outlive the kernels that read them."""

import weakref
from typing import Any

import pytest
import torch

pytest.importorskip("nvidia.dali")

from fastlt.data.loaders.dali_graph import MOST_IN_USE, InUse


class Stream:
    """A GPU's stream that has reached as many of its events as it is told."""

    def __init__(self) -> None:
        self.recorded = self.reached = 0

    def record_event(self) -> Any:
        self.recorded += 1
        number, stream = self.recorded, self

        class Event:
            def query(self) -> bool:
                return number <= stream.reached

            def synchronize(self) -> None:
                stream.reached = max(stream.reached, number)

        return Event()

    def synchronize(self) -> None:
        self.reached = self.recorded


def add(in_use: InUse, stream: Stream, number: int) -> list[weakref.ref[torch.Tensor]]:
    """Hand over batches of which only the pipeline has hold then."""
    kept = []
    for _ in range(number):
        batch = torch.zeros(1)
        kept.append(weakref.ref(batch))
        in_use.add(batch, stream)  # type: ignore[arg-type]
    return kept


def test_a_batch_stays_until_the_gpu_has_read_it() -> None:
    in_use, stream = InUse(), Stream()
    kept = add(in_use, stream, 4)
    assert [each() is not None for each in kept] == [True] * 4
    stream.reached = 2
    batch = torch.zeros(1)
    in_use.add(batch, stream)  # type: ignore[arg-type]
    assert [each() is not None for each in kept] == [False, False, True, True]
    in_use.wait(stream)  # type: ignore[arg-type]
    assert [each() is not None for each in kept] == [False] * 4
    assert stream.reached == stream.recorded


def test_the_host_waits_for_a_gpu_that_is_far_behind() -> None:
    in_use, stream = InUse(), Stream()
    kept = add(in_use, stream, 8)
    assert sum(each() is not None for each in kept) == MOST_IN_USE + 1
    assert stream.reached == 3
