"""The Triton kernels without a GPU: run by the interpreter, compiled ahead of time; each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).parent


def run(script: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", HERE / script, *arguments],
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, "\n".join(
        line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("ok")
    )
    return done.stdout


@pytest.mark.slow
def test_interpreted_kernels_are_right() -> None:
    output = run("correctness.py", TRITON_INTERPRET="1")
    assert output.endswith("0 failed\n")
    assert output.count("ok") > 50


def test_an_interpreted_kernel_inside_an_operation() -> None:
    run("inside_operation.py", TRITON_INTERPRET="1")


def test_a_launch_for_the_compiler_reaches_every_kernel() -> None:
    listed = run("aot_gate.py", "--list")
    for architecture in ("sm_80", "sm_90", "sm_100"):
        assert listed.count(f"{architecture} fastlt.kernels.") > 50


def test_a_kernel_that_no_launch_reaches_fails() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import aot_gate
aot_gate.modules = list
sys.exit(not aot_gate.run_gate(1, [], True))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "FAIL fastlt.kernels.linear.store_kernel" in done.stdout


@pytest.mark.slow
def test_every_kernel_compiles_clean_for_every_architecture(tmp_path: Path) -> None:
    output = run("aot_gate.py", TRITON_CACHE_DIR=str(tmp_path))
    for architecture in ("sm_80", "sm_90", "sm_100"):
        assert output.count(f"ok   {architecture} ") > 50


def test_the_package_has_one_name() -> None:
    code = f"import sys; sys.path.insert(0, {str(HERE.parents[1])!r}); import kernels"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ImportError: this package is fastlt.kernels" in done.stderr
