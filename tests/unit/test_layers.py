"""The architecture: who may import whom, as the table of ARCHITECTURE.md has it."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES, MAX_MEDIAN_LINES, MAX_FILES, MAX_LOOSE = 400, 150, 12, 10


def table() -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    """The layer of every top-level module, and the modules that a library may be imported by."""
    layers: dict[str, int] = {}
    homes: dict[str, tuple[str, ...]] = {}
    for row in re.findall(r"^\| (\d+) \|(.*)\|[^|\n]*\|(.*)\|$", (ROOT / "ARCHITECTURE.md").read_text(), re.M):
        modules = re.findall(r"`([\w.]+)`", row[1])
        layers |= dict.fromkeys(modules, int(row[0]))
        for entry in filter(None, map(str.strip, row[2].split(";"))):
            library, _, places = entry.partition(" in ")
            homes[library] = (*homes.get(library, ()), *(re.findall(r"`([\w.]+)`", places) or modules))
    return layers, homes


LAYERS, HOMES = table()


def sources() -> dict[str, Path]:
    found = {}
    for folder, prefix in ((ROOT / "fastlt", ()), (ROOT / "kernels", ("kernels",))):
        for path in folder.rglob("*.py"):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found.pop("")  # fastlt/__init__.py re-exports from every layer, on first use
    found.pop("__main__")
    return found


SOURCES = sources()


def imports(module: str) -> Iterator[tuple[str, bool]]:
    """Yield (name, whether it is a module of ours, named without fastlt.) of imports other than for type checkers."""
    path = SOURCES[module]
    package = ["fastlt", *module.split(".")]
    if path.name != "__init__.py":
        package.pop()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module or "").split(".")] if node.module else base
            for alias in node.names:
                if stem[0] != "fastlt":
                    yield ".".join([*stem, alias.name]), False
                    continue
                name = ".".join([*stem[1:], alias.name])
                yield name if name in SOURCES or name == "_C" else ".".join(stem[1:]), True


def arrows() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports."""
    return {module: {name for name, ours in imports(module) if ours and name != "_C"} for module in SOURCES}


ARROWS = arrows()


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes that lie on a circle of arrows or between circles; none where there is no circle."""
    left = {node: {end for end in ends if end != node} for node, ends in graph.items()}
    while free := [node for node, ends in left.items() if not ends & left.keys()]:
        for node in free:
            del left[node]
    return sorted(left)


def test_every_module_stands_in_the_table_and_only_those() -> None:
    assert {module.split(".")[0] for module in SOURCES} | {"_C"} == set(LAYERS)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down(module: str) -> None:
    for other in ARROWS[module]:
        ours, theirs = module.split(".")[0], other.split(".")[0]
        assert LAYERS[theirs] <= LAYERS[ours], f"{module} imports {other}, which stands above it"


@pytest.mark.parametrize("module", SOURCES)
def test_libraries_have_one_home(module: str) -> None:
    for name, _ in imports(module):
        homes = HOMES.get(name.split(".")[0])
        if homes is not None:
            assert any(f"{module}.".startswith(f"{home}.") for home in homes), f"{module} imports {name}"


def test_the_table_names_the_homes_of_libraries() -> None:
    assert HOMES.keys() == {"nvidia", "triton", "matplotlib", "tyro", "jinja2", "timm", "msgspec", "pillow_heif"}


def test_no_circle_of_folders_or_files() -> None:
    folders: dict[str, set[str]] = {}
    for module, others in ARROWS.items():
        folders.setdefault(module.split(".")[0], set()).update(other.split(".")[0] for other in others)
    assert circle(folders) == []
    assert circle(ARROWS) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_kernels_stand_apart_behind_ops() -> None:
    for module, others in ARROWS.items():
        if module.startswith("kernels"):
            assert all(other.startswith("kernels") for other in others), module
        elif not module.startswith("ops"):
            assert not any(other.startswith("kernels") for other in others), module


def test_imports_inside_the_package_are_relative() -> None:
    for module, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] not in ("fastlt", "kernels"), module


def test_rooms_are_small() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in SOURCES.items()}
    assert {module: count for module, count in lines.items() if count > MAX_LINES} == {}
    tests = {path: len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert {path: count for path, count in tests.items() if count > MAX_LINES} == {}
    assert statistics.median(lines.values()) <= MAX_MEDIAN_LINES
    files: dict[Path, int] = {}
    for path in SOURCES.values():
        files[path.parent] = files.get(path.parent, 0) + 1
    loose = files.pop(ROOT / "fastlt")
    del files[ROOT / "fastlt" / "commands"]  # one a command
    assert {folder.name: count for folder, count in files.items() if count > MAX_FILES} == {}
    assert loose <= MAX_LOOSE
