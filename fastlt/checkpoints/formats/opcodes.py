"""What a pickle would do, found without doing it: how often, with how much memory, and to which storages."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any, BinaryIO

MAX_STEPS = 1_000_000
COPIED = 4  # times its length that calls in a pickle may copy
FREE_COPIES = 1 << 16

ITEM_BYTES = {
    **dict.fromkeys(("ComplexDoubleStorage",), 16),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
}
"""Bytes of a number in a storage; 1 in others."""


class Name(str):
    """The name of a function or type, `module name`."""

    __slots__ = ()


class Made:
    """An object that a pickle would make, with the number of its parts."""

    __slots__ = ("size",)

    def __init__(self, size: int = 0) -> None:
        self.size = size


class Steps:
    """The steps of one pickle, followed with stand-ins for all objects, up to its end or to one that PyTorch refuses.

    `storages` has the bytes of each storage by its key.

    Args:
        stream: The pickle; it is left behind its end.

    Raises:
        Exception: Of any kind; the pickle is malformed, or would take memory or time out of proportion.
    """

    def __init__(self, stream: BinaryIO | Any) -> None:
        self.storages: dict[str, int] = {}
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0
        start = stream.tell()
        for number, (opcode, argument, place) in enumerate(pickletools.genops(stream)):
            if number > MAX_STEPS:
                raise UnpicklingError(f"it takes more than {MAX_STEPS:,} steps")
            if opcode.name == "STOP" or opcode.name not in ACTIONS:
                break
            ACTIONS[opcode.name](self, argument)
            if self.copied > FREE_COPIES + COPIED * ((place or 0) - start):
                raise UnpicklingError("it copies the same data again and again")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        """Begin a group of values."""
        self.outer.append(self.stack)
        self.stack = []

    def group(self) -> list[Any]:
        """End a group of values and return it."""
        values = self.stack
        self.stack = self.outer.pop()
        return values

    def tie(self, count: int) -> None:
        """Replace the last values by a tuple of them."""
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.push(values)

    def add(self, count: int) -> None:
        """Count new parts of the last object."""
        self.stack[-1].size += count

    def set_item(self, _: Any) -> None:
        """Drop a key and its value."""
        del self.stack[-2:]
        self.add(1)

    def append(self, _: Any) -> None:
        """Drop a value."""
        self.stack.pop()
        self.add(1)

    def call(self, _: Any) -> None:
        """Call a function or type.

        Raises:
            UnpicklingError: It would make something of any size.
        """
        arguments, function = self.stack.pop(), self.stack.pop()
        name = function.rpartition(" ")[2] if isinstance(function, Name) else ""
        values = arguments if isinstance(arguments, tuple) else ()
        by_size = name == "bytearray" and any(isinstance(value, int) for value in values)
        by_codec = name == "encode" and values[1:] != ("latin1",)
        if by_size or by_codec or name.endswith(("Tensor", "Storage")):
            raise UnpicklingError(f"it calls {name} as torch.save does not")
        size = size_of(arguments) + sum(map(size_of, values))
        self.copied += size
        self.push(Made(size))

    def build(self, _: Any) -> None:
        """Give an object its state."""
        self.copied += size_of(self.stack.pop())

    def storage(self, _: Any) -> None:
        """Note the size of a storage."""
        kind, storage_type, key, _, count = self.stack.pop()[:5]
        if kind != "storage" or not isinstance(count, int) or count < 0:
            raise UnpicklingError("it has a storage without a size")
        size = count * ITEM_BYTES.get(storage_type.rpartition(" ")[2], 1)
        self.storages[str(key)] = max(size, self.storages.get(str(key), 0))
        self.push(Made())

    def keep(self, place: int) -> None:
        """Remember the last value."""
        self.memo[place] = self.stack[-1]


def size_of(value: Any) -> int:
    """Return how many bytes or parts of a value a call could copy."""
    if isinstance(value, Made):
        return value.size
    return len(value) if isinstance(value, (str, bytes, tuple)) else 0


ACTIONS: dict[str, Callable[[Steps, Any], object]] = {
    "PROTO": lambda steps, _: None,
    "MARK": Steps.mark,
    "GLOBAL": lambda steps, name: steps.push(Name(name)),
    "NEWOBJ": Steps.call,
    "REDUCE": Steps.call,
    "BUILD": Steps.build,
    "BINPERSID": Steps.storage,
    "APPEND": Steps.append,
    "APPENDS": lambda steps, _: steps.add(len(steps.group())),
    "SETITEM": Steps.set_item,
    "SETITEMS": lambda steps, _: steps.add(len(steps.group()) // 2),
    "TUPLE": lambda steps, _: steps.push(tuple(steps.group())),
    "TUPLE1": lambda steps, _: steps.tie(1),
    "TUPLE2": lambda steps, _: steps.tie(2),
    "TUPLE3": lambda steps, _: steps.tie(3),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE"), lambda steps, _: steps.push(None)),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), lambda steps, _: steps.push(Made())),
    "EMPTY_TUPLE": lambda steps, _: steps.push(()),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"), Steps.push),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda steps, place: steps.push(steps.memo[place])),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), Steps.keep),
}
"""The steps that PyTorch takes; any other ends its reading."""
