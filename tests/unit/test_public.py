"""Every public function says what it takes, returns and raises, and its example runs."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import logging
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastlt.runtime.log import only

PACKAGES = (
    "fastlt",
    *(f"fastlt.{name}" for name in ("data", "features", "models", "ops", "rebalancing", "recipes", "metrics")),
)

WITH_EXAMPLE = (
    "fastlt.data.LongTailSampler",
    "fastlt.features.Features",
    "fastlt.metrics.shot_accuracy",
    "fastlt.models.LinearHead",
    "fastlt.models.create_model",
    "fastlt.ops.label_rank",
    "fastlt.ops.prior_intervals",
    "fastlt.ops.scaled_cross_entropy",
    "fastlt.ops.scaled_logits",
    "fastlt.ops.tau_intervals",
    "fastlt.ops.tau_normalized_logits",
    "fastlt.rebalance_model",
    "fastlt.rebalancing.Problem",
    "fastlt.rebalancing.adjust_logits",
    "fastlt.rebalancing.learn_weight_scaling",
    "fastlt.rebalancing.nearest_class_mean",
    "fastlt.rebalancing.nearest_class_mean_predict",
    "fastlt.rebalancing.register",
    "fastlt.rebalancing.retrain_classifier",
    "fastlt.rebalancing.tau_curve",
    "fastlt.rebalancing.tau_normalize",
)
"""The promised names that need no files."""

STRICT = {
    *WITH_EXAMPLE,
    "fastlt.train",
    "fastlt.rebalance",
    "fastlt.evaluate",
    "fastlt.features.FeatureStore",
    "fastlt.data.LongTailSampler.batch",
    "fastlt.data.LongTailSampler.load_state_dict",
    "fastlt.data.LongTailSampler.state_dict",
    "fastlt.data.LongTailedDataset.from_coco",
    "fastlt.data.LongTailedDataset.from_folder",
    "fastlt.data.LongTailedDataset.from_list",
    "fastlt.data.open_splits",
}
"""The promised names, whose results have a section of their own."""


def exports() -> dict[str, Any]:
    """Return the public functions and classes by name, each under the first package that exports it."""
    objects: dict[str, Any] = {}
    for package in map(importlib.import_module, PACKAGES):
        own = [name for name, value in vars(package).items() if getattr(value, "__module__", "") == package.__name__]
        for name in getattr(package, "__all__", [name for name in own if not name.startswith("_")]):
            value = getattr(package, name)
            if (inspect.isfunction(value) or inspect.isclass(value)) and value not in objects.values():
                objects[f"{package.__name__}.{name}"] = value
    return objects


EXPORTS = exports()


def functions() -> Iterator[tuple[str, Callable[..., Any], str]]:
    """Yield (name, function, docstring) of public functions, constructors and methods."""
    for name, value in EXPORTS.items():
        if inspect.isfunction(value):
            yield name, inspect.unwrap(value), inspect.getdoc(value) or ""
            continue
        for owner in [base for base in value.__mro__ if base.__module__.startswith("fastlt")]:
            for key, member in vars(owner).items():
                function = inspect.unwrap(getattr(member, "__func__", member))
                if inspect.isfunction(function) and not key.startswith("_"):
                    yield f"{name}.{key}", function, inspect.getdoc(function) or ""
        constructor = vars(value).get("__init__")
        if constructor is not None and not dataclasses.is_dataclass(value):
            yield name, constructor, f"{inspect.getdoc(value)}\n\n{inspect.getdoc(constructor)}"


def section(docstring: str, title: str) -> str | None:
    """Return the indented lines below `title:`, None where there is no such section."""
    match = re.search(rf"^{title}:\n((?:(?: .*)?\n?)+)", docstring, re.M)
    return match and textwrap.dedent(match[1])


def checks_arguments(function: Callable[..., Any]) -> bool:
    """Whether a function's own body raises an exception, or calls a check."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise) and node.exc is not None and "NotImplemented" not in ast.unparse(node.exc):
            return True
        if isinstance(node, ast.Call) and re.match(r"(\w+\.)?check(_\w+)?\(", ast.unparse(node)):
            return True
    return False


def gaps(name: str, function: Callable[..., Any], docstring: str) -> Iterator[str]:
    """Yield what a docstring lacks."""
    signature = inspect.signature(function)
    entries = re.findall(r"^([\w*, `]+)(?: \(.*?\))?:", section(docstring, "Args") or "", re.M)
    documented = set(re.findall(r"\w+", " ".join(entries)))
    missing = [parameter for parameter in signature.parameters if parameter not in documented | {"self", "cls"}]
    if missing:
        yield f"Args of {', '.join(missing)}"
    returns = any(section(docstring, title) for title in ("Returns", "Yields"))
    summarised = name not in STRICT and re.match(r"(Return|Yield)\b", docstring)
    if signature.return_annotation not in (None, "None") and not returns and not summarised:
        yield "Returns"
    if checks_arguments(function) and not section(docstring, "Raises"):
        yield "Raises"


def test_docstrings_are_complete() -> None:
    lacking = {name: ", ".join(gaps(name, *rest)) for name, *rest in functions()}
    report = [f"{name} lacks {what}" for name, what in sorted(lacking.items()) if what]
    if report:
        pytest.fail("docstrings to complete:\n" + "\n".join(report), pytrace=False)


def test_every_promised_function_has_an_example() -> None:
    without = [name for name in WITH_EXAMPLE if ">>> " not in (EXPORTS[name].__doc__ or "")]
    if without:
        pytest.fail("docstrings without an Example:\n" + "\n".join(without), pytrace=False)


@pytest.mark.parametrize("name", EXPORTS)
def test_examples_run(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    with only(logging.ERROR):  # a command that ran in this process before has sent the log to standard output
        for example in doctest.DocTestFinder().find(EXPORTS[name], name, globs={}):
            runner.run(example, out=report.append)
    if runner.failures:
        pytest.fail("".join(report), pytrace=False)
