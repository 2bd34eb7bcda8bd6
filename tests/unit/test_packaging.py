"""A wheel holds every file of the package, and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def files_of(folder: Path, *, prefix: Path = Path()) -> set[Path]:
    return {
        prefix / path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }


def test_every_file_of_the_package_is_packaged(tmp_path: Path) -> None:
    source, build = tmp_path / "source", tmp_path / "build"
    for name in ("fastlt", "kernels", "csrc"):  # without .venv, which setuptools would walk through
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(build)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    ours = files_of(ROOT / "fastlt") | files_of(ROOT / "kernels", prefix=Path("kernels"))
    assert files_of(build / "fastlt") == ours
