"""The user's cache folder, also of a user without a home."""

from __future__ import annotations

import errno
import functools
import os
import tempfile
from pathlib import Path

from .log import log


def cache_dir() -> Path:
    """Return the user's cache folder: $FASTLT_CACHE, else $XDG_CACHE_HOME/fastlt, else ~/.cache/fastlt.

    A user without a home, or with one that cannot be written, as in many containers, gets a private folder among the
    temporary files.

    Raises:
        ValueError: A variable names no folder, or there is no place for a private one.
    """
    if own := os.environ.get("FASTLT_CACHE"):
        return named_folder("FASTLT_CACHE", own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return named_folder("XDG_CACHE_HOME", shared) / "fastlt"
    try:
        folder = Path.home() / ".cache" / "fastlt"
    except RuntimeError:
        return private_folder()
    return folder if can_be_made(folder) else private_folder()


def named_folder(variable: str, value: str) -> Path:
    """Return the folder that an environment variable names, as an absolute path."""
    try:
        folder = Path(value).expanduser().absolute()
        valid = folder.is_dir() or not folder.exists()
    except (RuntimeError, OSError):  # no such user; no such working folder; a name that is too long
        valid = False
    if not valid:
        raise ValueError(f"{variable}: got {value!r}; expected a folder; set it to one, or unset it")
    return folder


def can_be_made(folder: Path) -> bool:
    """Return whether a folder exists, or this process may make it."""
    try:
        if folder.is_dir():
            return True
        nearest = next(parent for parent in folder.parents if parent.exists())
    except OSError:  # a folder above it may not be entered
        return False
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


@functools.cache
def private_folder() -> Path:
    """Make a folder of this user's own among the temporary files, and say so once.

    Raises:
        ValueError: It cannot be made, or another user has made it.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"fastlt-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError(errno.EACCES, f"{folder} is another user's")
    except OSError as error:
        raise ValueError(
            f"FASTLT_CACHE: got none, and neither a home nor a temporary folder that can be written ({error.strerror})"
            "; expected a folder; set it"
        ) from error
    log.info("no home folder that can be written: the cache is %s; set FASTLT_CACHE to keep it elsewhere", folder)
    return folder
