"""What all settings share: their checks, and reading and writing them as JSON."""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

T = TypeVar("T")

SAMPLINGS = ("instance_balanced", "class_balanced", "square_root", "progressively_balanced")
LOADERS = ("auto", "memory", "dali", "pillow", "device")
PRECISIONS = ("auto", "fp32", "bf16")
INTERPOLATIONS = ("bilinear", "bicubic")
PROTOCOLS = ("paper", "released")
METHODS = {
    "tau": "W / ||W||^tau without a bias",
    "crt": "a new classifier, trained on class-balanced draws",
    "lws": "one learned scale per class",
    "ncm": "nearest class mean",
    "logit_adjustment": "b - strength log(prior)",
    "los": "retrained with label smoothing only",
    "max_norm": "retrained within a ball, with weight decay",
    "cosine": "retrained on unit vectors",
}
"""The rebalancing methods, and how the help describes them; `rebalancing.methods.registry` has the code of each."""
CHOOSING = ("auto", "best")
"""What stands for a method that is yet to be chosen: among those that take seconds, or among all."""
RENAMED = {"trunk_lr": "backbone_lr"}  # as older config.json files call it
LOSSES = ("cross_entropy", "balanced_softmax", "cb_focal", "ldam")
NAME = "NAME"
"""How the help writes the name of a method of the user's own."""
FUNCTION = "module:function"
"""How a setting names a function of the user's own; `config.plugins` finds it."""
SHOT_GROUPS = ("many", "medium", "few")
"""Groups of classes by their number of training images, as `metrics.shot_groups` splits them."""
GROUPS = ("all", "class_mean", *SHOT_GROUPS)
"""What an accuracy can be taken over, for reports and to choose settings by."""


def one_of(choices: Iterable[str]) -> str:
    """Return what the help writes for a value that is one of `choices`."""
    return f"{{{','.join(choices)}}}"


# A string in the annotation of a field is what the help writes for its value
Folder = Annotated[Path, "DIR"]
Root = Annotated[Path, "ROOT"]
File = Annotated[Path, "FILE"]
Device = Annotated[str, "auto|cpu|cuda[:N]"]
Sampling = Annotated[str, one_of(SAMPLINGS)]
Loader = Annotated[str, one_of(LOADERS)]
Precision = Annotated[str, one_of(PRECISIONS)]
Interpolation = Annotated[str, one_of(INTERPOLATIONS)]
Protocol = Annotated[str, one_of(PROTOCOLS)]
Target = Annotated[str, "uniform|train|FILE.csv|estimate:DIR"]


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ValueError that names the nearest choice unless `value` is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}; {nearest_of(value, choices)}choose one of {', '.join(choices)}")


def nearest_of(value: str, choices: Iterable[str]) -> str:
    """Return the question whether the nearest choice was meant; empty where none is near."""
    nearest = difflib.get_close_matches(value, tuple(choices), n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}? " if nearest else ""


def check_range(
    name: str, value: float, *, low: float, high: float = math.inf, low_open: bool = False, unit: str = ""
) -> None:
    """Raise a ValueError unless `value` is a finite number in [low, high], or in (low, high] with `low_open`."""
    # math.isfinite would fail for an integer beyond the range of floats
    if not abs(value) <= sys.float_info.max or value < low or value > high or (low_open and value == low):
        lower = f"more than {low:g}" if low_open else f"at least {low:g}"
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name}: got {value!s:.60}; expected a finite number, {lower}{upper}{unit and ' ' + unit}")


def check_full_range(name: str, values: Iterable[float], *, source: str = "") -> None:
    """Raise a ValueError if a mean or a deviation of channels is given in units of 0 to 255, with the right one."""
    values = tuple(values)
    if max(values) > 1:
        got, right = (" ".join(f"{value / unit:.6g}" for value in values) for unit in (1, 255))
        raise ValueError(
            f"{name}: got {got}{source}; expected at most 1, in units of the full range; divide by 255: {name} {right}"
        )


def changeable(default: T) -> T:
    """Return a field that may change when a run is resumed, since it says how the run is computed, not what."""
    field: T = dataclasses.field(default=default, metadata={"changeable": True})
    return field


def is_changeable(field: dataclasses.Field[Any]) -> bool:
    """Return whether a field may change when a run is resumed."""
    return "changeable" in field.metadata


def typed(value: Any) -> str:
    """Return a setting's value as a user would type it; nothing for none."""
    if isinstance(value, list | tuple):
        return " ".join(map(typed, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def number_from_zero(text: str) -> float:
    """Return the number in `text`; NaN unless it is a finite number from 0 up."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) and value >= 0 else math.nan


class Config:
    """Settings that can be written and read as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; paths become strings."""
        assert dataclasses.is_dataclass(self)
        return {key: str(v) if isinstance(v, Path) else v for key, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, source: str) -> Self:
        """Rebuild settings from `to_json`'s values.

        Args:
            values: Field values by name; those left out keep their defaults.
            source: The file they were read from, for messages.

        Returns:
            The settings.

        Raises:
            ValueError: A key is unknown, or a value is refused by the settings' own checks.
        """
        assert dataclasses.is_dataclass(cls)
        values = {RENAMED.get(key, key): value for key, value in values.items()}
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(
                f"{source}: got the unknown setting {unknown[0][:60]!r}, of another version of fastlt; use that version"
            )
        try:
            return values_as(cls, values)
        except ValueError as error:
            raise ValueError(
                f"{source}: got settings that do not fit ({error}); expected those that fastlt wrote; restore the file"
            ) from error


def values_as(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return an instance of a dataclass with the JSON values of its fields; lists become tuples, and strings paths.

    Raises:
        ValueError: A value has the wrong type, or is refused by the dataclass.
    """
    import msgspec  # here, since help and errors in flags need no JSON

    def revive(hint: type, value: Any) -> Any:
        if hint is Path and isinstance(value, str):
            return Path(value)
        raise TypeError(f"expected {hint.__name__}, got {type(value).__name__}")

    typed = msgspec.convert(values, kind, dec_hook=revive)

    def exact(name: str, value: Any) -> Any:
        # Not msgspec's own value: fingerprints of earlier versions tell 1 from 1.0 where a float is meant
        revived = getattr(typed, name)
        return revived if isinstance(revived, Path) else tuple(value) if isinstance(value, list) else value

    return kind(**{name: exact(name, value) for name, value in values.items()})
