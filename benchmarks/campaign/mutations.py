"""Damaged and hostile versions of a file, each a function of its content and a random generator only."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

RAN_CODE = 77  # the status of a process that ran the code in a pickle
BOMB_BYTES = 3 << 29  # 1.5 GB unpacked
DEEP = 100_000

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)
# Written into JSON as they are, some of which no JSON writer would write
TOKENS = (
    *("null", "true", "-1", "0", "1.5", '""', "[]", "{}", '"text"', "1e999", "-1e999", "NaN", "Infinity", "-0.0"),
    *("9" * 400, "-" + "9" * 5000, "1e-400", '"\\ud800"', '"\\u0000"', '"../../../etc/passwd"', '"/dev/zero"'),
    *("4294967296", "18446744073709551616", "9223372036854775807", "-9223372036854775809"),
    *('"\\u001b[31mred"', '"' + "x" * 100_000 + '"', "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP),
)


class Hostile:
    """An object whose pickle ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('os')._exit({RAN_CODE})",)


def zeros(num_bytes: int) -> bytes:
    """Return the raw deflated form of many zeros, made of one block repeated."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return block * (num_bytes >> 20) + squeeze.flush()


def gzip_bomb(before: bytes = b"") -> bytes:
    """Return a gzip file that unpacks to `before` and then very many zeros."""
    return gzip.compress(before) + b"\x1f\x8b\x08" + bytes(7) + zeros(BOMB_BYTES) + bytes(8)


def zip_bomb(content: bytes, random: random.Random) -> bytes:
    """Return a zip file with one member replaced by very many zeros, in honest headers."""
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    bomb = random.choice(names)
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(whole, "w") as new:
        for name in names:
            if name != bomb:
                new.writestr(name, old.read(name))
    packed, name = zeros(BOMB_BYTES), bomb.encode()
    crc = 0
    for _ in range(BOMB_BYTES >> 24):
        crc = zlib.crc32(bytes(1 << 24), crc)
    sizes = struct.pack("<HHHHHIII", 20, 0, 8, 0, 33, crc, len(packed), BOMB_BYTES)
    body = whole.getvalue()
    start = struct.unpack("<I", body[-6:-2])[0]
    local = b"PK\x03\x04" + sizes + struct.pack("<HH", len(name), 0) + name + packed
    entry = b"PK\x01\x02" + struct.pack("<H", 20) + sizes
    entry += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, start) + name
    directory = body[start:-22] + entry
    end = struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(directory), start + len(local), 0)
    return body[:start] + local + directory + b"PK\x05\x06" + end


def reseal_zip(content: bytes, random: random.Random) -> bytes:
    """Return a zip file with one member damaged and its checksum made right again."""
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(whole, "w") as new:
        names = old.namelist()
        chosen = random.choice(names)
        for name in names:
            new.writestr(name, damage(old.read(name), random) if name == chosen else old.read(name))
    return whole.getvalue()


def reseal_gzip(content: bytes, random: random.Random) -> bytes:
    """Return a gzip file with its content damaged and its checksum made right again."""
    return gzip.compress(damage(gzip.decompress(content), random), 1)


def hostile_pickles() -> list[bytes]:
    """Return pickles that run code, nest deeply, or ask for much memory."""
    return [
        *(pickle.dumps(value, protocol) for value in (Hostile(), {b"data": Hostile()}) for protocol in (0, 2, 4)),
        b"\x80\x02" + b"(" * 2_000_000 + b".",
        b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
        b"\x80\x04X\xff\xff\xff\x7f",  # a string of 2 GB
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
        b"\x80\x02N" + b"r" + struct.pack("<I", 0x7FFFFFFE) + b".",  # a memo of two billion places
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R.",
        b"\x80\x02}" + b"(K\x01K\x02u" * 10 + b"b.",
    ]


def damage(content: bytes, random: random.Random, other: bytes = b"") -> bytes:
    """Return some bytes with one to three faults in them; `other` is content to splice in."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        where = random.randrange(len(data) + 1)
        if random.random() < 0.4:  # headers are at the ends
            where = random.choice((random.randrange(min(len(data), 64) + 1), max(0, len(data) - random.randrange(96))))
        length = min(random.choice((1, 2, 4, 8, 16, 64, 512, 4096)), len(data) - where)
        match random.randrange(9):
            case 0 | 1:
                for at in random.sample(range(len(data)), min(len(data), random.choice((1, 1, 2, 8)))):
                    data[at] ^= 1 << random.randrange(8)
            case 2:
                del data[where:]
            case 3:
                data[where:where] = data[where : where + length] * random.choice((1, 2, 50))
            case 4:
                source = other or content
                start = random.randrange(len(source) + 1)
                data[where : where + length] = source[start : start + length]
            case 5 | 6:
                size = random.choice((1, 2, 4, 8))
                value = random.choice(EXTREMES) & ((1 << 8 * size) - 1)
                data[where : where + size] = value.to_bytes(size, random.choice(("little", "big")))
            case 7:
                del data[where : where + length]
            case _:
                data[where:where] = random.randbytes(length or 1)
    return bytes(data)


def damage_json(content: bytes, random: random.Random) -> bytes:
    """Return JSON with one value replaced, removed or doubled, or a key renamed."""
    mark = "\ue000value\ue000"
    try:
        whole = json.loads(content)
    except ValueError:
        return damage(content, random)
    places: list[tuple[Any, Any]] = []

    def visit(value: Any) -> None:
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            places.append((value, key))
            visit(value[key])

    visit(whole)
    token = random.choice(TOKENS)
    if not places or random.random() < 0.05:
        return token.encode()
    holder, key = random.choice(places)
    match random.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[mark] = holder.pop(key)
            token = random.choice(('"\\ud800"', '""', '"_"', '"\\u0000"', f'"{"k" * 70_000}"'))
        case 2 if isinstance(holder, list):
            holder += [holder[key]] * random.choice((1, 3, 1000))
        case 3:
            other, place = random.choice(places)
            holder[key] = other[place]
        case _:
            holder[key] = mark
    try:
        text = json.dumps(whole)
    except ValueError:  # a value put into itself
        return token.encode()
    return text.replace(json.dumps(mark), token).encode("utf-8", "surrogatepass")


def damage_lines(content: bytes, random: random.Random) -> bytes:
    """Return text with a line or a word in it replaced, doubled or removed, or JSON lines with one damaged."""
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    words = lines[at].split(b" ")
    odd = (b"", b"-1", b"99999999999999999999", b"1e999", b"\x00", b"\xff\xfe", b"\x1b[31m", b"..", b"/", b"nan", b'"')
    match random.randrange(6):
        case 0:
            words[random.randrange(len(words))] = random.choice(odd)
            lines[at] = b" ".join(words)
        case 1:
            lines[at] = random.choice(odd) * random.choice((1, 1, 200_000))
        case 2:
            lines[at:at] = [lines[at]] * random.choice((1, 2, 1000))
        case 3:
            del lines[at]
        case 4:
            lines[at] = damage_json(lines[at], random)
        case _:
            lines[at] = damage(lines[at], random)
    return random.choice((b"\n", b"\n", b"\n", b"\r", b"\r\n")).join(lines)


STRUCTURED: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    "json": (damage_json, damage_json, damage_json),
    "lines": (damage_lines, damage_lines),
    "zip": (reseal_zip, reseal_zip),
    "gzip": (reseal_gzip, reseal_gzip),
    "bytes": (),
}
"""Mutations that keep a kind of file in form; `mutate` mixes them with plain damage."""


def mutate(content: bytes, kind: str, random: random.Random, other: bytes = b"") -> bytes:
    """Return a mutation of a file of a kind, a key of `STRUCTURED`."""
    ways = (*STRUCTURED[kind], None)
    way = random.choice(ways)
    return damage(content, random, other) if way is None else way(content, random)


def bombs(content: bytes, kind: str) -> list[bytes]:
    """Return the fixed hostile versions of a file of a kind: nothing, deep nesting, bombs, pickles."""
    fixed = [b"", b"\x00", b"[" * DEEP, b"\xff" * 4096]
    if kind == "json":
        fixed += [token.encode() for token in TOKENS]
    if kind == "zip":
        fixed += [zip_bomb(content, random.Random(number)) for number in range(2)]
    if kind == "gzip":
        fixed += [gzip_bomb(), gzip_bomb(gzip.decompress(content)[:-1024])]
    return fixed
