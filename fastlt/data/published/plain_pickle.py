"""Read a pickle of numbers, texts, lists, dictionaries and arrays of bytes, as the CIFAR archives are, and no other.

Python's own reader runs what a pickle names, and takes the memory that it asks for. This one knows the few codes that
the archives consist of, and takes little more memory than the pickle itself has bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_STEPS = 2_000_000
"""Codes above which a pickle is refused; the largest public file has 300,000."""

_VIEWED_BYTES = 4096  # bytes from here on are not copied

# Codes with the bytes of the length, number or key that follows
_BYTES = {ord("U"): 1, ord("C"): 1, ord("T"): 4, ord("B"): 4, 0x8E: 8}
_TEXTS = {0x8C: 1, ord("X"): 4, 0x8D: 8}
_INTEGERS = {ord("K"): 1, ord("M"): 2}
_SIGNED = ord("J")
_KEEP, _RECALL = {ord("q"): 1, ord("r"): 4}, {ord("h"): 1, ord("j"): 4}
_IGNORED = {0x80: 1, 0x95: 8}  # the protocol's number, and the length of a frame
# Other codes
_CONSTANTS = {ord("N"): None, 0x88: True, 0x89: False}
_TUPLES = {ord(")"): 0, 0x85: 1, 0x86: 2, 0x87: 3}
_STOP, _MARK, _MARKED_TUPLE, _KEEP_NEXT = ord("."), ord("("), ord("t"), 0x94
_LIST, _DICT, _APPEND, _EXTEND, _SET, _UPDATE = b"]}aesu"
_NAME, _STACKED_NAME, _CALL, _SET_STATE = ord("c"), 0x93, ord("R"), ord("b")

_MAKE_ARRAY = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_NAMES = frozenset({*_MAKE_ARRAY, "numpy.ndarray", "numpy.dtype", "_codecs.encode"})


class Name(str):
    """The name of a function or class that a pickle may have."""

    __slots__ = ()


class Made:
    """What a pickle makes by a name: an array or its type."""

    def __init__(self, name: Name, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def array(self) -> np.ndarray:
        """Return the array, which must be of uint8.

        Raises:
            Exception: It is no such array.
        """
        _, shape, dtype, fortran, content = self.state
        if dtype.name != "numpy.dtype" or dtype.arguments[:1] not in ((b"u1",), ("u1",)):
            raise ValueError("it has an array of another type than uint8")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


def load_plain(content: bytes) -> Any:
    """Return what a pickle holds: bytes for texts of Python 2, `Made` for arrays.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: It is damaged, or has anything else in it.
    """
    return _Reader(content).read()


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._kept: dict[int, Any] = {}
        self._encodable = len(content)

    def read(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self._number(1)
            if code == _STOP:
                return self._stack.pop()
            self._step(code)
        raise ValueError(f"it has more than {MAX_STEPS} codes")

    def _take(self, length: int) -> memoryview:
        end = self._at + length
        if end > len(self._content):
            raise ValueError(f"it ends before the {length:,} bytes that it announces")
        taken = self._content[self._at : end]
        self._at = end
        return taken

    def _number(self, length: int) -> int:
        return int.from_bytes(self._take(length), "little")

    def _line(self) -> str:
        line, end, _ = bytes(self._content[self._at : self._at + 100]).partition(b"\n")
        self._take(len(line + end))
        return line.decode()

    def _marked(self) -> list[Any]:
        """Take everything above the last mark off the stack."""
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _step(self, code: int) -> None:
        push, pop = self._stack.append, self._stack.pop
        if code in _INTEGERS:
            push(self._number(_INTEGERS[code]))
        elif code in _KEEP:
            self._kept[self._number(_KEEP[code])] = self._stack[-1]
        elif code == _KEEP_NEXT:
            self._kept[len(self._kept)] = self._stack[-1]
        elif code in _RECALL:
            push(self._kept[self._number(_RECALL[code])])
        elif code in _BYTES:
            taken = self._take(self._number(_BYTES[code]))
            push(taken if len(taken) >= _VIEWED_BYTES else bytes(taken))
        elif code in _TEXTS:
            push(str(self._take(self._number(_TEXTS[code])), "utf-8"))
        elif code == _SIGNED:
            push(int.from_bytes(self._take(4), "little", signed=True))
        elif code in _CONSTANTS:
            push(_CONSTANTS[code])
        elif code == _MARK:
            self._marks.append(len(self._stack))
        elif code == _LIST:
            push([])
        elif code == _DICT:
            push({})
        elif code == _APPEND:
            value = pop()
            self._stack[-1].append(value)
        elif code == _EXTEND:
            values = self._marked()
            self._stack[-1].extend(values)
        elif code == _SET:
            value, key = pop(), pop()
            self._update([key, value])
        elif code == _UPDATE:
            self._update(self._marked())
        elif code in _TUPLES:
            count = _TUPLES[code]
            values = [pop() for _ in range(count)]
            push(tuple(reversed(values)))
        elif code == _MARKED_TUPLE:
            push(tuple(self._marked()))
        elif code == _NAME:
            push(_allowed(self._line(), self._line()))
        elif code == _STACKED_NAME:
            name, module = pop(), pop()
            push(_allowed(module, name))
        elif code == _CALL:
            arguments, name = pop(), pop()
            push(self._call(name, arguments))
        elif code == _SET_STATE:
            state = pop()
            self._stack[-1].state = state
        elif code in _IGNORED:
            self._take(_IGNORED[code])
        else:
            raise ValueError(f"it has the code {code:#x}, which the public archive does not")

    def _update(self, pairs: list[Any]) -> None:
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, (bytes, str)):  # a nested tuple can take forever to hash
                raise TypeError("it has a key that is no text")
            self._stack[-1][key] = value

    def _call(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise TypeError("it calls what cannot be called")
        if name == "_codecs.encode":
            text, encoding = arguments
            self._encodable -= len(text)
            if encoding != "latin1" or self._encodable < 0:
                raise ValueError("it encodes more text than it has")
            return text.encode("latin-1")
        return Made(name, arguments)


def _allowed(module: str, name: str) -> Name:
    if f"{module}.{name}" not in _NAMES:
        raise ValueError(f"it names {module}.{name}, which the public archive does not")
    return Name(f"{module}.{name}")
