"""Recording and replaying, with a recorder in place of the GPU's."""

import contextlib
import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fastlt.runtime.graphs import WARM_UP, Replayed

GPU = torch.device("cuda")


class Graph:
    """What stands for a CUDA graph: the function runs again on the recorded arguments."""

    recording = False

    def replay(self) -> None:
        self.again()

    def again(self) -> None:
        raise NotImplementedError


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """Put stand-ins in place of what records; return the streams that are entered, the current one last."""
    streams = [SimpleNamespace(wait_stream=lambda other: None)]

    @contextlib.contextmanager
    def stream(entered: SimpleNamespace) -> Iterator[None]:
        before = list(streams)
        streams.append(entered)
        try:
            yield
        finally:
            streams[:] = before

    @contextlib.contextmanager
    def graph(recorder: Graph, stream: SimpleNamespace, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        streams.append(stream)
        Graph.recording = True
        try:
            yield
        finally:
            Graph.recording = False
        streams.pop()  # as PyTorch's, which leaves its stream only where the recording ends well

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(wait_stream=lambda other: None))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[-1])
    monkeypatch.setattr(torch.cuda, "stream", stream)
    return streams


def test_every_call_is_one_run_on_its_own_arguments(gpu: list[SimpleNamespace]) -> None:
    total, out = torch.zeros(()), torch.zeros(())

    def add(value: Tensor) -> Tensor:
        def run() -> None:
            total.add_(value)
            out.copy_(total)

        if Graph.recording:
            Graph.again = lambda self: run()  # type: ignore[method-assign]
        else:
            run()
        return out

    function = Replayed(add, GPU)
    sums = [float(function(torch.tensor(float(number)))) for number in range(WARM_UP + 4)]
    assert function.graph is not None
    assert sums == [0, 1, 3, 6, 10, 15, 21]


def test_a_function_that_cannot_be_recorded_goes_on_without(
    gpu: list[SimpleNamespace], caplog: pytest.LogCaptureFixture
) -> None:
    def waits(value: Tensor) -> Tensor:
        if Graph.recording:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return value + 1

    function = Replayed(waits, GPU)
    with caplog.at_level(logging.WARNING, "fastlt"):
        assert [float(function(torch.tensor(1.0))) for _ in range(WARM_UP + 3)] == [2.0] * (WARM_UP + 3)
    assert caplog.text.count("not permitted when stream is capturing") == 1
    assert len(gpu) == 1  # on the caller's stream again


@pytest.mark.parametrize(("device", "enabled"), [("cpu", True), ("cuda", False)])
def test_nothing_is_recorded_where_it_must_not_be(device: str, enabled: bool) -> None:
    function = Replayed(lambda value: value * 2, torch.device(device), enabled=enabled)
    assert all(float(function(torch.tensor(3.0))) == 6 for _ in range(WARM_UP + 2))
    assert function.graph is None
