"""Signals during a training: they end a wait at once, and anything else in its own time."""

import os
import signal

import pytest
import torch

from fastlt.runtime.process import StoppedError
from fastlt.runtime.signals import Signals
from fastlt.training.data_wait import DataWait


def test_a_signal_ends_a_wait_and_nothing_else() -> None:
    signals = Signals()
    with signals.collected():
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == [signal.SIGTERM]
        with pytest.raises(StoppedError), signals.waiting():  # one that arrived before counts too
            pytest.fail("there is nothing to wait for")
    signals = Signals()
    with signals.collected():
        with pytest.raises(StoppedError) as stop, signals.waiting():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.value.signum == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == [signal.SIGTERM] * 2


def test_processes_that_stop_together_wait_for_their_batch() -> None:
    signals = Signals(patient=True)
    with signals.collected(), signals.waiting():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals.received == [signal.SIGTERM]


def test_batches_end_with_a_signal_that_arrives_while_one_is_awaited() -> None:
    ended = []

    def batches():
        try:
            yield 0
            os.kill(os.getpid(), signal.SIGTERM)
            yield 1
        finally:
            ended.append(True)

    signals = Signals()
    with signals.collected():
        assert list(DataWait(torch.device("cpu")).watch(batches(), signals)) == [0]
    assert (signals.received, ended) == ([signal.SIGTERM], [True])
