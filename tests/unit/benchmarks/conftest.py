"""The benchmarks are scripts beside the package, which nothing installs."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Import a module of benchmarks/ by its name there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[3]))
        patch.delitem(sys.modules, "benchmarks", raising=False)  # pytest's own, where it has collected benchmarks too
        yield lambda name: importlib.import_module(f"benchmarks.{name}")
