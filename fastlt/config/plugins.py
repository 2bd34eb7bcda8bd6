"""What users add: methods of their own under a name, and functions of theirs, named as `module:function`."""

from __future__ import annotations

import importlib
import operator
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .base import CHOOSING, METHODS, nearest_of

METHOD_GROUP = "fastlt.methods"
"""The entry points that name rebalancing methods of installed packages."""
TAKEN = ("joint", "all", *CHOOSING, *METHODS)
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_NAME = re.compile(r"\w[\w.-]*")  # of a folder, on every system
_LIBRARIES = ("<", sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]))


@dataclass(frozen=True, kw_only=True)
class OwnMethod:
    """A rebalancing method of the user's own."""

    name: str
    make: Callable[[Any], Any]
    """The function from a problem to a head."""
    needs_training: bool = True
    """Whether it looks at the features of the training images."""
    quick: bool = False
    """Whether it takes no more than seconds, so that plain `fastlt rebalance` tries it too."""

    @property
    def source(self) -> str:
        """Where its function stands, as `module:function`."""
        return f"{self.make.__module__}:{getattr(self.make, '__qualname__', type(self.make).__qualname__)}"


OWN: dict[str, OwnMethod] = {}
"""The methods that were registered in this process, by name."""


def add_method(method: OwnMethod) -> None:
    """Register a method; the same function again, as from a cell that is run twice, replaces the first.

    Raises:
        ValueError: The name cannot be that of a folder, or another method has it.
    """
    name = method.name
    if not is_method_name(name):
        raise ValueError(f"name: got {name!r}; expected letters, digits, '_', '.' and '-'; choose another name")
    if not callable(method.make):
        raise ValueError(f"make: got a {type(method.make).__name__}; expected a function of a Problem; give one")
    if name in TAKEN:
        raise ValueError(f"name: got {name!r}, which fastlt itself uses; expected another name; choose one")
    if name in OWN and OWN[name].source != method.source:
        raise ValueError(
            f"name: got {name!r} for {method.source}; expected a free name, and {OWN[name].source} has it; choose one"
        )
    OWN[name] = method


def is_method_name(text: str) -> bool:
    """Return whether a text can be the name of a method and of its folder."""
    return _NAME.fullmatch(text) is not None


def names_function(text: str) -> bool:
    """Return whether a setting names a function of the user's rather than one of our choices."""
    return ":" in text


def check_choice_or_function(flag: str, text: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless a setting is one of the choices, or has the form `module:function`.

    Nothing is imported, so that settings can be read where the module is not installed.
    """
    if text in choices:
        return
    if not names_function(text):
        raise ValueError(
            f"{flag}: got {text!r}; {nearest_of(text, choices)}choose one of {', '.join(choices)}, or give your own "
            "function as module:function"
        )
    module, _, function = text.partition(":")
    if not _FUNCTION.fullmatch(text) or module.endswith(".py"):
        hint = f"{module.removesuffix('.py').strip('./').replace('/', '.')}:{function}"
        instead = f"; did you mean {hint}?" if _FUNCTION.fullmatch(hint) else ""
        raise ValueError(f"{flag}: got {text!r}; expected module:function, as Python imports it{instead}")


def load(flag: str, text: str) -> Callable[..., Any]:
    """Return the function that `module:function` names; modules in the working folder come first, as in scripts.

    Raises:
        ValueError: The text has another form, or there is no such module or function, or importing it raises.
    """
    check_choice_or_function(flag, text, ())
    folder = str(Path.cwd())
    if not {"", folder} & set(sys.path):
        sys.path.insert(0, folder)
    name, _, attribute = text.partition(":")
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{flag}: got {text}, whose module cannot be imported ({what_happened(error)}); expected a module in "
            f"{folder} or on PYTHONPATH; correct it, or set PYTHONPATH"
        ) from error
    try:
        function = operator.attrgetter(attribute)(module)
    except AttributeError:
        where = getattr(module, "__file__", None) or name
        raise ValueError(
            f"{flag}: got {text}, but {where} has no {attribute}; {nearest_of(attribute, vars(module))}expected one "
            "of its functions; correct the name"
        ) from None
    if not callable(function):
        raise ValueError(f"{flag}: got {text}, a {type(function).__name__}; expected a function; name one")
    return function  # type: ignore[no-any-return]


def code_hash(text: str) -> str | None:
    """Return the SHA-256 of the file in which a loaded `module:function` stands; None where it has none."""
    import hashlib

    file = getattr(sys.modules.get(text.partition(":")[0]), "__file__", None)
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def what_happened(error: BaseException) -> str:
    """Return an error of the user's code in words, with the line of that code where it happened."""
    import traceback

    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_LIBRARIES) and frame.line is not None
    ]
    where = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}{where}"


def method_entry_points() -> dict[str, str]:
    """Return the methods of installed packages: name -> `module:function`.

    Raises:
        ValueError: A name is taken.
    """
    from importlib.metadata import entry_points  # here, since it takes longer to import than all settings

    found: dict[str, str] = {}
    for point in entry_points(group=METHOD_GROUP):
        if point.name in TAKEN or not is_method_name(point.name) or found.get(point.name, point.value) != point.value:
            raise ValueError(
                f"{METHOD_GROUP}: got the name {point.name!r} for {point.value}; expected a free name of letters, "
                "digits, '_', '.' and '-'; correct or remove the package"
            )
        found[point.name] = point.value
    return found


def own_methods() -> tuple[str, ...]:
    """Return the names of the users' methods: registered ones, and those of installed packages."""
    return tuple(dict.fromkeys((*OWN, *method_entry_points())))


def check_method(text: str, *, flag: str = "--method", several: bool = False) -> None:
    """Raise a ValueError unless a setting names a method, one of the user's own, all, or a choice among them.

    Nothing is imported.

    Args:
        text: The setting.
        flag: What messages call it.
        several: Whether it is one of several, of which none can be all or a choice.
    """
    choosing, every = ((), ()) if several else (CHOOSING, ("all",))
    if text not in (*choosing, *METHODS, *every, *OWN):
        check_choice_or_function(flag, text, (*choosing, *METHODS, *own_methods(), *every))


def check_classifier(flag: str, text: str) -> None:
    """Raise a ValueError unless a setting can name a classifier of a run, or a function that made one, or none.

    Which it has is known once the run is open: its classifiers need no method that is known here.
    """
    if text and not is_method_name(text):
        check_choice_or_function(flag, text, ("joint", *METHODS))


def own_method(text: str) -> OwnMethod:
    """Return the method of the user's own that a registered name, an entry point or `module:function` names.

    A function that its module registers goes by its registered name, any other by `module.function`.

    Raises:
        ValueError: There is no such method, or it cannot be imported.
    """
    if text in OWN:
        return OWN[text]
    points = {} if names_function(text) else method_entry_points()
    make = load("--method", points.get(text, text))
    if text in OWN:  # importing it has registered it
        return OWN[text]
    registered = next((method for method in OWN.values() if method.make is make), None)
    if text in points:
        OWN[text] = replace(registered or OwnMethod(name=text, make=make), name=text)
        return OWN[text]
    if registered is None:
        name = text.replace(":", ".")
        registered = OWN[name] = OwnMethod(name=name, make=make)
    return registered


def method_names(text: str) -> tuple[str, ...]:
    """Return the names of the methods that a setting stands for: the one, or all.

    Raises:
        ValueError: The user's own function cannot be imported.
    """
    if text == "all":
        return (*METHODS, *own_methods())
    return (own_method(text).name,) if names_function(text) else (text,)
