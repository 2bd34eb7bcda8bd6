"""A command ends quietly on a signal, whenever it arrives, and with the process that started it."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

HOME = Path(__file__).parents[3]

WHEN = {
    "at work": "press()",
    "again while it ends": """
        try:
            press()
        finally:
            press()
            time.sleep(60)
    """,
    "while a library turns it into its own error": """
        try:
            press()
        except BaseException as error:
            raise ImportError("half a library") from error
    """,
    "while a library drops it and fails later": """
        try:
            press()
        except BaseException:
            pass
        raise SystemError("what is this")
    """,
    "while an object is deleted": """
        class Fragile:
            def __del__(self):
                press()
        Fragile()
        time.sleep(60)
    """,
}


def run(program: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(HOME)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.mark.parametrize(
    ("when", "signum"),
    [*((when, signal.SIGINT) for when in WHEN), ("at work", signal.SIGTERM), ("at work", signal.SIGHUP)],
)
def test_a_signal_ends_a_command_in_one_line(when: str, signum: int) -> None:
    program = (
        f"import os, time\nfrom fastlt import cli\ndef press():\n    os.kill(os.getpid(), {int(signum)})\n"
        f"def work(argv):\n{textwrap.indent(textwrap.dedent(WHEN[when]), '    ')}\ncli.dispatch = work\ncli.main()"
    )
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signum, "", "fastlt: interrupted\n")


def test_an_ignored_signal_stays_ignored() -> None:
    program = (
        "import os, signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom fastlt import cli\n"
        "cli.dispatch = lambda argv: os.kill(os.getpid(), signal.SIGHUP)\ncli.main()\nprint('done')"
    )
    assert run(program).stdout == "done\n"


def test_nothing_that_takes_time_is_imported_before_signals_are_answered() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(HOME)!r}); before = set(sys.modules); import fastlt.cli; "
        "print({'typing', 'contextlib', 'ctypes', 'dataclasses', 'rich'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    child = (
        "import os, time; from fastlt.runtime.process import end_with_parent; end_with_parent(); "
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = (
        f"import os, subprocess, sys, time\nenvironment = os.environ | {{'FASTLT_PARENT': str(os.getpid())}}\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], env=environment)\ntime.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(HOME)}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 30
    while (status := Path(f"/proc/{number}/stat")).exists() and status.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)
