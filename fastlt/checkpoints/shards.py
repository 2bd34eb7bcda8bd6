"""Read a safetensors file, and write it again with the same order, dtypes and metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from ..files import replacing

_LENGTH = 8  # bytes that hold the header's length, little endian


@dataclass(frozen=True)
class Shard:
    """The content of one file: the header in its order, the raw bytes of all tensors, and the tensors."""

    path: Path
    header: dict[str, Any]
    data: bytes
    tensors: dict[str, Tensor]


def read_shard(path: Path) -> Shard:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut short or not a safetensors file.
    """
    tensors, header, content = read_safetensors(path, remedy="fetch it again")
    ordered = {name: tensors[name] for name in header if name in tensors}
    return Shard(path, header, content[_LENGTH + int.from_bytes(content[:_LENGTH], "little") :], ordered)


def read_safetensors(path: Path, *, remedy: str) -> tuple[dict[str, Tensor], dict[str, Any], bytes]:
    """Return a safetensors file's tensors on the CPU, its header, and all of its bytes; `remedy` ends an error.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut short or not a safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a safetensors file; {remedy}")
    content = path.read_bytes()
    try:
        length = int.from_bytes(content[:_LENGTH], "little")
        return load_tensors(content), json.loads(content[_LENGTH : _LENGTH + length]), content
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path}: got a file that is incomplete or of another kind ({error}); expected a safetensors file; {remedy}"
        ) from error


def write_shard(shard: Shard, changed: dict[str, Tensor], path: Path) -> None:
    """Write a file with the tensors of `changed` replaced; every other tensor keeps its bytes and its place.

    A tensor that the file lacks follows the weight of the same layer. `changed` has the dtypes of the file; a new
    tensor has the dtype of its layer's weight.
    """
    names = [name for name in shard.header if name != "__metadata__"]
    for name in changed:
        if name not in names:
            names.insert(names.index(weight_of(name)) + 1, name)
    # The header's order may differ from that of the bytes: both are kept
    by_place = sorted((name for name in names if name in shard.header), key=lambda n: shard.header[n]["data_offsets"])
    by_place += [name for name in names if name not in shard.header]
    header: dict[str, Any] = {
        name: None for name in ("__metadata__", *names) if name in shard.header or name in changed
    }
    if "__metadata__" in header:
        header["__metadata__"] = shard.header["__metadata__"]
    pieces, at = [], 0
    for name in by_place:
        entry = dict(shard.header.get(name, {}))
        if name in changed:
            tensor = changed[name].detach().cpu().contiguous()
            piece = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            like = shard.header[name if name in shard.header else weight_of(name)]
            entry = {"dtype": like["dtype"], "shape": list(tensor.shape)}
        else:
            start, end = entry["data_offsets"]
            piece = shard.data[start:end]
        header[name] = entry | {"data_offsets": [at, at + len(piece)]}
        pieces.append(piece)
        at += len(piece)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH, "little"))
        file.write(text)
        for piece in pieces:
            file.write(piece)


def weight_of(name: str) -> str:
    """Return the weight of the layer that a bias belongs to."""
    return f"{name.rpartition('.')[0]}.weight"
