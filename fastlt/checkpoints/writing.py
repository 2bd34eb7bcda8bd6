"""Write a rebalanced checkpoint in the format of the input: a new last layer, every other byte as it was."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import owned, read_json, replacing, replacing_folder, settle, write_json
from ..models import HEAD, in_head
from ..runtime.log import log
from . import native
from .formats.shards import weight_of, write_shard
from .import_run import IMPORTED, ImportedCheckpoint
from .reading import INDEX, WHOLE, Checkpoint, TensorPlace, read_foreign

SAFE = ".safetensors"
# A network's weights in any framework's format, or the index of such files
_WEIGHTS = re.compile(
    r"(pytorch_|tf_|flax_|rust_)?model\b.*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|ot|onnx)(\.index\.json)?$"
)
WRITTEN = IMPORTED / "written.json"
"""The record of earlier outputs, which may be overwritten."""


def default_output(path: Path, method: str) -> Path:
    """Return <stem>.<method><suffix> beside the input."""
    if path.is_dir():
        folder = path.resolve() if path.name in ("", "..") else path
        return folder.with_name(f"{folder.name}.{method}")
    suffix = ".pth.tar" if path.name.endswith(".pth.tar") else path.suffix
    return path.with_name(f"{path.name.removesuffix(suffix)}.{method}{suffix}")


def check_output(path: Path, out: Path) -> None:
    """Raise a ValueError unless `out` does not exist yet or is an earlier output of ours."""
    if out.resolve() == path.resolve() or (path.is_dir() and path.resolve() in out.resolve().parents):
        raise ValueError(
            f"--out: got {out}, which is the input; expected another place, since the input is never overwritten; "
            "choose another name"
        )
    if path.is_dir() is not out.is_dir() and out.exists():
        kind = "a folder" if path.is_dir() else "a file"
        raise ValueError(f"--out: got {out}, which exists; expected {kind}, as {path} is; choose another name")
    if not path.is_dir() and (path.suffix == SAFE) is not (out.suffix == SAFE):
        raise ValueError(
            f"--out: got {out}; expected the format of {path}, in which it comes back; end it in "
            f"{path.suffix or '.pth'}"
        )
    written = read_record().get(str(out.resolve()), [])
    if out.exists() and digest(out) not in written:
        raise ValueError(
            f"--out: got {out}, which exists and is not as fastlt wrote it; expected a free name; choose another, or "
            "remove it"
        )


def write_back(imported: ImportedCheckpoint, rebalanced: Path, out: Path) -> tuple[str, ...]:
    """Write the input again, with the tensors that a rebalanced checkpoint changed.

    Args:
        imported: The input.
        rebalanced: The model.safetensors that a method wrote into the run made from the input.
        out: The file or folder to write.

    Returns:
        The names of the tensors that changed or were added.
    """
    source = imported.checkpoint
    check_output(source.path, out)
    before, _ = native.load(imported.run.checkpoint("best"))
    after, _ = native.load(rebalanced)
    changed = changed_tensors(imported, before, after)
    added = [name for name in changed if name not in source.places]
    if added:
        log.info("%s: %s added: the rebalanced layer needs a bias, which the input lacks", out, ", ".join(added))
    others = [name for name in changed if name.rpartition(".")[0] != imported.names.head]
    if others:
        log.info("%s: %d tensors besides the last layer differ from the input", out, len(others))
    is_folder = source.path.is_dir()
    with owned(IMPORTED, wait=True):
        if is_folder:
            settle(out)
        check_output(source.path, out)
        with replacing_folder(out) if is_folder else replacing(out) as partial:
            write_changed(source, changed, partial)
            remember(out, partial)
    return tuple(changed)


def write_changed(source: Checkpoint, changed: dict[str, Tensor], partial: Path) -> None:
    """Write the input with other tensors to a new file, or to an empty folder."""
    if source.path.is_dir():
        write_folder(source, changed, partial)
    elif source.shards:
        write_shard(source.shards[0], {key_of(source, name): value for name, value in changed.items()}, partial)
    else:
        write_pickled(source, changed, partial)


def changed_tensors(
    imported: ImportedCheckpoint, before: dict[str, Tensor], after: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors that differ from the input's, with the input's names, dtypes and class order."""
    source, names, head = imported.checkpoint, imported.names.names, imported.names.head
    tensors = source.tensors
    inverse = torch.tensor(imported.order).argsort()
    changed: dict[str, Tensor] = {}
    bias = f"{HEAD}.bias"
    after = {bias: torch.zeros(len(inverse)), **after}
    for ours, value in after.items():
        if ours in before and torch.equal(before[ours], value):
            continue
        theirs = names.get(ours, f"{head}.bias" if ours == bias else "")
        if not theirs:
            continue  # a counter that the input lacks
        dtype = tensors.get(theirs, tensors[f"{head}.weight"]).dtype
        changed[theirs] = (value[inverse] if in_head(ours) else value).to(dtype)
        if not torch.isfinite(changed[theirs]).all():
            raise ValueError(
                f"{source.path}: got a rebalanced {theirs} of up to {value.abs().max():.3g}; expected what {dtype} can "
                "hold; try --no-temperature, or give the checkpoint in float32"
            )
    return changed


def key_of(source: Checkpoint, name: str) -> str:
    """Return the key of a tensor in its file; a new bias gets the prefix of its weight."""
    if name in source.places:
        return source.places[name].key
    return f"{source.places[weight_of(name)].key.rpartition('.')[0]}.{name.rpartition('.')[2]}"


def write_pickled(source: Checkpoint, changed: dict[str, Tensor], out: Path) -> None:
    """Write what torch.load returned, with other tensors in the same places; leave the input in memory unchanged."""
    old: list[tuple[TensorPlace, Any]] = []
    for name, value in changed.items():
        place = source.places.get(name)
        weight = source.places[weight_of(name)] if place is None else place
        holder, key = weight.holder, key_of(source, name)
        old.append((TensorPlace(holder, key), holder.get(key)))
        keys = list(holder)
        later = [] if place else keys[keys.index(weight.key) + 1 :]
        holder[key] = value.clone()
        for other in later:  # a new bias follows its weight
            holder[other] = holder.pop(other)
    try:
        out.write_bytes(native.pickled(source.content, zipped=source.zipped))
    finally:
        for place, previous in reversed(old):
            if previous is None:
                del place.holder[place.key]
            else:
                place.holder[place.key] = previous


def write_folder(source: Checkpoint, changed: dict[str, Tensor], folder: Path) -> None:
    """Fill a folder: write changed shards anew and copy the other files.

    Copies of the weights in another format are left out, since they hold the old last layer.
    """
    keys = {key_of(source, name): value for name, value in changed.items()}
    holders = {key: holder_of(source, key) for key in keys}
    used = {shard.path.name for shard in source.shards}
    used |= set() if WHOLE in used else {INDEX}
    files = {file.name: file for file in sorted(source.path.iterdir()) if file.is_file()}
    stale = [name for name in files if name not in used and _WEIGHTS.match(name)]
    if stale:
        log.info("%s: not copied, since they hold the old last layer: %s", source.path, ", ".join(stale))
    for shard in source.shards:
        if parts := {key: value for key, value in keys.items() if holders[key] == shard.path.name}:
            write_shard(shard, parts, folder / shard.path.name)
            del files[shard.path.name]
    added = {key: value for key, value in keys.items() if key not in all_keys(source)}
    if INDEX in files and INDEX in used and added:
        write_json(folder / INDEX, index_with(files.pop(INDEX), added, holders))
    for name, file in files.items():
        if name not in stale:
            shutil.copyfile(file, folder / name)


def holder_of(source: Checkpoint, key: str) -> str:
    """Return the name of the file that holds a tensor or, for a new bias, its weight."""
    present = key if key in all_keys(source) else weight_of(key)
    return next(shard.path.name for shard in source.shards if present in shard.tensors)


def index_with(index: Path, added: dict[str, Tensor], holders: dict[str, str]) -> dict[str, Any]:
    """Return a folder's index with new tensors added."""
    content: dict[str, Any] = read_foreign(index)
    content["weight_map"] |= {key: holders[key] for key in added}
    total = (content.get("metadata") or {}).get("total_size")
    if isinstance(total, int):
        content["metadata"]["total_size"] = total + sum(value.nbytes for value in added.values())
    return content


def all_keys(source: Checkpoint) -> set[str]:
    """Return every key of every shard."""
    return {key for shard in source.shards for key in shard.tensors}


def read_record() -> dict[str, list[str]]:
    """Return the record of earlier outputs: by path the SHA-256 of what may be there."""
    if not WRITTEN.is_file():
        return {}
    remedy = "delete it: what was written before is then never overwritten"
    record = read_json(WRITTEN, dict[str, str | list[str]], remedy=remedy)
    return {path: [known] if isinstance(known, str) else known for path, known in record.items()}


def remember(out: Path, partial: Path) -> None:
    """Record an output before it takes its place: a process that is killed leaves the old one or the new."""
    known = [digest(out)] if out.exists() else []
    write_json(WRITTEN, read_record() | {str(out.resolve()): [*known, digest(partial)]})


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files and the names of what else is in it."""
    total = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        total.update(file.name.encode() if path.is_dir() else b"")
        total.update(file.read_bytes() if file.is_file() else b"/")
    return total.hexdigest()
