"""A compiler's workers that do not stop do not hold up the end of a process."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from fastlt.runtime import compiling


@pytest.fixture
def process() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


@pytest.fixture
def pools(process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    # As PyTorch keeps them: one with a process of its own, one without
    pools = SimpleNamespace(_pool_set=[SimpleNamespace(process=process), SimpleNamespace()])
    monkeypatch.setitem(sys.modules, "torch._inductor.async_compile", pools)
    monkeypatch.setattr(compiling, "EXIT_S", 0.1)


def test_a_worker_that_does_not_stop_is_ended(pools: None, process: subprocess.Popen[bytes]) -> None:
    compiling.hasten_exit()
    compiling.hasten_exit()  # after every call of a compiled function
    assert process.wait(300) == -9


def test_one_that_stops_is_not_killed(pools: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as quick:
        monkeypatch.setattr(compiling, "EXIT_S", 20.0)
        assert compiling.wait_or_kill(quick) == 3


def test_compiling_sees_to_it(pools: None, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: lambda x: function(x) if dynamic is False else None)
    assert compiling.compiled(lambda x: x + 1, dynamic=False)(1) == 2
    assert process.wait(300) == -9


def test_it_sees_to_it_where_compiling_fails(
    pools: None, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    with pytest.raises(ZeroDivisionError):
        compiling.compiled(lambda x: 1 / x)(0)
    assert process.wait(300) == -9


def test_without_a_compiler_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch._inductor.async_compile", raising=False)
    compiling.hasten_exit()
    assert "torch._inductor.async_compile" not in sys.modules
