"""What a machine is said to be, and how many threads that makes."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastlt.runtime import device, machine
from fastlt.runtime.device import resolve_device, resolve_precision, warn_without_triton
from fastlt.runtime.machine import (
    MAX_THREADS,
    commit_of,
    describe_machine,
    memory_in_use,
    resolve_threads,
    run_command,
)

CPU = torch.device("cpu")


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    return tmp_path


def test_a_thread_for_every_processor_that_may_be_used(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_threads(None) == 12
    assert resolve_threads(40) == 40
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert resolve_threads(None) == MAX_THREADS


@pytest.mark.parametrize(
    ("content", "threads"), [("250000 100000\n", 3), ("50000 100000\n", 1), ("max 100000\n", 12), ("garbage", 12)]
)
def test_a_container_counts_for_what_it_may_take(cgroup: Path, content: str, threads: int) -> None:
    (cgroup / "cpu.max").write_text(content)
    assert resolve_threads(None) == threads


@pytest.mark.parametrize(("quota", "threads"), [(400_000, 4), (-1, 12)])
def test_an_older_container_does_too(cgroup: Path, quota: int, threads: int) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (cgroup / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert resolve_threads(None) == threads


@pytest.mark.parametrize(
    ("flags", "precision"), [("fpu avx512_bf16 x", "bf16"), ("amx_bf16", "bf16"), ("avx512f amx_tile", "fp32")]
)
def test_the_precision_is_what_the_processor_multiplies(
    flags: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"model name\t: bf16\nflags\t\t: {flags}\nbugs\t\t: avx512_bf16\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert resolve_precision("auto", CPU) == precision
    assert [resolve_precision(name, CPU) for name in ("fp32", "bf16")] == ["fp32", "bf16"]


def test_a_machine_has_a_gpu_with_driver_and_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def run_command(*command: str) -> str | None:
        asked.append(command)
        return "580.10, 1980 MHz, 1980 MHz, 3201 MHz, 700.00 W" if command[0] == "nvidia-smi" else None

    class Properties:
        uuid = "0-1-2"

    monkeypatch.setattr(machine, "run_command", run_command)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    description = describe_machine(torch.device("cuda"))
    assert description["device"] == "a GPU"
    assert description["driver_version"] == "580.10"
    assert description["clocks.mem"] == "3201 MHz"
    assert "--id=GPU-0-1-2" in asked[0]
    monkeypatch.setattr(machine, "run_command", lambda *_: None)
    assert "driver_version" not in describe_machine(torch.device("cuda"))


def test_a_copy_without_history_says_by_a_file_where_it_is_from(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None
    (tmp_path / ".commit").write_text("v1-3-gabc\n")
    (tmp_path / ".git").mkdir()  # of something else
    assert commit_of(tmp_path) == "v1-3-gabc"


def test_a_command_that_is_absent_or_fails_has_no_answer() -> None:
    assert run_command("no-such-command-here") is None
    assert run_command("false") is None
    assert run_command("echo", "yes") == "yes"
    assert describe_machine(CPU)["torch"] == torch.__version__


@pytest.mark.parametrize(("free", "others"), [(2, ", 37.0 GiB by others"), (38.5, "")])
def test_memory_in_use_tells_ours_from_others(free: float, others: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * gib), 79 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 40 * gib)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 39 * gib)
    assert memory_in_use(torch.device("cuda")) == f"peak 39.0 of 79.0 GiB{others}"


@pytest.fixture
def _not_said_yet() -> Iterator[None]:
    warn_without_triton.cache_clear()
    yield
    warn_without_triton.cache_clear()


@pytest.mark.usefixtures("_not_said_yet")
def test_a_gpu_without_triton_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    resolve_device("cpu")
    assert not caplog.records
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [resolve_device(name).type for name in ("auto", "cuda", "cuda:0")] == ["cuda"] * 3
    assert [record.message.partition(":")[0] for record in caplog.records] == ["no Triton"]


def test_a_copy_to_a_gpu_starts_from_pinned_memory_and_is_not_waited_for() -> None:
    calls: list[object] = []

    class Recorded:
        device = torch.device("cpu")

        def pin_memory(self) -> "Recorded":
            calls.append("pinned")
            return self

        def to(self, device: torch.device, *, non_blocking: bool = False) -> "Recorded":
            calls.append((device.type, non_blocking))
            return self

    device.on_device(Recorded(), torch.device("cuda"))  # type: ignore[arg-type]
    assert calls == ["pinned", ("cuda", True)]
    tensor = torch.zeros(3)
    assert device.on_device(tensor, torch.device("cpu")) is tensor


def test_a_gpu_is_described_whichever_switch_of_tf32_a_process_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    monkeypatch.setattr(machine, "gpu_state", lambda _: {})
    switch = torch.backends.cuda.matmul  # the newer one, which contradicts the older
    before = switch.fp32_precision
    switch.fp32_precision = "tf32"
    try:
        assert describe_machine(torch.device("cuda"))["tf32"]["matmul"]
    finally:
        switch.fp32_precision = before
