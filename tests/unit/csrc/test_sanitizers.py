"""The C++ core under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, without Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "csrc"
SOURCES = ("alias", "augmentation", "class_index", "parallel", "sampler", "vector_draws_avx2", "vector_draws_avx512")
COMPILER = shutil.which("g++") or shutil.which("clang++")


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="needs g++ or clang++")
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_core_is_clean(sanitizers, tmp_path):
    program = tmp_path / "sanitizers"
    flags = ["-std=c++17", "-O1", "-g1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-pthread"]
    files = [HERE / "sanitizers.cpp", *(CSRC / f"{name}.cpp" for name in SOURCES)]
    objects = [tmp_path / f"{file.stem}.o" for file in files]
    compilers = [
        subprocess.Popen([COMPILER, *flags, "-I", CSRC, "-c", file, "-o", target], stderr=subprocess.PIPE, text=True)
        for file, target in zip(files, objects, strict=True)
    ]
    for compiler in compilers:
        _, errors = compiler.communicate()
        assert compiler.returncode == 0, errors
    linked = subprocess.run([COMPILER, *flags, *objects, "-o", program], capture_output=True, text=True)
    if linked.returncode != 0 and f"lib{'tsan' if sanitizers == 'thread' else 'asan'}" in linked.stderr:
        pytest.skip("the compiler comes without its sanitizers' libraries")
    assert linked.returncode == 0, linked.stderr
    # ThreadSanitizer does not know every layout that address randomization produces
    fixed = ["setarch", "--addr-no-randomize"]
    may_fix = sanitizers == "thread" and shutil.which("setarch") and subprocess.run([*fixed, "true"]).returncode == 0
    result = subprocess.run(
        [*(fixed if may_fix else []), program], capture_output=True, text=True, env={**os.environ, "LD_PRELOAD": ""}
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "ok\n"
