"""The pool of threads behind `num_threads`: calls from many threads, forked children, and the end of the process."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastlt import _C

CORE = """
labels = np.repeat(np.arange(100), 50)
index = _C.ClassIndex(labels, num_classes=100)
core = _C.Sampler(index, law=_C.Law.classes, seed=0, batch_size=64, epoch_slots=len(labels))
expected = core.draw(0, 50_000)
"""

FORKS = """
def draws_right():
    return np.array_equal(core.draw(0, 50_000, num_threads=2), expected)

def has_threads():
    tasks = "/proc/self/task"
    return not os.path.isdir(tasks) or len(os.listdir(tasks)) > 1

def child_draws_right(depth):
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits for ever
        right = draws_right() and draws_right() and has_threads()
        os._exit(0 if right and (depth == 0 or child_draws_right(depth - 1)) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def run_alone(code):
    """Run code in a process of its own: it forks, or ends."""
    program = f"import os, signal, threading, time\nimport numpy as np\nfrom fastlt import _C\n{CORE}\n{code}"
    command = [sys.executable, "-W", "ignore", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr


def test_concurrent_calls_draw_what_one_call_draws():
    scope = {"np": np, "_C": _C}
    exec(CORE, scope)
    core, expected = scope["core"], scope["core"].draw(0, 1_000_000)

    def draws_right(i):
        first = 9001 * i
        drawn = core.draw(first, 40_000, num_threads=1 + i % 4)
        return np.array_equal(drawn, expected[first : first + 40_000])

    with ThreadPoolExecutor(6) as executor:
        assert all(executor.map(draws_right, range(100)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own():
    run_alone(FORKS + "assert draws_right() and child_draws_right(depth=2) and draws_right()")
    run_alone(FORKS + "assert draws_right(); time.sleep(0.01); assert child_draws_right(depth=0) and draws_right()")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_may_come_while_other_threads_draw():
    run_alone(
        FORKS + "stop = threading.Event()\n"
        "def draw():\n"
        "    while not stop.is_set(): assert draws_right()\n"
        "threads = [threading.Thread(target=draw) for _ in range(2)]\n"
        "for thread in threads: thread.start()\n"
        "right = [child_draws_right(depth=0) for _ in range(20)]\n"
        "stop.set()\n"
        "for thread in threads: thread.join()\n"
        "assert all(right)"
    )


def test_the_process_ends_while_workers_spin_or_sleep():
    run_alone("core.draw(0, 50_000, num_threads=4)")
    run_alone("core.draw(0, 50_000, num_threads=4); time.sleep(0.01)")


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_process_ends_while_daemon_threads_draw(num_threads):
    run_alone(
        "def draw():\n"
        f"    while True: core.draw(0, 50_000, num_threads={num_threads})\n"
        "for _ in range(4): threading.Thread(target=draw, daemon=True).start()\n"
        "time.sleep(0.05)"
    )
