"""Batches made one ahead on a side stream, on a model of a GPU whose streams run as late or as early as they may."""

import contextlib
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fastlt.data.loaders import side_stream
from fastlt.data.loaders.base import Batch, PlannedLoader
from fastlt.data.loaders.side_stream import one_ahead

GPU = torch.device("cuda", 7)


class Event:
    """A place in a stream."""

    def __init__(self, *, blocking: bool = False) -> None:
        self.blocking, self.done = blocking, False
        self.stream: Stream

    def synchronize(self) -> None:
        assert self.blocking, "a spinning host takes a processor from the loader"
        self.stream.run_until(self)


class Stream:
    """Work in order; an eager one does it as soon as it may, a lazy one when somebody waits for it."""

    def __init__(self, eager: bool) -> None:
        self.eager, self.queue = eager, deque[Any]()
        self.other = self

    def put(self, work: Any) -> None:
        self.queue.append(work)
        self.advance()

    def advance(self) -> None:
        """Do what may be done, of a lazy stream only what takes no time: events, and waits that are over."""
        while self.queue and not self.is_blocked() and (self.eager or not callable(self.queue[0])):
            self.step()

    def is_blocked(self) -> bool:
        return isinstance(self.queue[0], tuple) and not self.queue[0][0].done

    def step(self) -> None:
        work = self.queue.popleft()
        if isinstance(work, Event):
            work.done = True
            self.other.advance()
        elif callable(work):
            work()

    def run_until(self, event: Event) -> None:
        while not event.done:
            if self.is_blocked():
                self.queue[0][0].stream.run_until(self.queue[0][0])
            else:
                self.step()
        self.advance()

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.stream = self
        self.put(event)
        return event

    def wait_event(self, event: Event) -> None:
        self.put((event,))

    def wait_stream(self, other: "Stream") -> None:
        self.wait_event(other.record_event())

    def finish(self) -> None:
        self.run_until(self.record_event())


class Machine:
    """Stands in for torch.cuda, with a memory that hands a block out again as PyTorch's does.

    Attributes:
        blocks: What each block of memory holds.
        free: The blocks without an owner, each with the events after which it may be handed out.
        made: How many batches were begun.
    """

    def __init__(self, *, eager_main: bool, eager_side: bool) -> None:
        self.main, self.side = Stream(eager_main), Stream(eager_side)
        self.main.other, self.side.other = self.side, self.main
        self.now = self.main
        self.blocks: list[int | None] = []
        self.free: list[tuple[int, list[Event]]] = []
        self.users: dict[int, list[Stream]] = {}
        self.made = 0
        self.closed = False

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    def image(self) -> torch.Tensor:
        """Return memory of the side stream: a tensor with the number of its block."""
        ready = [place for place, (_, events) in enumerate(self.free) if all(event.done for event in events)]
        if ready:
            block, _ = self.free.pop(ready[0])
        else:
            block = len(self.blocks)
            self.blocks.append(None)
        tensor, users = torch.tensor([block]), self.users.setdefault(block, [])
        users.clear()
        weakref.finalize(tensor, lambda: self.free.append((block, [user.record_event() for user in users])))
        return tensor

    def batches(self, count: int, error: BaseException | None = None) -> Generator[Batch, None, None]:
        """Yield batches that the current stream makes, then raise an error."""
        try:
            for number in range(count):
                self.made += 1
                image = self.image()
                self.now.put(lambda block=int(image), number=number: self.write(block, number))
                yield Batch(image, image, np.arange(1), None, None)
                del image
            if error is not None:
                raise error
        finally:
            self.closed = True

    def write(self, block: int, number: int) -> None:
        self.blocks[block] = number


@pytest.fixture(params=[(True, False), (False, True), (False, False)], ids=["main early", "side early", "both late"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(eager_main=request.param[0], eager_side=request.param[1])
    side_stream._stream_of.cache_clear()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: machine.side)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: machine.now)
    monkeypatch.setattr(torch.cuda, "stream", machine.stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("nothing waits for the whole GPU"))
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: machine.users[int(tensor)].append(stream), raising=False
    )
    yield machine
    side_stream._stream_of.cache_clear()


@pytest.mark.parametrize("dropped", [False, True])
def test_every_step_sees_its_batch_and_memory_is_one_batch_more(machine: Machine, dropped: bool) -> None:
    seen: list[int | None] = []
    for batch in one_ahead(machine.batches(20), GPU):
        machine.main.put(lambda block=int(batch.images): seen.append(machine.blocks[block]))
        if dropped:
            del batch  # before its step has begun
    machine.main.finish()
    assert seen == list(range(20))
    # Of the step that runs, of the next one and of the one after; one more where a copy takes longer than a step
    assert len(machine.blocks) <= (3 if machine.side.eager else 4)


def test_a_batch_is_made_while_the_one_before_is_trained_on_and_none_earlier(machine: Machine) -> None:
    source = machine.batches(20)
    iteration = one_ahead(source, GPU)
    assert machine.made == 0
    for number, _ in zip(range(5), iteration, strict=False):
        assert machine.made == number + 2
    iteration.close()
    assert machine.closed


def test_the_host_is_never_more_than_two_steps_ahead(machine: Machine) -> None:
    done = [0]
    for number, _ in enumerate(one_ahead(machine.batches(9), GPU)):
        assert done[0] >= number - 1
        machine.main.put(lambda: done.__setitem__(0, done[0] + 1))


def test_the_side_stream_sees_what_was_written_before_and_nothing_is_freed_under_it(machine: Machine) -> None:
    data, read = ["empty"], []

    def batches() -> Generator[Any, None, None]:
        for _ in range(9):
            machine.now.put(lambda: read.append(data[0]))
            yield ()

    machine.main.put(lambda: data.__setitem__(0, "full"))
    iteration = one_ahead(batches(), GPU)
    next(iteration)
    iteration.close()
    machine.main.put(lambda: data.__setitem__(0, "freed"))
    machine.main.finish()
    machine.side.finish()
    assert read == ["full", "full"]


def test_an_error_arrives_at_its_batch_and_a_signal_at_once(machine: Machine) -> None:
    iteration = one_ahead(machine.batches(3, KeyError("no such thing")), GPU)
    assert [next(iteration).ids.tolist() for _ in range(3)] == [[0]] * 3
    with pytest.raises(KeyError, match="no such thing"):
        next(iteration)
    iteration = one_ahead(machine.batches(1, KeyboardInterrupt()), GPU)
    with pytest.raises(KeyboardInterrupt):
        next(iteration)
    assert machine.now is machine.main


def test_a_loader_takes_it_unless_it_prefetches_by_itself(machine: Machine) -> None:
    class Plain(PlannedLoader):
        name = "plain"

        def _batches(self) -> Generator[Batch, None, None]:
            return machine.batches(5)

    class Prefetching(Plain):
        prefetches = True

    for kind, ahead in ((Plain, 1), (Prefetching, 0)):
        machine.made = 0
        plan: Any = SimpleNamespace(dataset=None)
        with kind(plan, device=GPU) as loader:
            next(iter(loader))
            assert machine.made == 1 + ahead
        assert machine.closed


def test_on_a_cpu_nothing_is_made_ahead() -> None:
    batches: Any = (number for number in range(3))
    assert one_ahead(batches, torch.device("cpu")) is batches
