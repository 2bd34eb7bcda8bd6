"""The parts that every comparison with a publication shares."""

import errno
import os
from functools import partial

import numpy as np
import pytest

from fastlt.data.inspection.verification import decode_sample, spread


def test_a_sample_is_spread_over_all_and_no_image_is_in_it_twice() -> None:
    assert spread(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    sample = spread(np.arange(1000, 2000))
    assert (len(sample), sample[0], sample[-1]) == (32, 1000, 1999)
    assert set(np.diff(sample)) == {32, 33}


def test_the_time_is_that_of_an_image_that_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(content: bytes) -> None:
        if content == b"bad":
            raise ValueError("corrupt")

    ticks = iter((0.0, 0.002, 1.0, 2.0, 2.004))
    monkeypatch.setattr("fastlt.data.inspection.verification.decode_bytes", decode)
    monkeypatch.setattr("fastlt.data.inspection.verification.time.perf_counter", lambda: next(ticks))
    sample = {"a": lambda: b"good", "b": lambda: b"bad", "c": lambda: b"good"}
    decode_ms, unreadable = decode_sample(sample)
    assert decode_ms == pytest.approx(3)
    assert unreadable == ("b (corrupt)",)
    assert decode_sample({}) == (None, ())


def test_a_file_that_cannot_be_read_is_named_but_the_machines_distress_is_raised() -> None:
    def fail(number: int) -> bytes:
        raise OSError(number, os.strerror(number))

    decode_ms, unreadable = decode_sample({"a": partial(fail, errno.EACCES)})
    assert (decode_ms, unreadable) == (None, ("a (Permission denied)",))
    with pytest.raises(OSError, match="Too many open files"):
        decode_sample({"a": partial(fail, errno.EMFILE)})
