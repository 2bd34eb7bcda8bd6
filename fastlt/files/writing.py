"""Atomic writing: a reader sees the old content of a file or folder or the new, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .owning import LOCK, is_same, reserved
from .reading import naming

_PARTIAL = re.compile(r"\.(.+\.)?[0-9]+\.partial", re.DOTALL)  # .NAME.PID.partial


def partial_name(path: Path) -> Path:
    """Return the name under which this process writes what will be called `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary name beside `file` to write to, and rename it to `file` when the block succeeds.

    The content is on the disk before the rename, so that a power cut leaves no incomplete file. What killed processes
    left of earlier tries goes first.
    """
    sweep(file.parent, file.name)
    with replacing_unswept(file) as partial:
        yield partial


@contextlib.contextmanager
def replacing_unswept(file: Path) -> Iterator[Path]:
    """Do as `replacing` in a folder of so many files that it takes long to search; the caller sweeps it once."""
    partial = partial_name(file)
    try:
        with naming(file, partial):
            file.parent.mkdir(parents=True, exist_ok=True)
            with held(partial):
                yield partial
                flush(partial)
                partial.replace(file)
    finally:
        with contextlib.suppress(OSError):  # a disk that fails here too has already raised above
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill that becomes `folder` when the block succeeds.

    It has a temporary name beside `folder`, so that `folder` comes into being whole. Where `folder` exists already, it
    is filled in place, since it may be the root of a volume; what marks it as complete has to be written last.

    Raises:
        FileExistsError: Another process has made `folder` in the meantime.
    """
    if folder.is_dir():
        with naming(folder):
            yield folder
        return
    with aside(folder, shown=folder) as partial:
        yield partial
        try:
            partial.rename(folder)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder)) from error
            raise


@contextlib.contextmanager
def replacing_set(mark: Path, stale: Iterable[str] = ()) -> Iterator[Path]:
    """Yield an empty folder for files that belong together, and move them to their place when the block succeeds.

    Files of two sets are never beside each other with the mark: the old one goes before any other file changes, and
    the new one comes last. A process that is killed before leaves the old set as it was.

    Args:
        mark: The file of the set by which readers know that it is whole; its folder is where the files go.
        stale: Patterns of further files in that folder that belong to the old set, and go with its mark.
    """
    with aside(mark, shown=mark.parent) as partial:
        yield partial
        files = sorted(partial.iterdir(), key=lambda file: file.name == mark.name)
        for file in files:
            flush(file)
        mark.unlink(missing_ok=True)
        for file in [file for pattern in stale for file in mark.parent.glob(pattern)]:
            file.unlink(missing_ok=True)
        for file in files:
            file.replace(mark.parent / file.name)


def flush(file: Path) -> None:
    """Wait until a file's content is on the disk."""
    with naming(file), file.open("rb") as written:
        os.fsync(written.fileno())


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block succeeds; the old one, if any, goes.

    A process that is killed leaves the old content or the new one, if need be under a name from which `settle` puts it
    back. The caller owns the place.
    """
    folder = folder.resolve()
    settle(folder)
    with aside(folder, shown=folder) as partial:
        yield partial
        for file in partial.iterdir():
            flush(file)
        try:
            if folder.is_dir():
                folder.rename(replaced_name(folder))
            partial.rename(folder)
        finally:
            settle(folder)


def settle(folder: Path) -> None:
    """Finish what a killed process began with `replacing_folder`: the new content stays if it is there, or the old."""
    replaced = replaced_name(folder.resolve())
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    elif replaced.is_dir():
        replaced.rename(folder.resolve())


def replaced_name(folder: Path) -> Path:
    """Return the name that a folder has while another one takes its place."""
    return folder.with_name(f".{folder.name}.replaced")


@contextlib.contextmanager
def aside(target: Path, *, shown: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`, which goes again; errors name `shown` in its place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, target.name)
        partial = partial_name(target)
        partial.mkdir()
        try:
            with held(partial), naming(shown):
                yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        path = partial_name(target)
        if error.errno is not None and error.filename and (found := Path(str(error.filename))).is_relative_to(path):
            error.filename, error.filename2 = str(shown / found.relative_to(path)), None
        raise


def make_once(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder unless it exists; processes that ask for the same one at once wait for the first.

    Args:
        folder: The folder.
        fill: A function that fills the folder it is given, which exists and is empty.
    """
    if folder.is_dir():
        return
    with reserved(folder, wait=True):
        if not folder.is_dir():
            with making(folder) as partial:
                fill(partial)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock on a temporary file (made here) or folder inside a block, by which `sweep` knows that it is in use.

    A file system without locks keeps what killed processes leave behind.
    """
    is_folder = path.is_dir()
    while True:
        flags = os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not is_folder and not is_same(descriptor, path):
                continue  # swept in between
            yield
            return
        finally:
            os.close(descriptor)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in a folder under temporary names.

    Args:
        folder: The folder; folders in it are not searched.
        name: Only the temporary names of this file or folder.
    """
    with contextlib.suppress(OSError):
        for path in [Path(entry.path) for entry in os.scandir(folder) if is_partial(entry.name, name)]:
            remove_unless_held(path)


def is_partial(found: str, name: str | None = None) -> bool:
    """Return whether a file's name is a temporary one: that of `name`, or any."""
    return bool(_PARTIAL.fullmatch(found)) and (name is None or found.rsplit(".", 2)[0] == f".{name}")


def remove_unless_held(path: Path) -> None:
    """Remove a temporary file or folder unless the process that writes it is alive, or nobody can tell."""
    if path.is_symlink():  # cannot be held: whoever makes one under a temporary name holds another lock meanwhile
        path.unlink(missing_ok=True)
        return
    try:
        descriptor = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return
    finally:
        os.close(descriptor)


def contents(folder: Path) -> list[str]:
    """Return the names in a folder, sorted, without locks and what killed processes left; empty if it is absent."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in os.scandir(folder)]
    return sorted(name for name in names if not is_partial(name) and not (name.startswith(".") and name.endswith(LOCK)))


def check_empty(flag: str, folder: Path) -> None:
    """Raise a ValueError unless a folder is absent or empty; locks and left-overs do not count."""
    if folder.exists() and (not folder.is_dir() or contents(folder)):
        raise ValueError(f"{flag}: got {folder}, which is not empty; expected a new folder; choose another name")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
