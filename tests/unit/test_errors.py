"""Every message that can reach a user stands in `tests/errors.txt` for review, and errors have one form.

`python -m pytest tests/unit/test_errors.py --write-errors` writes the file anew.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlt.cli import COMMANDS

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "errors.txt"
ERRORS = {"ValueError", "FileNotFoundError", "OSError", "fail"}
NAME = r"(--[a-z0-9-]+|\{.+?\}|[A-Z][A-Z_]{2,}|[a-z_]+)"
FORM = re.compile(rf"{NAME}(, (line )?{NAME})*: (got|no such|unknown) .*[^.\s]")
REASONS = (
    "files/reading.py",
    "data/image.py",
    "data/decoding/grey.py",
    "data/image_bounds.py",
    "data/tar.py",
    "data/layouts/coco.py",
    "data/packs/manifest.py",
    "data/published/cifar_archive.py",
    "data/published/plain_pickle.py",
)
"""Modules with bare reasons, which a message of the form goes on to quote."""
FREE = {
    "interrupted": "by the user",
    "{cause}": "PyTorch's words",
    "{where}": "the system's words",
    "{text}": "the words of the parser of flags",
    "{message}": "of the check against chance",
    "{error}": "another message of the form, with a way out added",
}
"""Starts of messages of another form, and whose words they are."""

COMMAND = re.compile(rf"fastlt (?:{'|'.join(COMMANDS)})(?: (?:[a-z-]+|\{{[^{{}}]+\}}))*")
NEVER_QUOTED = {"classifier.method", "method", "name", "parsed.dataset", "self.name", "where"}
"""Values in commands that need no quotes in a shell, since they are no paths, or have them already."""


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


FILES = {path: parsed(path) for path in sorted((ROOT / "fastlt").rglob("*.py"))}
FUNCTIONS = {node.name: node for tree in FILES.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def assigned(scope: ast.AST) -> dict[str, ast.expr]:
    """Return what a function sets its names to, where that is once."""
    values: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values.setdefault(node.targets[0].id, []).append(node.value)
    return {name: found[0] for name, found in values.items() if len(found) == 1}


def templates(node: ast.expr, names: dict[str, ast.expr]) -> Iterator[str]:
    """Yield the texts that an expression can make, with what is known only at run time in braces."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            f"{{{ast.unparse(part.value)}{'!r' if part.conversion == ord('r') else ''}}}"
            if isinstance(part, ast.FormattedValue)
            else ast.literal_eval(part)
            for part in node.values
        )
    elif isinstance(node, ast.IfExp):
        yield from templates(node.body, names)
        yield from templates(node.orelse, names)
    elif isinstance(node, ast.Name) and node.id in names:
        yield from templates(names[node.id], {})
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        function = FUNCTIONS[node.func.id]
        for inner in ast.walk(function):
            if isinstance(inner, ast.Return) and inner.value:
                yield from templates(inner.value, assigned(function))


def messages(tree: ast.Module) -> Iterator[str]:
    """Yield the templates of all messages of a module: of its errors, and of its warnings after `warning: `."""
    for scope in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(scope):
            call = getattr(node, "exc", None) or (node.value if isinstance(node, ast.Expr) else None)
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name = ast.unparse(call.func)
            if name in ERRORS or name == "log.warning":
                text = call.args[1 if name == "OSError" and len(call.args) > 1 else 0]
                kind = "warning: " if name == "log.warning" else ""
                yield from (f"{kind}{template}" for template in templates(text, assigned(scope)))


MESSAGES = {path.relative_to(ROOT).as_posix(): sorted(set(messages(tree))) for path, tree in FILES.items()}


def test_all_messages_are_in_the_file_for_review(request: pytest.FixtureRequest) -> None:
    text = "\n".join("\n    ".join([name, *lines]) + "\n" for name, lines in MESSAGES.items() if lines)
    if request.config.getoption("--write-errors", default=False):
        GOLDEN.write_text(text, encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == text, "review, then run this with --write-errors"


def test_paths_in_commands_can_be_copied() -> None:
    strings = (node for tree in FILES.values() for node in ast.walk(tree) if isinstance(node, ast.JoinedStr))
    commands = (command for node in strings for text in templates(node, {}) for command in COMMAND.findall(text))
    values = [value for command in commands for value in re.findall(r"\{(.+?)\}", command)]
    assert {value for value in values if not value.startswith("quoted(")} <= NEVER_QUOTED
    assert len(values) > 20


@pytest.mark.parametrize("name", [name for name, lines in MESSAGES.items() if lines and not name.endswith(REASONS)])
def test_errors_have_one_form(name: str) -> None:
    """An error is `WHAT: got B; expected A; do C` on one line, without a full stop."""
    errors = [line for line in MESSAGES[name] if not line.startswith(("warning: ", *FREE))]
    assert [line for line in errors if not FORM.fullmatch(line)] == []
