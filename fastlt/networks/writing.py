"""Write a rebalanced checkpoint in the format it came in: the last layer new, every other byte as it was."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import checkpoint
from ..files import replacing
from ..loggers import log
from .adopting import ADOPTED, Adopted
from .mapping import HEAD
from .reading import Checkpoint, Slot
from .shards import write_shard

WRITTEN = ADOPTED / "written.json"
"""What this command wrote before, and may write anew: SHA-256 by path."""


def default_output(path: Path, method: str) -> Path:
    """Return <stem>.<method><suffix> beside the input."""
    if path.is_dir():
        return path.with_name(f"{path.resolve().name}.{method}")
    suffix = ".pth.tar" if path.name.endswith(".pth.tar") else path.suffix
    return path.with_name(f"{path.name.removesuffix(suffix)}.{method}{suffix}")


def check_output(path: Path, out: Path) -> None:
    """Raise a ValueError unless ``out`` is free, or an earlier output of ours."""
    if out.resolve() == path.resolve() or (path.is_dir() and path.resolve() in out.resolve().parents):
        raise ValueError(f"--out: {out} is the input; it is never overwritten: choose another name")
    if path.is_dir() is not out.is_dir() and out.exists():
        raise ValueError(f"--out: {out} exists and is of another kind than {path}; choose another name")
    if out.exists() and record().get(str(out.resolve())) != digest(out):
        raise ValueError(f"--out: {out} exists and fastlt did not write it as it is; choose another name, or remove it")


def write_back(adopted: Adopted, rebalanced: Path, out: Path) -> tuple[str, ...]:
    """Write the input again with the tensors that a rebalanced checkpoint changed.

    Args:
        adopted: The input.
        rebalanced: The model.safetensors that a method wrote into the adopted run.
        out: Where to.

    Returns:
        The names of the tensors that changed or came new.
    """
    source = adopted.checkpoint
    check_output(source.path, out)
    before, _ = checkpoint.load(adopted.run.checkpoint("best"))
    after, _ = checkpoint.load(rebalanced)
    changed = changed_tensors(adopted, before, after)
    added = [name for name in changed if name not in source.slots]
    if added:
        log.info("%s: %s added: the rebalanced layer needs a bias, which the input lacks", out, ", ".join(added))
    beside = [name for name in changed if name.rpartition(".")[0] != adopted.names.head]
    if beside:
        log.info("%s: %d tensors besides the last layer differ from the input", out, len(beside))
    if source.path.is_dir():
        write_folder(source, changed, out)
    elif source.shards:
        write_shard(source.shards[0], {key_of(source, name): value for name, value in changed.items()}, out)
    else:
        write_pickled(source, changed, out)
    known = record()
    known[str(out.resolve())] = digest(out)
    checkpoint.write_json(WRITTEN, known)
    return tuple(changed)


def changed_tensors(adopted: Adopted, before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the input that differ, under its names, in its dtypes and its class order."""
    source, names, head = adopted.checkpoint, adopted.names.names, adopted.names.head
    tensors = source.tensors
    inverse = torch.tensor(adopted.order).argsort()
    changed: dict[str, Tensor] = {}
    bias = f"{HEAD}.bias"
    after = {bias: torch.zeros(len(inverse)), **after}
    for ours, value in after.items():
        if ours in before and torch.equal(before[ours], value):
            continue
        theirs = names.get(ours, f"{head}.bias" if ours == bias else "")
        if not theirs:
            continue  # a counter that the input lacks
        like = tensors.get(theirs, tensors[f"{head}.weight"])
        changed[theirs] = (value[inverse] if ours.startswith(f"{HEAD}.") else value).to(like.dtype)
    return changed


def key_of(source: Checkpoint, name: str) -> str:
    """Return the key of a tensor in its file; a bias that is new gets its weight's prefix."""
    if name in source.slots:
        return source.slots[name].key
    return f"{source.slots[weight_of(name)].key.rpartition('.')[0]}.{name.rpartition('.')[2]}"


def weight_of(name: str) -> str:
    """Return the weight of the layer that a bias belongs to."""
    return f"{name.rpartition('.')[0]}.weight"


def write_pickled(source: Checkpoint, changed: dict[str, Tensor], out: Path) -> None:
    """Write what torch.load returned, with other tensors in the same places; the input in memory stays as it was."""
    old: list[tuple[Slot, Any, list[str]]] = []
    for name, value in changed.items():
        slot = source.slots.get(name)
        holder = slot.holder if slot else source.slots[weight_of(name)].holder
        key = key_of(source, name)
        old.append((Slot(holder, key), holder.get(key), list(holder)))
        after = source.slots[weight_of(name)].key if slot is None else key
        behind = [] if slot else list(holder)[list(holder).index(after) + 1 :]
        holder[key] = value.clone()
        for other in behind:
            holder[other] = holder.pop(other)
    try:
        with replacing(out) as temporary:
            torch.save(source.content, temporary, _use_new_zipfile_serialization=source.zipped)
    finally:
        for slot, value, _ in reversed(old):
            if value is None:
                del slot.holder[slot.key]
            else:
                slot.holder[slot.key] = value


def write_folder(source: Checkpoint, changed: dict[str, Tensor], out: Path) -> None:
    """Write a folder: its other files are copied, the shards that change are written anew."""
    out.mkdir(parents=True, exist_ok=True)
    written = set()
    for shard in source.shards:
        keys = {key_of(source, name): value for name, value in changed.items()}
        mine = {
            key: value
            for key, value in keys.items()
            if key in shard.tensors or (weight_of(key) in shard.tensors and key not in all_keys(source))
        }
        if mine:
            write_shard(shard, mine, out / shard.path.name)
            written.add(shard.path.name)
    for file in sorted(source.path.iterdir()):
        if file.is_file() and file.name not in written:
            with replacing(out / file.name) as temporary:
                shutil.copyfile(file, temporary)


def all_keys(source: Checkpoint) -> set[str]:
    """Return every key of every shard."""
    return {key for shard in source.shards for key in shard.tensors}


def record() -> dict[str, str]:
    """Return what was written before."""
    return dict(checkpoint.read_json(WRITTEN)) if WRITTEN.is_file() else {}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files."""
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() if path.is_dir() else b"")
        total.update(file.read_bytes())
    return total.hexdigest()
