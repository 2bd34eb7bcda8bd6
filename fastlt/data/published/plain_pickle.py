"""Unpickle numbers, texts, lists, dictionaries and arrays of bytes, as the CIFAR archives hold, and nothing else."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np

MAX_STEPS = 2_000_000
"""Steps above which a pickle is refused; the largest public file has 300,000."""

_CODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
}


class PlainArray:
    """A stand-in for a numpy array in a pickle: it keeps the array's state without running numpy's code."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """Return the array, which must be of uint8."""
        _, shape, dtype, fortran, content = self.state
        if dtype.args[:1] not in ((b"u1",), ("u1",)):
            raise ValueError("it has an array of another type than uint8")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class PlainDtype:
    """A stand-in for a numpy dtype in a pickle."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and fields."""


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._encodable = len(content)

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return lambda *args: PlainArray()
            case "numpy", "ndarray":
                return PlainArray
            case "numpy", "dtype":
                return PlainDtype
            case "_codecs", "encode":
                return self._encode
        raise ValueError(f"it names {module}.{name}, which the public archive does not")

    def _encode(self, text: str, encoding: str) -> bytes:
        self._encodable -= len(text)
        if self._encodable < 0:
            raise ValueError("it encodes more text than it has")
        return text.encode(encoding)


def load_plain(content: bytes) -> Any:
    """Unpickle a CIFAR file: bytes for texts of Python 2, `PlainArray` for arrays.

    Raises:
        Exception: Of any kind; it is damaged, or asks for anything else.
    """
    check_steps(content)
    return _PlainUnpickler(content).load()


def check_steps(content: bytes) -> None:
    """Raise an exception of any kind unless unpickling takes little more memory than the pickle has bytes.

    Python's unpickler makes room for what a length or a memo's number announces; here it has to be there. A tuple is
    used once, since one that is twice in another, and so on, takes forever to hash.
    """
    previous, num_kept = "", 0
    tuples: set[int] = set()
    for number, (code, argument, _) in enumerate(pickletools.genops(content)):
        name = code.name
        if number > MAX_STEPS:
            raise ValueError(f"it takes more than {MAX_STEPS} steps")
        if name.endswith(("PUT", "MEMOIZE")):
            slot = num_kept if argument is None else int(argument)
            num_kept += 1
            if slot > number:
                raise ValueError(f"it numbers a value {slot} in step {number}")
            (tuples.add if "TUPLE" in previous else tuples.discard)(slot)
        if name not in _CODES or (name.endswith("GET") and argument in tuples):
            raise ValueError(f"it takes the step {name} as the public archive does not")
        previous = name
