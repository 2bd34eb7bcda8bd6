import dataclasses
import io
import json
import os
import socket
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlt.data.layouts.lists import read_list
from fastlt.files import check_regular, deciphering, read_array, read_arrays, read_json, read_limited
from fastlt.files.reading import read_regular


@dataclasses.dataclass
class Facts:
    class_names: tuple[str, ...]
    class_counts: list[int]


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_json_is_read_as_a_type(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", '{"class_names": ["a", "b"], "class_counts": [2, 1], "more": null}')
    assert read_json(file, Facts) == Facts(("a", "b"), [2, 1])
    assert read_json(file)["more"] is None


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"class_names": ["a", 3], "class_counts": []}', r"\$\.class_names\[1\]"),
        ('{"class_counts": []}', "class_names"),
        ('{"class_names": [], "class_counts": [1e999]}', r"\$\.class_counts"),
        ("[]", "Facts|object"),
        ('{"more": ' + "[" * 100_000, "recursion"),
        ('{"class_names": ["\\ud800"], "class_counts": [NaN]}', r"a\.json"),
        (b"\xff\xfe\x00", r"a\.json"),
        ("", r"a\.json"),
        ('{"class_names": [], "class_counts": [' + "9" * 5000 + "]}", r"\$\.class_counts"),
    ],
)
def test_json_of_another_form_names_file_and_place(tmp_path: Path, content: bytes | str, named: str) -> None:
    file = write(tmp_path / "a.json", content)
    with pytest.raises(ValueError, match=named) as caught:
        read_json(file, Facts)
    assert str(file) in str(caught.value)


def test_nan_is_read_from_other_programs_files(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", '{"x": NaN}')
    assert np.isnan(read_json(file, foreign=True)["x"])
    with pytest.raises(ValueError, match=r"a\.json"):
        read_json(file)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: socket.socket(socket.AF_UNIX).bind(path)])
def test_only_regular_files_are_opened(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "x"
    make(str(path))
    for read in (check_regular, read_json, lambda path: read_limited(path, 10, "a file")):
        with pytest.raises(ValueError, match=str(path)):
            read(path)
    with pytest.raises(ValueError, match=str(path)):
        read_array(path, remedy="")
    with pytest.raises(ValueError, match="/dev/zero"):
        check_regular(Path("/dev/zero"))
    with pytest.raises(FileNotFoundError, match="missing"):
        check_regular(tmp_path / "missing")


def test_a_long_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a", b"12345")
    assert read_limited(file, 5, "a file") == b"12345"
    with pytest.raises(ValueError, match="4 bytes"):
        read_limited(file, 4, "a file")


@pytest.mark.parametrize(
    "error", [KeyError("x"), RecursionError("deep"), RuntimeError(), OSError("bad"), MemoryError()]
)
def test_a_decoders_error_names_the_file(error: Exception) -> None:
    with pytest.raises(ValueError, match=r"^a\.bin: "), deciphering("a.bin", expected="x", remedy="y"):
        raise error


def test_what_a_decoder_quotes_is_printable() -> None:
    with (
        pytest.raises(ValueError, match=r"bad \\x1b\[31mé\\udc80 x") as caught,
        deciphering("a", expected="", remedy=""),
    ):
        raise RuntimeError("bad \x1b[31mé\udc80\n x")
    assert str(caught.value).isprintable()


def test_the_machines_errors_pass() -> None:
    with pytest.raises(OSError, match="Input") as caught, deciphering("a.bin", expected="x", remedy="y"):
        raise OSError(5, "Input/output error")
    assert caught.value.errno == 5


def test_arrays_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.zeros((2, 2), np.float32))
    read = read_arrays(tmp_path / "a.npz", {"x": "<i8", "y": "<f4"}, remedy="")
    assert read["x"].tolist() == [0, 1, 2]
    for names in ({"z": "<i8"}, {"y": "<i8"}):
        with pytest.raises(ValueError, match=r"a\.npz"):
            read_arrays(tmp_path / "a.npz", names, remedy="")


def npy(header: dict[str, Any], content: bytes = b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    lie = npy({"descr": "<f4", "fortran_order": False, "shape": (10**12, 4)}, bytes(64))
    objects = npy({"descr": "|O", "fortran_order": False, "shape": (1,)}, bytes(8))
    for content in (lie, objects, lie[:20], b"\x93NUMPY\x01\x00\x06\x00((((((", b""):
        with pytest.raises(ValueError, match=r"a\.npy"):
            read_array(write(tmp_path / "a.npy", content), remedy="")
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", content)
        with pytest.raises(ValueError, match=r"a\.npz"):
            read_arrays(tmp_path / "a.npz", {"x": "<f4"}, remedy="")


def test_a_deflate_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(
            "x.npy", npy({"descr": "|u1", "fortran_order": False, "shape": (100 << 20,)}, bytes(100 << 20))
        )
    with pytest.raises(ValueError, match="proportion"):
        read_arrays(tmp_path / "a.npz", {"x": "|u1"}, remedy="")


def test_a_changed_byte_of_an_npz_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(1000))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 1
    with pytest.raises(ValueError, match=r"a\.npz"):
        read_arrays(write(tmp_path / "a.npz", bytes(content)), {"x": "<i8"}, remedy="")


def test_an_npz_that_leads_outside_itself_is_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.rindex(b"PK\x05\x06") + 16  # where the list of files starts
    content[at : at + 4] = b"\xff" * 4
    with pytest.raises(ValueError, match=r"a\.npz"):
        read_arrays(write(tmp_path / "a.npz", bytes(content)), {"x": "<i8"}, remedy="")


def test_json_numbers_stay_as_written(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, -3e-300, True, None, "x"]}
    assert read_json(write(tmp_path / "a.json", json.dumps(value))) == value


def test_names_that_are_not_utf_8_come_back(tmp_path: Path) -> None:
    value = {"class_names": ["caf\udce9", "b"], "class_counts": [2, 1]}
    assert read_json(write(tmp_path / "a.json", json.dumps(value)), Facts) == Facts(("caf\udce9", "b"), [2, 1])
    for text in (r'{"x": "\ud800", "y": NaN}', r'{"x": "\ud800", "y": 1e999}'):
        with pytest.raises(ValueError, match=r"a\.json.*(NaN|1e999)"):
            read_json(write(tmp_path / "a.json", text))


@pytest.mark.parametrize(
    "read",
    [
        read_json,
        read_regular,
        partial(read_limited, limit=9, expected="text"),
        partial(read_array, remedy="none"),
        partial(read_list, root=Path()),
    ],
)
def test_a_read_that_fails_names_the_file(read: Any) -> None:
    memory = Path("/proc/self/mem")  # nothing is at its beginning
    with pytest.raises(OSError, match="Input/output error") as caught:
        read(memory)
    assert caught.value.filename == str(memory)
