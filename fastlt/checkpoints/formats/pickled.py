"""Load what torch.save wrote, without running code in it, and without the memory that a hostile file asks for."""

from __future__ import annotations

import argparse
import io
import mmap
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...files import check_regular, deciphering
from ...files.reading import check_growth
from .opcodes import Steps

EXPECTED = "a .pth file of tensors that torch.save wrote, or .safetensors"
REMEDY = "fetch it again, or save its state_dict() anew"
MAX_DIRECTORY = 8 << 20  # bytes: that of 100,000 tensors
NUM_HEADERS = 3  # pickles before that of the tensors, in the format in use until 2020
_CHUNK = 1 << 20


def load_pickled(path: Path) -> Any:
    """Load what torch.save wrote, without running code in it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no regular file, is damaged, would need far more memory than it has bytes, or holds objects
            whose code would have to run.
    """
    check_regular(path, "a .pth file")
    with deciphering(path, expected=EXPECTED, remedy=REMEDY):
        check_zip(path) if is_zip(path) else check_pickles(path)
        try:
            with torch.serialization.safe_globals(harmless_types()):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            text = str(error)
            match = re.search(r"GLOBAL (\S+)", text)
            if match is None:
                raise pickle.UnpicklingError(text.rpartition("WeightsUnpickler error: ")[2]) from error
            refused = match[1]
    raise ValueError(
        f"{path}: got a Python object, {refused}, which is not loaded; expected a file of tensors that torch.save "
        "wrote; save its state_dict() alone, or as .safetensors"
    )


def harmless_types() -> list[Any]:
    """Return harmless types that scripts save beside weights: those of their command line and of NumPy's numbers."""
    scalar = np.float64(0).__reduce__()[0]
    numbers = [np.dtype, *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd")]
    return [argparse.Namespace, (scalar, "numpy.core.multiarray.scalar"), scalar, *numbers]


def is_zip(path: Path) -> bool:
    """Return whether PyTorch takes a file for one of its format since 2020, a zip archive."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


class Directory(io.FileIO):
    """A file of which only pieces of moderate size are read: the directory of an archive comes in one."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes."""
        content = super().read(MAX_DIRECTORY + 1 if size is None or size < 0 else min(size, MAX_DIRECTORY + 1))
        if len(content) > MAX_DIRECTORY:
            raise zipfile.BadZipFile("its directory is too long")
        return content


def check_zip(path: Path) -> None:
    """Raise unless an archive's members are whole, none is far larger than the file, and the tensors are in them.

    PyTorch believes the sizes in the archive and in its pickle, and verifies no checksum.
    """
    with Directory(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        check_growth(sum(info.file_size for info in members), path.stat().st_size)
        if sum(info.compress_size for info in members) > path.stat().st_size:
            raise zipfile.BadZipFile("its members overlap")
        sizes = {info.filename.casefold(): info.file_size for info in members}  # PyTorch ignores case
        if len(sizes) < len(members):
            raise zipfile.BadZipFile("it has two members of one name")
        for info in members:
            info.CRC = info.CRC or None  # type: ignore[assignment]  # torch.save may be told to write none
            with archive.open(info) as member:
                while member.read(_CHUNK):
                    pass
        root = members[0].filename.partition("/")[0]
        steps = Steps(io.BytesIO(archive.read(f"{root}/data.pkl")))
    for key, size in steps.storages.items():
        if size > sizes.get(f"{root}/data/{key}".casefold(), 0):
            raise zipfile.BadZipFile(f"its tensors need {size:,} bytes of member {key}, more than that has")


def check_pickles(path: Path) -> None:
    """Raise unless a file of the old format, pickles and then the tensors' bytes, is as long as they say."""
    size = path.stat().st_size
    if not size:
        raise EOFError("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(NUM_HEADERS):
            Steps(content)
        if sum(Steps(content).storages.values()) > size:
            raise EOFError("it is shorter than its tensors")
        Steps(content)  # the order of the storages
