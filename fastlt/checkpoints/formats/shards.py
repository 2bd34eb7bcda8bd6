"""Read a safetensors file, and write it again with the same order, dtypes and metadata.

Ours have checksums in their metadata, which the format lacks; they are verified and kept up to date.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ...files import check_regular, deciphering
from ...files.checksums import checksums
from ...runtime.log import name_some

METADATA = "__metadata__"
CHECKSUMS = "fastlt.crc32"  # the entry of a file's metadata
MAX_HEADER = 4 << 20  # bytes: that of 25,000 tensors
_LENGTH = 8  # bytes that hold the header's length, little endian


@dataclass(frozen=True)
class Shard:
    """The content of one file: the header in its order, the raw bytes of all tensors, and the tensors."""

    path: Path
    header: dict[str, Any]
    data: memoryview
    tensors: dict[str, Tensor]


def read_shard(path: Path) -> Shard:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut short or not a safetensors file.
    """
    tensors, header, content = read_safetensors(path, remedy="fetch it again")
    ordered = {name: tensors[name] for name in header if name in tensors}
    return Shard(path, header, memoryview(content)[_LENGTH + length_of(content) :], ordered)


def read_safetensors(path: Path, *, remedy: str) -> tuple[dict[str, Tensor], dict[str, Any], bytes]:
    """Return a safetensors file's tensors on the CPU, its header, and all of its bytes; `remedy` ends an error.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut short, damaged or not a safetensors file.
    """
    check_regular(path, "a safetensors file")
    content = path.read_bytes()
    length = length_of(content)
    if length > MAX_HEADER:
        raise ValueError(
            f"{path}: got a file whose header would have {length:,} bytes; expected a safetensors file, with at most "
            f"{MAX_HEADER:,}; {remedy}"
        )
    with deciphering(path, expected="a safetensors file", remedy=remedy):
        header = json.loads(content[_LENGTH : _LENGTH + length], object_pairs_hook=unique)
        tensors = load_tensors(content)
    damaged = damaged_tensors(header, tensors)
    if damaged:
        raise ValueError(
            f"{path}: got other values of {name_some(damaged, 3)} than were written; expected those of the checksums "
            f"in it; {remedy}"
        )
    return tensors, header, content


def length_of(content: bytes) -> int:
    """Return the length of the header that a file announces."""
    return int.from_bytes(content[:_LENGTH], "little")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object of which no two readers can take different halves.

    Raises:
        JSONDecodeError: A key is in it twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise json.JSONDecodeError("a key is in it twice", "", 0)
    return found


def with_checksums(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a file with the checksums of its tensors, and of the rest of its metadata."""
    rest = {key: value for key, value in metadata.items() if key != CHECKSUMS}
    found = {METADATA: [crc_of(json.dumps(rest, sort_keys=True))]}
    for name in sorted(tensors):
        tensor = tensors[name]
        # Bytes alone do not tell floats from integers, or rows from columns
        kind = crc_of(f"{tensor.dtype} {list(tensor.shape)}")
        found[name] = [kind, *checksums(bytes_of(tensor))]
    return rest | {CHECKSUMS: json.dumps(found, separators=(",", ":"))}


def bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    """Return the bytes of a tensor's numbers, in order: uint8 [*]."""
    content: NDArray[np.uint8] = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return content


def crc_of(text: str) -> int:
    """Return the CRC-32 of a text."""
    return zlib.crc32(text.encode())


def damaged_tensors(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what differs from a file's checksums: names of tensors, or `__metadata__`; nothing if it has none."""
    metadata = header.get(METADATA) or {}
    if CHECKSUMS not in metadata:
        return []
    found = with_checksums(tensors, metadata)[CHECKSUMS]
    if found == metadata[CHECKSUMS]:
        return []
    try:
        recorded = json.loads(metadata[CHECKSUMS])
        return [name for name, value in json.loads(found).items() if recorded.get(name) != value] or [METADATA]
    except (ValueError, AttributeError, RecursionError):
        return [METADATA]


def write_shard(shard: Shard, changed: dict[str, Tensor], path: Path) -> None:
    """Write a file with the tensors of `changed` replaced; every other tensor keeps its bytes and its place.

    The caller makes the file come into being whole.

    A tensor that the file lacks follows the weight of the same layer. `changed` has the dtypes of the file; a new
    tensor has the dtype of its layer's weight.
    """
    names = [name for name in shard.header if name != METADATA]
    for name in changed:
        if name not in names:
            names.insert(names.index(weight_of(name)) + 1, name)
    # The header's order may differ from that of the bytes: both are kept
    by_place = sorted((name for name in names if name in shard.header), key=lambda n: shard.header[n]["data_offsets"])
    by_place += [name for name in names if name not in shard.header]
    header: dict[str, Any] = {name: None for name in (METADATA, *names) if name in shard.header or name in changed}
    if METADATA in header:
        header[METADATA] = metadata = shard.header[METADATA]
        if CHECKSUMS in (metadata or {}):
            header[METADATA] = with_checksums(shard.tensors | changed, metadata)
    pieces: list[memoryview] = []
    at = 0
    for name in by_place:
        entry = dict(shard.header.get(name, {}))
        if name in changed:
            tensor = changed[name]
            piece = bytes_of(tensor).data
            like = shard.header[name if name in shard.header else weight_of(name)]
            entry = {"dtype": like["dtype"], "shape": list(tensor.shape)}
        else:
            start, end = entry["data_offsets"]
            piece = shard.data[start:end]
        header[name] = entry | {"data_offsets": [at, at + len(piece)]}
        pieces.append(piece)
        at += len(piece)
    with path.open("wb") as file:
        file.write(header_bytes(header))
        for piece in pieces:
            file.write(piece)


def write_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write a file of tensors on the CPU, with checksums; equal tensors give equal bytes.

    The library would write the entries of the metadata in any order.
    """
    content = save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()})
    start = _LENGTH + length_of(content)
    header = {METADATA: with_checksums(tensors, metadata), **json.loads(content[_LENGTH:start])}
    with path.open("wb") as file:
        file.write(header_bytes(header))
        file.write(memoryview(content)[start:])


def header_bytes(header: Mapping[str, Any]) -> bytes:
    """Return a file's header with its length before it, padded as the library pads it."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text


def weight_of(name: str) -> str:
    """Return the weight of the layer that a bias belongs to."""
    return f"{name.rpartition('.')[0]}.weight"
