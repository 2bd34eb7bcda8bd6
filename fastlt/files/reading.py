"""Reading files that may be damaged or hostile: bounded, checked against a type, and refused in one clear line."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

T = TypeVar("T")

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
MAX_DENSITY = 32  # times its size that a file of numbers may grow when it is unpacked
FREE_BYTES = 64 << 20  # up to here a file may grow as much as it likes


def check_regular(path: Path, expected: str = "a file") -> None:
    """Raise unless a path is a regular file: opening a pipe waits forever, and a device may never end.

    Raises:
        FileNotFoundError: There is nothing under this name.
        ValueError: It is a folder, a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected {expected}; check the name") from None
    _check_mode(path, mode, expected)


def _check_mode(path: Path | str, mode: int, expected: str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise ValueError(f"{path}: got {kind}; expected {expected}; give a regular file")


def open_regular(path: Path | str, expected: str = "a file") -> io.FileIO:
    """Open a regular file for reading, without a buffer and without waiting for anything.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is a pipe or a device.
    """
    file = io.FileIO(path, opener=_open_without_waiting)
    try:
        _check_mode(path, os.fstat(file.fileno()).st_mode, expected)
    except ValueError:
        file.close()
        raise
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe opens at once


def read_regular(path: Path | str, expected: str = "a file") -> bytes:
    """Return the bytes of a regular file; `open_regular` states the rest."""
    with open_regular(path, expected) as file, naming(path):
        return file.readall()


def read_limited(path: Path, limit: int, expected: str) -> bytes:
    """Return the bytes of a regular file that may be no longer than `limit`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no regular file, or longer.
    """
    check_regular(path, expected)
    with path.open("rb") as file, naming(path):
        content = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    if len(content) > limit:
        raise ValueError(f"{path}: got more than {limit:,} bytes; expected {expected}; check the file")
    return content


@contextlib.contextmanager
def naming(path: Path | str, *temporary: Path) -> Iterator[None]:
    """Name the file in what the machine reports inside a block: a read or write that fails names none.

    Args:
        path: The file.
        *temporary: The names under which it is written, which nobody would know.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # as from NumPy, which forgets it
            raise OSError(errno.EIO, str(error), str(path)) from error
        if error.filename is None or str(error.filename) in map(str, temporary):
            error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def deciphering(path: Path | str, *, expected: str, remedy: str) -> Iterator[None]:
    """Turn whatever a decoder raises inside a block into one ValueError that names the file.

    A damaged file can make a decoder raise anything; only what the machine itself reports (a disk that fails, a file
    that cannot be opened) passes as it is.

    Args:
        path: The file.
        expected: What it should be.
        remedy: What to do about it.

    Raises:
        ValueError: The decoder failed.
        OSError: The machine failed.
    """
    try:
        yield
    except Exception as error:
        # A decoder that follows a damaged offset seeks to where no file can have anything
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            error.filename = error.filename or str(path)
            raise
        raise ValueError(
            f"{path}: got a file that cannot be read ({reason_of(error)}); expected {expected}; {remedy}"
        ) from error


def reason_of(error: Exception) -> str:
    """Return a decoder's error, which may quote the file, in a few printable words on one line."""
    words = " ".join(str(error).split())[:160] or type(error).__name__
    reason = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in words)
    return f"no {reason}" if isinstance(error, KeyError) else reason


@overload
def read_json(path: Path, *, remedy: str = ..., foreign: bool = ...) -> dict[str, Any]: ...
@overload
def read_json(path: Path, kind: type[T], *, remedy: str = ..., foreign: bool = ...) -> T: ...


def read_json(
    path: Path, kind: Any = dict[str, Any], *, remedy: str = "restore or delete the file", foreign: bool = False
) -> Any:
    """Read a JSON file whose content must fit a type.

    Args:
        path: The file.
        kind: A type that msgspec understands: a dataclass, a TypedDict, containers of these; by default any object.
            Keys that the type does not name are ignored.
        remedy: What to do about a file that does not fit.
        foreign: Accept NaN and Infinity, which other programs write though JSON has none.

    Returns:
        The content, as `kind`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no JSON, or does not fit; the message has the place of the fault.
    """
    check_regular(path, "a JSON file")
    with naming(path):
        content = path.read_bytes()
    return decode_json(content, kind, source=path, remedy=remedy, foreign=foreign)


def decode_json(
    content: bytes | str, kind: Any = dict[str, Any], *, source: Path | str, remedy: str, foreign: bool = False
) -> Any:
    """Return JSON text as `kind`; `read_json` states the rest, with `source` as the file's name."""
    import msgspec  # here, since help and errors in flags need no JSON

    if isinstance(content, bytes):
        content = content.removeprefix(b"\xef\xbb\xbf")
    with deciphering(source, expected="JSON of the usual form", remedy=remedy):
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # Half a surrogate pair too, with which Python writes a file name that is not UTF-8
            check = None if foreign else finite
            return msgspec.convert(json.loads(content, parse_constant=check, parse_float=check), kind)


def finite(text: str) -> float:
    """Return the number in `text`.

    Raises:
        ValueError: It is NaN or infinite.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of JSON")
    return number


def convert(value: Any, kind: type[T]) -> T:
    """Return a value that came from JSON as a type.

    Raises:
        ValueError: It does not fit; the message has the place of the fault.
    """
    import msgspec

    return msgspec.convert(value, kind)


def read_arrays(path: Path, names: Mapping[str, DTypeLike], *, remedy: str) -> dict[str, NDArray[Any]]:
    """Read arrays of numbers from a .npz file of ours, whose checksums NumPy verifies.

    Args:
        path: The file.
        names: The arrays that it must have, and their types.
        remedy: What to do about a damaged file.

    Returns:
        The arrays by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, lacks an array, or claims to be much larger than it is.
    """
    check_regular(path, "a .npz file")
    with deciphering(path, expected=f"a .npz file with {', '.join(names)}", remedy=remedy):
        with zipfile.ZipFile(path) as archive:
            check_growth(sum(info.file_size for info in archive.infolist()), path.stat().st_size)
            for info in archive.infolist():
                with archive.open(info) as member:
                    check_header(member, info.file_size)
        with np.load(path, allow_pickle=False) as arrays:
            read = {name: arrays[name] for name in names}
        for name, kind in names.items():
            if not np.can_cast(read[name].dtype, kind, "safe"):
                raise ValueError(f"{name} is {read[name].dtype}, not {np.dtype(kind)}")
    return read


def read_array(path: Path, *, remedy: str, mmap_mode: Any = None) -> NDArray[Any]:
    """Read or map a .npy file of numbers.

    Args:
        path: The file.
        remedy: What to do about a damaged file.
        mmap_mode: As for `numpy.load`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or shorter than its header says.
    """
    check_regular(path, "a .npy file")
    with deciphering(path, expected="a .npy file", remedy=remedy):
        with path.open("rb") as file:
            check_header(file, path.stat().st_size)
        array: NDArray[Any] = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        return array


def check_header(stream: Any, size: int) -> None:
    """Raise a ValueError unless a .npy file of `size` bytes has room for the numbers that its header announces."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    needed = dtype.itemsize
    for length in shape:
        needed *= length
    if needed > size:
        raise ValueError(f"its header announces {needed:,} bytes, more than the file has")


def check_growth(unpacked: int, packed: int) -> None:
    """Raise a ValueError if a file would grow out of proportion when it is unpacked.

    Args:
        unpacked: Bytes that it announces.
        packed: Bytes that it has.
    """
    if unpacked > max(FREE_BYTES, MAX_DENSITY * packed):
        raise ValueError(f"its {packed:,} bytes would become {unpacked:,}, out of all proportion")
