"""Files that torch.save did not write, or not all of: refused in one line, with little memory."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlt.checkpoints.formats import opcodes
from fastlt.checkpoints.formats.opcodes import Steps
from fastlt.checkpoints.formats.pickled import load_pickled
from fastlt.checkpoints.reading import read_checkpoint

OneBitOff = Callable[[bytes, np.random.Generator], bytes]
MAGIC = 0x1950A86A20F9469CFC6C  # of the old format


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def called(name: str, *arguments: bytes) -> bytes:
    """Return a call of a function, `module name`."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def storage(count: int, key: str = "0") -> bytes:
    kind = b"ctorch\nFloatStorage\n"
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + b"tQ"


def old_storage(count: int) -> bytes:
    kind = b"ctorch\nFloatStorage\n"
    return b"(" + text("storage") + kind + text("0") + text("cpu") + number(count) + b"NtQ"


def tensor(stored: bytes, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    sizes, steps = (b"(" + b"".join(map(number, each)) + b"t" for each in (shape, strides))
    return called("torch._utils _rebuild_tensor_v2", stored, number(0), sizes, steps, b"\x89", b"}")


def state(*values: bytes) -> bytes:
    """Return a pickle of a dict of values."""
    items = b"".join(text(f"w{place}") + value for place, value in enumerate(values))
    return b"\x80\x02}(" + items + b"u."


def zipped(path: Path, content: bytes, data: bytes = bytes(8), how: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, member in (("data.pkl", content), ("byteorder", b"little"), ("data/0", data), ("version", b"3\n")):
            archive.writestr(f"net/{name}", member)


def old(path: Path, content: bytes, rest: bytes = b"") -> None:
    headers = [pickle.dumps(value, 2) for value in (MAGIC, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(headers) + content + rest)


def tar(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(bytes(4)))


def overlapping(path: Path) -> None:
    """Let every entry of an archive's directory name the same large member."""
    zipped(path, state(tensor(storage(2), (2,), (1,))), bytes(1 << 20))
    content = bytearray(path.read_bytes())
    start = content.rfind(b"PK\5\6")
    first = content.find(b"PK\1\2")
    entry = content[content.rfind(b"PK\1\2", 0, content.rfind(b"PK\1\2")) : content.rfind(b"PK\1\2")]
    many = b"".join(bytes(entry).replace(b"net/data/0", b"net/data/%x" % index) for index in range(16))
    end = content[start:]
    end[8:16] = struct.pack("<HHI", 20, 20, start - first + len(many))
    path.write_bytes(bytes(content[:start]) + many + bytes(end))


def long_directory(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("net/data.pkl")
        archive.writestr(info, b"\x80\x02}.")
        archive.filelist = [info] * 300_000  # type: ignore[attr-defined]


def with_same_name(path: Path) -> None:
    zipped(path, state(tensor(storage(2), (2,), (1,))))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("net/data.pkl", state())


def bit(path: Path) -> None:
    torch.save({"a": torch.ones(100)}, path)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<f", 1) * 50, struct.pack("<f", 2) + struct.pack("<f", 1) * 49, 1))


MANY = text("x" * 500_000) + b"q\x01"
COPIES = b"".join(b"c_codecs\nencode\n(h\x01" + text("latin1") + b"tR" for _ in range(5_000))
NESTED = b"](" + number(1) + b"q\x01" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(1, 33)) + b"e"
META = called("torch._utils _rebuild_meta_tensor_no_storage", b"ctorch\nfloat32\n", b"(K\x02t", b"(K\x01t", b"\x89")
PLAIN = tensor(storage(2), (2,), (1,))

HOSTILE: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "empty": lambda path: path.write_bytes(b""),
    "magic alone": lambda path: path.write_bytes(b"PK\x03\x04"),
    "text": lambda path: path.write_text("weights"),
    "bomb": lambda path: zipped(path, state(PLAIN), bytes(100 << 20), zipfile.ZIP_DEFLATED),
    "pickle that is a bomb": lambda path: zipped(path, state(text("x" * (100 << 20))), b"", zipfile.ZIP_DEFLATED),
    "storage larger than its member": lambda path: zipped(path, state(tensor(storage(3), (3,), (1,)))),
    "storage without a member": lambda path: zipped(path, state(tensor(storage(2, "1"), (2,), (1,)))),
    "storage of gigabytes": lambda path: zipped(path, state(tensor(storage(2**33), (2**33,), (1,)))),
    "negative storage": lambda path: zipped(path, state(tensor(storage(-1), (1,), (1,)))),
    "old storage of gigabytes": lambda path: old(path, state(tensor(old_storage(2**33), (2**33,), (1,)))),
    "old file cut short": lambda path: old(path, state(tensor(old_storage(2), (2,), (1,)))),
    "text of gigabytes": lambda path: zipped(path, b"\x80\x02X\xff\xff\xff\xff."),
    "old text of gigabytes": lambda path: old(path, b"\x80\x02X\xff\xff\xff\xff."),
    "old order of gigabytes": lambda path: old(path, state(), b"\x80\x02X\xff\xff\xff\xff."),
    "tensor that repeats a number": lambda path: zipped(path, state(tensor(storage(2), (2**33,), (0,)))),
    "tensors that repeat each other": lambda path: zipped(path, state(*[tensor(storage(2), (2**20,), (0,))] * 99)),
    "tensor without data": lambda path: zipped(path, state(META)),
    "tensor beyond its storage": lambda path: zipped(path, state(tensor(storage(2), (3,), (1,)))),
    "bytes of gigabytes": lambda path: zipped(path, state(PLAIN, called("builtins bytearray", number(2**33)))),
    "old bytes of gigabytes": lambda path: old(path, state(called("__builtin__ bytearray", number(2**33)))),
    "copies": lambda path: zipped(path, state(PLAIN, MANY, b"](" + COPIES + b"e")),
    "slow codec": lambda path: zipped(path, state(called("_codecs encode", text("\xe9" * 99_999), text("punycode")))),
    "codec of bytes": lambda path: zipped(
        path, state(called("_codecs encode", called("_codecs encode", text("x"), text("latin1")), text("zlib")))
    ),
    "tensor of nested lists": lambda path: zipped(path, state(NESTED, called("torch Tensor", b"h\x20"))),
    "tensor of a size": lambda path: zipped(path, state(called("torch FloatTensor", number(2**33)))),
    "storage of a size": lambda path: zipped(path, state(called("torch.storage UntypedStorage", number(2**33)))),
    "many steps": lambda path: zipped(path, state(PLAIN, b"(" + b"}" * 1_000_001 + b"t")),
    "dict in itself": lambda path: zipped(path, b"\x80\x02}q\x01" + text("model") + b"h\x01s."),
    "wrong order": lambda path: zipped(path, b"\x80\x02uuu."),
    "no such memory": lambda path: zipped(path, b"\x80\x02h\x05."),
    "tar": tar,
    "overlapping": overlapping,
    "long directory": long_directory,
    "same name twice": with_same_name,
    "bit": bit,
    "code": lambda path: zipped(path, state(called("os system", text("touch ran")))),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_in_one_line_with_little_memory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pth"
    HOSTILE[kind](path)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    child = os.fork()
    if child == 0:
        ending = 1
        try:
            read_checkpoint(path)
        except ValueError as error:
            good = str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(str(error)) < 600
            ending = 0 if good else 2
        finally:
            os._exit(ending)
    _, status, usage = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert usage.ru_maxrss * 1024 - before < 512 << 20
    assert [file.name for file in tmp_path.iterdir()] == ["net.pth"]


def test_a_state_is_read_that_holds_what_scripts_keep(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "state_dict": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3).half(), "empty": torch.zeros(0)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp": [1, 2.5, None, True]}}, "lr": np.float64(0.1)},
        "names": ["x" * 1000] * 20,
        "bytes": b"abc" * 1000,
        "set": {1, 2},
    }
    content["state_dict"]["tied"] = content["state_dict"]["a"][0]
    for name, options in (("new", {}), ("old", {"_use_new_zipfile_serialization": False})):
        torch.save(content, tmp_path / name, **options)
        found = load_pickled(tmp_path / name)
        assert found["state_dict"]["tied"].tolist() == [0, 1, 2]
        assert found["bytes"] == content["bytes"]
        assert list(read_checkpoint(tmp_path / name).tensors) == list(content["state_dict"])


def test_deep_nesting_does_no_harm(tmp_path: Path) -> None:
    zipped(tmp_path / "net.pth", state(PLAIN, b"]" * 100_000 + b"a" * 99_999))
    assert read_checkpoint(tmp_path / "net.pth").tensors["w0"].tolist() == [0, 0]


def test_files_without_checksums_of_their_members_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "net.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_pickled(tmp_path / "net.pth")["a"].tolist() == [1, 1, 1]


def test_no_damage_returns_other_tensors(tmp_path: Path, one_bit_off: OneBitOff) -> None:
    path = tmp_path / "net.pth"
    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.arange(5)}
    torch.save(tensors, path)
    content = path.read_bytes()
    draws = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        path.write_bytes(one_bit_off(content, draws))
        try:
            read = load_pickled(path)
        except ValueError:
            found += 1
        else:
            assert read.keys() == tensors.keys()
            assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert found > 50  # most of a small file is padding


def test_steps_are_counted_no_further_than_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opcodes, "MAX_STEPS", 10)
    stream = io.BytesIO(b"\x80\x02}." + b"}" * 20)
    assert Steps(stream).storages == {}
    assert stream.tell() == 4
    with pytest.raises(pickle.UnpicklingError, match="more than 10 steps"):
        Steps(stream)
