"""Files and folders: written whole or not at all, owned by one process at a time, and never trusted when read."""

from .owning import owned, reserved
from .reading import check_regular, deciphering, naming, read_array, read_arrays, read_json, read_limited
from .writing import (
    check_empty,
    contents,
    make_once,
    making,
    replacing,
    replacing_folder,
    replacing_set,
    settle,
    sweep,
    write_json,
)

__all__ = [
    "check_empty",
    "check_regular",
    "contents",
    "deciphering",
    "make_once",
    "making",
    "naming",
    "owned",
    "read_array",
    "read_arrays",
    "read_json",
    "read_limited",
    "replacing",
    "replacing_folder",
    "replacing_set",
    "reserved",
    "settle",
    "sweep",
    "write_json",
]
