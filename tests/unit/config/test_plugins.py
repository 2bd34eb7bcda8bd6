"""Functions of the user's own: found by name, and refused in a line that says what is wrong."""

import importlib.metadata
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fastlt.config import METHODS, EvaluateConfig, RebalanceConfig
from fastlt.config.plugins import METHOD_GROUP, OwnMethod, add_method, check_method, load, method_names, own_method

Write = Callable[[str], str]


def make(problem: object) -> None: ...


def other(problem: object) -> None: ...


def test_a_module_of_the_working_folder_is_found(own_module: Write) -> None:
    name = own_module("class Inside:\n    def make(self): ...\n\ndef make(problem): return 3\n")
    assert load("--method", f"{name}:make")(None) == 3
    assert load("--method", f"{name}:Inside.make").__name__ == "make"
    assert sys.path[0] == str(Path.cwd())


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        ("import nothing_of_this_name", "make", r"ModuleNotFoundError: .*nothing_of_this_name.*mine_\w+\.py line 1\b"),
        ("x = 1\n1 / 0", "make", r"ZeroDivisionError: division by zero, mine_\w+\.py line 2\b"),
        ("def make(:", "make", r"SyntaxError: "),
        ("import sys\nsys.exit(0)", "make", r"SystemExit: 0"),
        ("def make(problem): ...", "makes", r"has no makes; did you mean 'make'\?"),
        ("make = 3", "make", r"a int; expected a function"),
    ],
)
def test_what_cannot_be_used_is_named(own_module: Write, text: str, function: str, message: str) -> None:
    name = own_module(text)
    with pytest.raises(ValueError, match=rf"^--loss: got {name}:{function}\b.*{message}"):
        load("--loss", f"{name}:{function}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("absent_module:make", r"got absent_module:make, .*No module named 'absent_module'"),
        ("mine.py:make", r"got 'mine\.py:make'.*did you mean mine:make\?"),
        ("./code/mine.py:make", r"got .*did you mean code\.mine:make\?"),
        ("mine:", "got 'mine:'.*module:function"),
        (":make", "got ':make'.*module:function"),
        ("a:b:c", "got 'a:b:c'.*module:function"),
    ],
)
def test_other_forms_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^--method: {message}"):
        load("--method", text)


def test_a_setting_can_be_read_where_its_function_is_not_installed() -> None:
    assert RebalanceConfig(method="absent_module:make", loss="absent_module:loss").loss == "absent_module:loss"
    assert EvaluateConfig(method="registered_elsewhere").method == "registered_elsewhere"
    with pytest.raises(ValueError, match=r"^--method: got absent_module:make\b"):
        _ = RebalanceConfig(method="absent_module:make").methods


def test_a_registered_name_is_one_of_all() -> None:
    with pytest.raises(ValueError, match=r"^--method: got 'mine'"):
        check_method("mine")
    add_method(OwnMethod(name="mine", make=make))
    assert RebalanceConfig(method="mine").methods == ("mine",)
    assert RebalanceConfig(method="all").methods == (*METHODS, "mine")
    with pytest.raises(ValueError, match=r"^--method: got 'minee'; did you mean 'mine'\?"):
        RebalanceConfig(method="minee")


@pytest.mark.parametrize("name", ["tau", "joint", "all", "", "../mine", "a b", ".mine", "mine:make"])
def test_a_name_that_is_taken_or_no_folders_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^name: got '{name}'"):
        add_method(OwnMethod(name=name, make=make))


def test_a_name_has_one_function_and_the_same_one_may_come_again() -> None:
    add_method(OwnMethod(name="mine", make=make))
    add_method(OwnMethod(name="mine", make=make, needs_training=False))
    assert not own_method("mine").needs_training
    with pytest.raises(ValueError, match=r"^name: got 'mine' for .*other\b.*:make has it"):
        add_method(OwnMethod(name="mine", make=other))


def test_a_function_goes_by_the_name_that_its_module_registers(own_module: Write) -> None:
    name = own_module("""
        from fastlt.rebalancing import register

        def make(problem): ...
        def plain(problem): ...

        register("shrunk", make, needs_training=False)
    """)
    assert method_names(f"{name}:make") == ("shrunk",)
    assert not own_method(f"{name}:make").needs_training
    assert method_names(f"{name}:plain") == (f"{name}.plain",)
    assert own_method(f"{name}.plain").needs_training


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Pretend that a package with one entry point is installed."""

    def pretend(name: str, value: str) -> None:
        point = EntryPoint(name=name, value=value, group=METHOD_GROUP)
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == METHOD_GROUP else [])

    return pretend


def test_an_installed_package_brings_its_methods(own_module: Write, install: Callable[[str, str], None]) -> None:
    name = own_module("def make(problem): ...")
    install("packaged", f"{name}:make")
    assert RebalanceConfig(method="packaged").methods == ("packaged",)
    assert RebalanceConfig(method="all").methods == (*METHODS, "packaged")
    assert own_method("packaged").source == f"{name}:make"
    assert method_names(f"{name}:make") == ("packaged",)


def test_a_package_cannot_take_the_name_of_our_methods(install: Callable[[str, str], None]) -> None:
    install("tau", "package:make")
    with pytest.raises(ValueError, match=r"^fastlt\.methods: got the name 'tau' for package:make"):
        _ = RebalanceConfig(method="all").methods
