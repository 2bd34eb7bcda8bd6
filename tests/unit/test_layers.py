"""The architecture: who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the bottom up. A module may import from its own rank and from lower ones.
LAYERS = (
    ("config", "files", "markdown", "_C"),
    ("kernels",),
    ("ops", "data.sampler", "data.sampling", "data.augmentation"),
    ("data", "models", "metrics", "hardware", "loggers", "recipes", "distributed", "launch", "losses", "compiling"),
    ("checkpoint", "run", "feature_file", "features", "step", "streams", "pretrained", "averaging"),
    ("state", "interrupts", "parameters"),
    ("opening",),
    ("calibration", "prior", "results", "per_class", "classifier"),
    ("evaluation",),
    ("training", "rebalancing", "plots", "prediction", "exporting"),
    ("report", "networks"),
    ("demo", "doctor", "reproduce", "benchmark"),
    ("commands",),
    ("cli", "__main__"),
)
# A library that only these modules may import
RESERVED = {
    "nvidia": ("data.pipeline", "data.loader"),
    "triton": ("kernels",),
    "matplotlib": ("plots", "data.glyphs"),
    "tyro": ("commands",),
    "jinja2": ("report",),
    "timm": ("models.timm",),
}


def rank(module: str) -> int:
    """Rank of a module's longest listed prefix."""
    named = {name: index for index, names in enumerate(LAYERS) for name in names}
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in named:
            return named[".".join(parts[:length])]
    raise AssertionError(f"{module} stands in no layer: add it to LAYERS")


def sources() -> dict[str, Path]:
    found = {}
    for folder, prefix in ((ROOT / "fastlt", ()), (ROOT / "kernels", ("kernels",))):
        for path in folder.rglob("*.py"):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found.pop("", None)  # fastlt/__init__.py re-exports from every layer, on first use
    return found


def imports(module: str, path: Path) -> Iterator[str]:
    """Absolute names of what a module imports, those for type checkers only left out."""
    package = ["fastlt", *module.split(".")]
    if path.name != "__init__.py":
        package.pop()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module or "").split(".")] if node.module else base
            yield from (".".join([*stem, alias.name]) for alias in node.names)


@pytest.mark.parametrize(
    ("module", "path"), sources().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_point_down(module: str, path: Path) -> None:
    for name in imports(module, path):
        if name.startswith("fastlt."):
            other = name.removeprefix("fastlt.")
            assert rank(other) <= rank(module), f"{module} imports {other}, which stands above it"


@pytest.mark.parametrize(
    ("module", "path"), sources().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_libraries_have_one_home(module: str, path: Path) -> None:
    for name in imports(module, path):
        homes = RESERVED.get(name.split(".")[0])
        if homes is not None:
            assert any(module == home or module.startswith(f"{home}.") for home in homes), f"{module} imports {name}"


def test_kernels_import_nothing_of_fastlt() -> None:
    for module, path in sources().items():
        if module.startswith("kernels"):
            for name in imports(module, path):
                assert not name.startswith("fastlt") or name.startswith("fastlt.kernels"), f"{module} imports {name}"


def test_only_ops_imports_kernels() -> None:
    for module, path in sources().items():
        for name in imports(module, path):
            if name.startswith("fastlt.kernels"):
                assert module.split(".")[0] in ("ops", "kernels", "doctor"), f"{module} imports {name}"


def test_files_are_small() -> None:
    long = {module: len(path.read_text().splitlines()) for module, path in sources().items()}
    assert {module: lines for module, lines in long.items() if lines > 400} == {}
