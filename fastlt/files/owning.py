"""Locks: what several processes could write to has one owner at a time."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from ..runtime.log import log

LOCK = ".lock"
MAX_ATTEMPTS = 1000  # a working folder that was removed never comes back


@contextlib.contextmanager
def owned(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing to a folder inside a block; the lock, `.lock`, is in it.

    The folder is made if it is absent; it goes again, with parents that were absent, if it is still empty afterwards.

    Args:
        folder: The folder.
        wait: Wait for another owner instead of refusing.

    Raises:
        ValueError: Another process owns the folder, and `wait` is not set.
        OSError: The folder cannot be written.
    """
    with locked(folder / LOCK, shown=folder, wait=wait):
        yield


@contextlib.contextmanager
def reserved(target: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes from making a file or folder inside a block; the lock, `.NAME.lock`, is beside it.

    `owned` states the rest.
    """
    with locked(target.parent / f".{target.name}{LOCK}", shown=target, wait=wait):
        yield


@contextlib.contextmanager
def locked(file: Path, *, shown: Path, wait: bool) -> Iterator[None]:
    """Hold a lock file, which the system frees when its holder ends, inside a block, and remove it afterwards.

    Args:
        file: The lock file.
        shown: What it protects, for messages.
        wait: Wait for another holder instead of refusing.

    Raises:
        ValueError: Another process holds it, and `wait` is not set.
        OSError: It cannot be made.
    """
    made = [path for path in file.parents if not path.exists()]
    try:
        while True:
            descriptor = open_lock(file, shown)
            try:
                if take(descriptor, shown, wait=wait) and not is_same(descriptor, file):
                    continue  # the last holder removed the file in between
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)
                return
            finally:
                os.close(descriptor)
    finally:
        with contextlib.suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def open_lock(file: Path, shown: Path) -> int:
    """Open a lock file, made if it is absent, and return its descriptor; errors name `shown`."""
    for attempt in itertools.count(1):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            lost = isinstance(error, FileNotFoundError) or (
                isinstance(error, FileExistsError) and is_folder_or_gone(error)
            )
            if lost and attempt < MAX_ATTEMPTS:
                continue  # the last owner removed the folder in between
            error.filename = str(shown)
            raise
    raise AssertionError


def take(descriptor: int, shown: Path, *, wait: bool) -> bool:
    """Lock an open file; return False on a file system without locks.

    Raises:
        ValueError: Another process holds it, and `wait` is not set.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if not wait:
            raise ValueError(
                f"{shown}: got an output that another process writes; expected a free one; wait for that process, or "
                "stop it"
            ) from error
        log.info("another process writes to %s: waiting for it", shown)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        log.info("%s cannot be locked (%s): make sure that no other process writes to it", shown, error)
        return False
    return True


def is_folder_or_gone(error: OSError) -> bool:
    """Return whether an error is about a folder, or about what has gone since."""
    return Path(error.filename).is_dir() or not os.path.lexists(error.filename)


def is_same(descriptor: int, path: Path) -> bool:
    """Return whether a path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
