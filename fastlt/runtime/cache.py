"""The user's cache folder, also of a user without a home."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import tempfile
from pathlib import Path

from .log import log

LIBRARIES = {"MPLCONFIGDIR": "matplotlib", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_HOME": "triton"}
"""Where libraries cache, by the variable that says so."""


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
    home = home_cache()
    if home is None:
        announce(private_folder())
    return home / "fastlt" if home else private_folder()


def give_libraries_a_cache() -> None:
    """Point the libraries that cache in the user's home to the cache folder, if there is no such home."""
    if home_cache() is None:
        for variable, name in LIBRARIES.items():
            os.environ.setdefault(variable, str(cache_dir() / name))


def home_cache() -> Path | None:
    """Return ~/.cache; None if there is no home, or if it cannot be written."""
    try:
        folder = Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder if can_be_made(folder / "fastlt") else None


def advice(file: object) -> str:
    """Return what to do about a file or folder that cannot be written, if it is in the cache folder; else nothing."""
    with contextlib.suppress(ValueError, TypeError):  # a variable that names no folder; no path
        if Path(file).is_relative_to(cache_dir()):  # type: ignore[arg-type]
            return "; set FASTLT_CACHE to a folder that can be written"
    return ""


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
    """Make a folder of this user's own among the temporary files.

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
    return folder


@functools.cache
def announce(folder: Path) -> None:
    """Say once where the cache is."""
    log.info("no home folder that can be written: the cache is %s; set FASTLT_CACHE to keep it elsewhere", folder)
