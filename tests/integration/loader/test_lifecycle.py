"""Loaders choose a backend, end cleanly, and pass on the cause when something dies."""

import importlib.util
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastlt.data.dataset import LongTailedDataset
from fastlt.data.loaders import loader as loaders
from fastlt.data.loaders.base import ahead
from fastlt.data.loaders.loader import Loader
from fastlt.data.loaders.plan import TrainPlan

needs_dali = pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is None, reason="DALI is not installed")
BACKENDS = ("memory", "device", "pillow", pytest.param("dali", marks=needs_dali))
Open = Callable[..., Loader]


def num_kernel_threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def hide_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make DALI look as if it were not installed."""
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    for name in ("fastlt.data.loaders.dali", "fastlt.data.loaders.dali_graph"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait a moment for what ends in the background."""
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_nothing_is_left_running(backend: str, dataset: LongTailedDataset, open_train: Open) -> None:
    # What the libraries start once and keep, and our core its pool of threads
    list(open_train(dataset, backend, num_steps=2, num_threads=2))
    threads, children = num_kernel_threads(), len(multiprocessing.active_children())
    loader = open_train(dataset, backend, num_steps=50, num_threads=2)
    for _ in zip(range(3), loader, strict=False):
        pass
    abandoned = iter(loader)
    next(abandoned)
    loader.close()
    loader.close()
    assert eventually(lambda: len(multiprocessing.active_children()) == children)
    assert eventually(lambda: num_kernel_threads() <= threads)
    with pytest.raises(RuntimeError, match="closed"):
        iter(loader)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_on_the_way_arrives_with_its_cause(
    backend: str, dataset: LongTailedDataset, open_train: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = TrainPlan.work

    def failing(self: TrainPlan, position: int, stand_ins: object) -> object:
        if position == 4:
            raise KeyError("no such thing")
        return work(self, position, stand_ins)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainPlan, "work", failing)
    with open_train(dataset, backend) as loader, pytest.raises(KeyError, match="no such thing"):
        list(loader)


@needs_dali
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_a_failed_pipeline_ends_although_its_error_is_kept(
    dataset: LongTailedDataset, open_train: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastlt.data.loaders.dali import NativeFiles

    list(open_train(dataset, "dali", num_steps=2))
    threads = num_kernel_threads()
    monkeypatch.setattr(NativeFiles, "path", lambda self, index: "/nowhere/at/all.jpg")
    with open_train(dataset, "dali") as loader, pytest.raises(RuntimeError, match="DALI failed") as caught:
        list(loader)
    # Processes that are forked later would inherit it.
    assert eventually(lambda: num_kernel_threads() <= threads)
    assert caught.value.__cause__ is not None


def test_a_killed_worker_stops_the_run(shared_folder: Path) -> None:
    code = f"""
import multiprocessing, os, signal
from fastlt.data.transforms.augmentation import EvalTransform
from fastlt.data.dataset import LongTailedDataset
from fastlt.data.loaders.loader import eval_loader

dataset = LongTailedDataset.from_folder({str(shared_folder)!r}, cache=False)
with eval_loader(dataset, EvalTransform(size=8, resize=8), batch_size=1, backend="pillow", num_threads=1) as loader:
    batches = iter(loader)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    list(batches)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "ValueError: --num-threads: got SIGKILL in loader process 1 of 1" in done.stderr.splitlines()[-1]


def test_work_ahead_is_bounded_ordered_and_ends() -> None:
    taken: list[int] = []

    def source() -> object:
        for index in range(100):
            taken.append(index)
            yield index

    items = ahead(source(), depth=2, name="counting")  # type: ignore[arg-type]
    assert next(items) == 0
    assert eventually(lambda: len(taken) == 4)
    time.sleep(0.05)
    assert len(taken) == 4
    items.close()
    assert not any(thread.name == "counting" for thread in threading.enumerate())
    assert list(ahead(iter(range(10)), depth=3, name="counting")) == list(range(10))


def test_auto_takes_memory_while_the_set_fits(
    dataset: LongTailedDataset, open_train: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_train(dataset, "auto") as loader:
        assert loader.name == "memory"
    needed = 3 * int(np.prod(dataset.sizes.astype(np.int64), axis=1).sum())
    monkeypatch.setattr(loaders, "available_bytes", lambda: 4 * needed)
    with open_train(dataset, "auto") as loader:
        assert loader.name == "memory"
    monkeypatch.setattr(loaders, "available_bytes", lambda: 4 * needed - 4)
    hide_dali(monkeypatch)
    with caplog.at_level(logging.INFO, "fastlt"), open_train(dataset, "auto") as loader:
        assert loader.name == "pillow"
    assert "no DALI" in caplog.text
    monkeypatch.setattr(loaders, "available_bytes", lambda: needed - 1)
    with pytest.raises(ValueError, match=r"^--loader\b.*memory\b.*images"):
        open_train(dataset, "memory")


@needs_dali
def test_auto_takes_dali_for_a_set_that_does_not_fit(
    dataset: LongTailedDataset, open_train: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "available_bytes", lambda: 1)
    with open_train(dataset, "auto") as loader:
        assert loader.name == "dali"


def test_an_unknown_backend_is_named(dataset: LongTailedDataset, open_train: Open) -> None:
    with pytest.raises(ValueError, match=r"^--loader: got 'opencv'.*auto, memory, dali, pillow"):
        open_train(dataset, "opencv")


def test_without_dali_its_backend_says_so(
    dataset: LongTailedDataset, open_train: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_dali(monkeypatch)
    with pytest.raises(ValueError, match=r"^--loader\b.*dali\b.*import"):
        open_train(dataset, "dali")


def test_dali_is_imported_only_when_asked_for() -> None:
    code = (
        "import sys, fastlt.data.loaders.loader; assert not any(name.startswith('nvidia.dali') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_dali
def test_a_dali_that_cannot_start_is_one_line(
    dataset: LongTailedDataset, open_train: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastlt.data.loaders import dali

    def old_driver(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA runtime API error (36):\nAPI call is not supported in the installed CUDA driver")

    monkeypatch.setattr(dali, "ImagePipeline", old_driver)
    with pytest.raises(ValueError, match=r"^--loader\b.*dali\b.*\bcpu \(CUDA .*36\):\).*\bpillow\b"):
        next(iter(open_train(dataset, "dali", num_steps=1)))
