"""The share of training that waits for data, on clocks of our own."""

from collections.abc import Iterator

import pytest
import torch

from fastlt.runtime.signals import Signals
from fastlt.training import data_wait
from fastlt.training.data_wait import DataWait


class Clock:
    """Stands in for the module `time`, and for the clock of a GPU's stream."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(data_wait, "time", clock)
    return clock


def slow(clock: Clock, seconds: float) -> Iterator[int]:
    for number in range(4):
        clock.now += seconds
        yield number


def test_on_a_cpu_it_is_the_time_in_the_loader(clock: Clock) -> None:
    wait = DataWait(torch.device("cpu"))
    seen = []
    for batch in wait.watch(slow(clock, 3.0), Signals()):  # type: ignore[arg-type]
        seen.append(batch)
        clock.now += 1.0
    wait.read()
    assert seen == [0, 1, 2, 3]
    assert wait.share() == pytest.approx(12 / 16)
    wait.begin_epoch()
    assert wait.share() == 0
    clock.now += 5.0
    assert wait.share() == 0


def test_on_a_gpu_it_is_the_time_that_the_stream_stands_still(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Clock()

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.at: float | None = None

        def record(self, _stream: object) -> None:
            self.at = stream.now

        def elapsed_time(self, other: "Event") -> float:
            assert self.at is not None
            assert other.at is not None
            return 1000 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("the step must not wait for the GPU"))
    wait = DataWait(torch.device("cuda"))
    for _ in wait.watch(slow(clock, 1.0), Signals()):  # type: ignore[arg-type]
        stream.now += 0.25  # the GPU is behind: the host's wait costs it nothing
    wait.read()
    assert wait.share() == 0

    wait.begin_epoch()

    def starved() -> Iterator[int]:
        for number in slow(clock, 1.0):
            stream.now += 0.5
            yield number

    for _ in wait.watch(starved(), Signals()):  # type: ignore[arg-type]
        pass
    assert wait.share() == 0  # not read yet
    wait.read()
    assert wait.share() == pytest.approx(0.5)
