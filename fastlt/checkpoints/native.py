"""Our own checkpoints: written atomically, read without pickle."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import replacing
from ..files.reading import decode_json
from ..models import in_head
from .formats.shards import METADATA, read_safetensors, write_tensors

METADATA_KEY = "fastlt"


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors and JSON metadata as one safetensors file with checksums, atomically."""
    on_cpu = {key: tensor.detach().cpu() for key, tensor in tensors.items()}
    with replacing(path) as temporary:
        write_tensors(on_cpu, {METADATA_KEY: json.dumps(metadata or {})}, temporary)


def save_pickled(path: Path, content: Any) -> None:
    """Write `content` as torch.save does, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(pickled(content))


def pickled(content: Any, *, zipped: bool = True) -> memoryview:
    """Return what torch.save writes of `content`; `zipped` chooses the format in use since 2020.

    The bytes are made in memory, since torch.save on a full disk raises an error that does not name the cause.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getbuffer()


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file.

    Returns:
        (tensors on the CPU, the metadata given to `save`).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut short, damaged or not a safetensors file.
    """
    tensors, metadata, _ = load_hashed(path)
    return tensors, metadata


def load_hashed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Read a safetensors file once, as `load` does, and return the SHA-256 of its bytes as well."""
    remedy = "use another checkpoint of the run, or train again"
    tensors, header, content = read_safetensors(path, remedy=remedy)
    text = (header.get(METADATA) or {}).get(METADATA_KEY, "{}")
    metadata = decode_json(text, source=path, remedy=remedy, foreign=True)  # a loss may be NaN
    return tensors, metadata, hashlib.sha256(content).hexdigest()


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy tensors into a network, whose own must have exactly the same names and shapes.

    Raises:
        ValueError: Tensors are missing, left over or of another shape; the message names the first few.
    """
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in tensors]
    extra = [key for key in tensors if key not in wanted]
    reshaped = [
        f"{key} is {list(tensors[key].shape)}, expected {list(wanted[key].shape)}"
        for key in wanted
        if key in tensors and tensors[key].shape != wanted[key].shape
    ]
    if missing or extra:
        raise ValueError(
            f"{source}: got the checkpoint of another network: {len(missing)} tensors missing "
            f"({', '.join(missing[:3])}), {len(extra)} not expected ({', '.join(extra[:3])}); expected this network's; "
            "give the --backbone it was trained with"
        )
    if reshaped:
        kind = "with another number of classes" if all(map(in_head, reshaped)) else "of another size"
        raise ValueError(
            f"{source}: got the checkpoint of a network {kind}: {'; '.join(reshaped[:3])}; expected this network's "
            "shapes; give the settings it was trained with"
        )
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(tensors[key])
