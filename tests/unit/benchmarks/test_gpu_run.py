"""What a GPU run does with rows that fail, crash, hang, or rest on kernels that are wrong."""

import ctypes
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PLANTED = '''
import os, signal, subprocess, sys, time
from pathlib import Path
from benchmarks.gpu.rows import Row

FOLDER = Path(__file__).parent

def once(name):
    """Whether this is the first time."""
    mark = FOLDER / name
    first = not mark.exists()
    mark.touch()
    return first

def good():
    yield {"name": "good", "ms": 1.0, "pid": os.getpid()}

def breaking():
    sys.modules["__main__"].is_broken = lambda: True
    yield {"name": "last", "ms": 5.0}

def checks():
    yield {"name": "near", "ok": True}
    yield {"name": "far", "ok": False, "error": "relative error 1"}

def raising():
    yield {"name": "before", "ms": 1.0}
    if once("raised"):
        raise ValueError("planted\\nand more")
    yield {"name": "after", "ms": 2.0}

def crashing():
    yield {"name": "before", "ms": 3.0}
    if once("crashed"):
        os.kill(os.getpid(), signal.SIGKILL)

def hanging():
    if once("hung"):
        child = subprocess.Popen(["sleep", "60"])
        (FOLDER / "child").write_text(str(child.pid))
        time.sleep(60)
    yield {"name": "late", "ms": 4.0}

def rows(call, target):
    once(f"call {call} on {target.device}")
    yield Row("checks: wrong", checks)
    yield Row("checks: right", lambda: [{"name": "near", "ok": True}])
    yield Row("table: raising", raising, operations=("right",))
    yield Row("table: crashing", crashing)
    yield Row("table: hanging", hanging, limit_s=4.0)
    yield Row("table: doubtful", good, operations=("wrong", "right", "absent"))
    yield Row("table: breaking", breaking)
    yield Row("table: good", good, operations=("right",))
'''


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="asks Linux for processes")
def test_a_row_that_fails_crashes_or_hangs_stops_only_itself_and_is_measured_again(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(PLANTED)
    out, archive = tmp_path / "out", tmp_path / "back.tar.gz"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks.gpu", "--call", "a", "--out", str(out), "--archive", str(archive)]
    command += ["--device", "cpu", "--modules", "planted", "no_such_module"]

    def call() -> tuple[int, dict[str, Any]]:
        done = subprocess.run(command, cwd=ROOT, env=environment, timeout=200, check=False)
        return done.returncode, {line["row"]: line["error"] for line in lines_of(out) if "ended_s" in line}

    status, errors = call()
    assert status == 1
    assert errors.pop("table: raising") == "ValueError: planted"
    assert errors.pop("table: crashing").startswith("the process ended with status -9")
    assert errors.pop("table: hanging") == "no end after 4 s"
    assert "no_such_module" in errors.pop("no_such_module")
    assert set(errors.values()) == {None}
    assert not is_alive(int((tmp_path / "child").read_text()))
    figures = {(line["row"], line["name"]): line for line in lines_of(out) if "name" in line}
    assert figures["table: raising", "before"]["ms"] == 1.0
    assert figures["table: crashing", "before"]["ms"] == 3.0
    assert figures["table: doubtful", "good"]["unverified"] == "1 checks of wrong fail, absent not checked"
    assert "unverified" not in figures["table: good", "good"]
    assert figures["table: breaking", "last"]["ms"] == 5.0
    # A process that has broken its GPU measures nothing more
    assert figures["table: good", "good"]["pid"] != figures["table: doubtful", "good"]["pid"]
    first = len(lines_of(out))
    status, errors = call()
    assert status == 1
    assert {row for row, error in errors.items() if error} == {"no_such_module"}
    again = {line["row"] for line in lines_of(out)[first:] if "row" in line}
    assert again == {"machine", "table: raising", "table: crashing", "table: hanging", "no_such_module"}
    with tarfile.open(archive) as packed:
        summary = packed.extractfile("summary.md")
        assert summary is not None
        page = summary.read().decode()
    assert "| raising | after | 2 |" in page
    assert "2 checks are right, 1 wrong." in page
    assert "unverified: 1 checks of wrong fail, absent not checked" in page


@pytest.fixture
def supervisor(script: Callable[[str], Any]) -> Any:
    return script("gpu.supervisor")


def test_what_was_told_is_kept_when_the_time_is_over(
    supervisor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [
        {
            "plan": [
                {"row": "t: one", "limit_s": 60, "operations": []},
                {"row": "t: two", "limit_s": 60, "operations": []},
            ]
        },
        {"begin": "t: one"},
        {"row": "t: one", "name": "figure", "ms": 1.0},
    ]

    class Worker:
        def __init__(self, *_: object) -> None:
            pass

        def __enter__(self) -> "Worker":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def is_silent(self) -> bool:
            return not told

        def next(self, until: float) -> Any:
            if not told:
                time.sleep(max(0.0, until - time.monotonic()))
                raise TimeoutError
            return told.pop(0)

    monkeypatch.setattr(supervisor, "Worker", Worker)
    results = supervisor.Results(tmp_path, None)
    assert not supervisor.Call([], "cpu", results, supervisor.Sensors(None), 0.05).run()
    assert [line.get("ms") for line in lines_of(tmp_path)] == [1.0, None]
    assert lines_of(tmp_path)[1]["error"].startswith("the call's time was over")
    assert results.done() == set()
    assert "the call's time was over" in (tmp_path / "summary.md").read_text()


def test_a_worker_that_cannot_start_leaves_an_archive_with_its_log(supervisor: Any, tmp_path: Path) -> None:
    archive = tmp_path / "back.tar.gz"
    results = supervisor.Results(tmp_path / "out", archive)
    assert not supervisor.Call([], "cpu", results, supervisor.Sensors(None), 100).run()
    with tarfile.open(archive) as packed:
        log = packed.extractfile("log.txt")
        assert log is not None
        assert b"--call" in log.read()  # which it lacks
        assert "summary.md" in packed.getnames()


def test_a_core_that_cannot_be_built_is_told_in_the_log_and_stops_nothing(
    script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = script("gpu.__main__")

    def prepare() -> None:
        raise FileNotFoundError("no such compiler")

    class Call:
        def __init__(self, *_: object) -> None:
            pass

        def run(self) -> bool:
            return True

    monkeypatch.setattr(main, "prepare", prepare)
    monkeypatch.setattr(main, "Call", Call)
    monkeypatch.setattr(sys, "argv", ["gpu", "--call", "a", "--device", "cpu", "--out", str(tmp_path)])
    assert main.main() == 0
    assert "no such compiler" in (tmp_path / "log.txt").read_text()


def test_lines_cut_short_by_an_earlier_end_are_left_out(supervisor: Any, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"row": "a", "ended_s": 1, "error": null}\n{"row": "b", "end')
    results = supervisor.Results(tmp_path, None)
    assert results.done() == {"a"}
    results.add({"row": "c", "ended_s": 1, "error": None})
    assert supervisor.Results(tmp_path, None).done() == {"a", "c"}


def test_files_that_cannot_be_written_stop_no_figure(
    supervisor: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    results = supervisor.Results(tmp_path / "out", tmp_path / "file" / "back.tar.gz")
    results.add({"row": "t: one", "name": "figure", "ms": 1.0})
    results.add({"row": "t: one", "ended_s": 1.0, "error": "no such file: \udcff"})
    results.renew()
    assert "figure" in (tmp_path / "out" / "summary.md").read_text()
    results.file = tmp_path / "file" / "results.jsonl"
    results.add({"row": "t: two", "name": "printed", "ms": 2.0})
    assert "printed" in capsys.readouterr().out
    results.archive = tmp_path / "back.tar.gz"
    monkeypatch.setattr(supervisor, "page", lambda _: 1 / 0)
    results.renew()
    assert results.archive.is_file()


EXTENSION = """
#include <Python.h>
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
extern "C" __attribute__((visibility("default"))) PyObject *PyInit__C() { return PyModule_Create(&module); }
"""


@pytest.fixture
def machine(script: Callable[[str], Any]) -> Any:
    return script("gpu.machine")


def test_the_core_is_built_where_it_is_missing(machine: Any, tmp_path: Path) -> None:
    for folder in ("csrc", "fastlt"):
        (tmp_path / folder).mkdir()
    (tmp_path / "csrc" / "module.cpp").write_text(EXTENSION)
    (tmp_path / "csrc" / "other.cpp").write_text("int other() { return 1; }\n")
    machine.prepare(tmp_path)
    core = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert [path.name for path in (tmp_path / "fastlt").iterdir() if path.name != "kernels"] == [core]
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'fastlt')!r}); import _C"]
    subprocess.run(command, check=True)
    built = (tmp_path / "fastlt" / core).stat().st_mtime_ns
    machine.prepare(tmp_path)
    assert (tmp_path / "fastlt" / core).stat().st_mtime_ns == built
    (tmp_path / "fastlt" / core).unlink()
    (tmp_path / "csrc" / "other.cpp").write_text("no C++")
    with pytest.raises(RuntimeError, match="no C"):
        machine.prepare(tmp_path)
    assert [path.name for path in (tmp_path / "fastlt").iterdir() if path.name != "kernels"] == []


def test_wheels_are_found_behind_what_is_installed(
    machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    monkeypatch.setattr(sys, "path", list(sys.path))
    machine.unpack(wheels, site)
    assert str(site) not in sys.path
    (wheels / "broken-1-py3-none-any.whl").write_bytes(b"PK")
    with zipfile.ZipFile(wheels / "carried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried/__init__.py", "")
    machine.unpack(wheels, site)
    assert sys.path[-1] == str(site)
    assert (site / "carried" / "__init__.py").is_file()


class Library:
    """Stands in for NVML; the power cannot be told."""

    clock = 1000

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: int, value: Any) -> int:  # noqa: N802
        ctypes.cast(value, ctypes.POINTER(ctypes.c_uint))[0] = self.clock + kind
        return 0

    def nvmlDeviceGetPowerUsage(self, handle: Any, value: Any) -> int:  # noqa: N802
        return 3

    def nvmlDeviceGetTemperature(self, handle: Any, kind: int, value: Any) -> int:  # noqa: N802
        ctypes.cast(value, ctypes.POINTER(ctypes.c_uint))[0] = 50
        return 0


def test_clocks_are_the_means_of_a_figures_time(machine: Any) -> None:
    library = Library()
    sensors = machine.Sensors(library)
    for when, clock in ((1.0, 100), (2.0, 1000), (3.0, 2000)):
        library.clock = clock
        sensors.samples.append((when, sensors.read()))
    assert sensors.since(2.0) == {
        "sm_mhz": 1501.0,
        "least_sm_mhz": 1001.0,
        "memory_mhz": 1502.0,
        "temperature_c": 50.0,
    }
    assert sensors.since(4.0) == {}
    with machine.Sensors(None) as nothing:
        assert nothing.since(0.0) == nothing.now() == {}


def test_a_figure_that_is_shorter_than_the_time_between_samples_has_the_clock_at_its_end(
    supervisor: Any, machine: Any, tmp_path: Path
) -> None:
    results = supervisor.Results(tmp_path, None)
    with machine.Sensors(Library()) as sensors:
        call = supervisor.Call([], "cpu", results, sensors, 100)
        call.take({"plan": [{"row": "t: one", "limit_s": 60, "operations": []}]})
        call.take({"begin": "t: one"})
        call.since += 1000  # no sample is as new
        call.take({"row": "t: one", "name": "figure", "ms": 0.1})
    assert lines_of(tmp_path)[0]["sm_mhz"] > 0


def test_a_figures_clocks_are_not_those_of_what_was_compiled_for_it(
    supervisor: Any, machine: Any, tmp_path: Path
) -> None:
    library = Library()
    sensors = machine.Sensors(library)
    for seconds_ago, clock in ((30, 100), (1, 1000)):
        library.clock = clock
        sensors.samples.append((time.monotonic() - seconds_ago, sensors.read()))
    call = supervisor.Call([], "cpu", supervisor.Results(tmp_path, None), sensors, 100)
    call.take({"plan": [{"row": "t: one", "limit_s": 60, "operations": []}]})
    call.take({"begin": "t: one"})
    call.since -= 60
    call.take({"row": "t: one", "name": "figure", "ms": 0.1})
    assert lines_of(tmp_path)[0]["sm_mhz"] == 1001


def test_block_sizes_chosen_on_a_busy_gpu_are_forgotten(machine: Any, tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "kernel.best_config").touch()
    (tmp_path / "ab" / "kernel.py").touch()
    machine.forget_block_sizes(tmp_path)
    assert [path.name for path in (tmp_path / "ab").iterdir()] == ["kernel.py"]
