"""Read a checkpoint of any supported format without running its code, and remember how to write it back."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..runtime.log import first_line, log
from . import native
from .shards import Shard, read_shard

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "module", "net", "network")
"""Keys under which a training script keeps its weights. An average comes first, as timm takes it."""
PREFIXES = ("module.", "_orig_mod.", "model.")
RELEASED = ("feat_model", "classifier")
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Slot:
    """Where a tensor stands in a checkpoint: the mapping that holds it, and its key there."""

    holder: dict[str, Any]
    key: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory.

    `slots` has every tensor by its name without wrappers and prefixes; `settings` is what config.json says, empty
    for a single file. `content` is what torch.load returned, or None for safetensors, which `shards` then holds.
    """

    path: Path
    slots: dict[str, Slot]
    content: Any = None
    shards: tuple[Shard, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    zipped: bool = True

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        return {name: slot.holder[slot.key] for name, slot in self.slots.items()}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a .pth file (a state dict, alone or wrapped, or the released code's), .safetensors, or a folder of these.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none of these, is cut short, or holds objects that would have to be run.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint; expected a .pth or .safetensors file, or a folder")
    if path.is_dir():
        return read_folder(path)
    if path.suffix == ".safetensors":
        shard = read_shard(path)
        return Checkpoint(path=path, slots=name_slots([shard.tensors]), shards=(shard,))
    content = load_pickled(path)
    return Checkpoint(
        path=path,
        slots=find_slots(path, content),
        content=content,
        settings=hints(content),
        zipped=zipfile.is_zipfile(path),
    )


def read_folder(path: Path) -> Checkpoint:
    """Read a folder with config.json and model.safetensors, whole or in shards."""
    files = sorted(path.glob("*.safetensors"))
    if (path / WHOLE).is_file():
        files = [path / WHOLE]
    elif (path / INDEX).is_file():
        files = indexed(path)
    elif not files:
        raise ValueError(f"{path}: a folder without {WHOLE}; expected config.json and {WHOLE}, whole or in shards")
    elif len(files) > 1:
        raise ValueError(
            f"{path}: it holds several checkpoints ({', '.join(file.name for file in files[:3])}); name one of them"
        )
    shards = tuple(read_shard(file) for file in files)
    settings: dict[str, Any] = {}
    for name in ("config.json", "preprocessor_config.json"):
        if (path / name).is_file():
            settings[name.removesuffix(".json")] = read_json(path / name)
    slots = name_slots([shard.tensors for shard in shards])
    return Checkpoint(path=path, slots=slots, shards=shards, settings=settings)


def indexed(path: Path) -> list[Path]:
    """Return the shards that a folder's index names.

    Raises:
        ValueError: The index names none.
        FileNotFoundError: The folder lacks one.
    """
    places = read_json(path / INDEX).get("weight_map")
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise ValueError(f"{path / INDEX}: expected a weight_map from tensors to files of the folder; restore it")
    lacking = [name for name in names if not (path / name).is_file()]
    if lacking:
        raise FileNotFoundError(
            f"{path}: it lacks {', '.join(lacking)}, {len(lacking)} of the {len(names)} shards that {INDEX} names; "
            "fetch them again"
        )
    return [path / name for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{path}: expected a JSON object, but it cannot be read ({error}); restore it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}; restore it")
    return content


def load_pickled(path: Path) -> Any:
    """Load what torch.save wrote; code in it does not run."""
    try:
        with torch.serialization.safe_globals(harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile file raises whatever its bytes make of it
        text = " ".join(str(error).split()) or type(error).__name__
        if found := re.search(r"GLOBAL (\S+)", text):
            raise ValueError(
                f"{path}: expected a file of tensors that torch.save wrote, but it holds a Python object, "
                f"{found[1]}, which is not loaded; save its state_dict() alone, or as .safetensors"
            ) from error
        raise ValueError(
            f"{path}: expected a file of tensors that torch.save wrote, but it is incomplete or of another kind "
            f"({text.partition('. ')[0][:160]}); fetch it again, or save its state_dict() anew"
        ) from error


def harmless() -> list[Any]:
    """Return the types that stand beside weights and only hold values: a script's command line, NumPy's numbers."""
    scalar = np.float64(0).__reduce__()[0]
    numbers = [np.dtype, *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd")]
    return [argparse.Namespace, (scalar, "numpy.core.multiarray.scalar"), scalar, *numbers]


def find_slots(path: Path, content: Any) -> dict[str, Slot]:
    """Find the state dict inside what torch.load returned.

    Raises:
        ValueError: There is none.
    """
    seen: list[str] = []
    while isinstance(content, dict):
        best = content.get("state_dict_best", content)
        if isinstance(best, dict) and all(isinstance(best.get(part), dict) for part in RELEASED):
            return name_slots([best[part] for part in RELEASED])
        # Wrappers first: a script's best accuracy beside them may be a tensor too
        inner = [key for key in WRAPPERS if isinstance(content.get(key), dict) and content[key]]
        if not inner:
            if any(isinstance(value, Tensor) for value in content.values()):
                return name_slots([content])
            seen = [str(key) for key in content][:5]
            break
        if inner[1:]:
            log.info("%s: the weights of %s; those of %s stay as they are", path, inner[0], ", ".join(inner[1:]))
        content = content[inner[0]]
    what = f"a dict of {', '.join(seen) or 'nothing'}" if isinstance(content, dict) else f"a {type(content).__name__}"
    raise ValueError(
        f"{path}: it holds no state dict but {what}; expected tensors by name, alone or under {', '.join(WRAPPERS[:4])}"
    )


def name_slots(holders: list[dict[str, Any]]) -> dict[str, Slot]:
    """Name every tensor without the prefixes of wrappers that most names of its mapping share; a loss may lack them."""
    slots: dict[str, Slot] = {}
    for holder in holders:
        names = {key: key for key, value in holder.items() if isinstance(key, str) and isinstance(value, Tensor)}
        while prefix := next(
            (p for p in PREFIXES if 2 * sum(n.startswith(p) for n in names.values()) > len(names)), ""
        ):
            shorter = {key: name.removeprefix(prefix) for key, name in names.items()}
            if len(set(shorter.values())) < len(names):
                break
            names = shorter
        slots |= {name: Slot(holder, key) for key, name in names.items()}
    return slots


def hints(content: Any) -> dict[str, Any]:
    """Return what a training script says about its network beside the weights."""
    arch = content.get("arch") if isinstance(content, dict) else None
    return {"config": {"architecture": arch}} if isinstance(arch, str) else {}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of a .pth file that holds a state dict or one inside a dict.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none of these, is cut short, or holds objects other than tensors.
    """
    if path.is_dir():
        raise ValueError(f"--init: {path} is a folder; expected a .pth or .safetensors file")
    if not path.exists():
        raise FileNotFoundError(f"--init: {path}: no such file; expected a .pth or .safetensors file")
    if path.suffix == ".safetensors":
        return native.load(path)[0]
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, AttributeError) as error:
        reason = first_line(error)
        raise ValueError(
            f"--init: {path}: expected a .pth file of tensors or a .safetensors file, but it is incomplete, of another "
            f"kind, or holds Python objects ({reason})"
        ) from error
    while isinstance(content, Mapping):
        # Wrappers first: a script's best accuracy beside them may be a tensor too
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"--init: {path}: it holds no state dict; expected tensors by name, in torchvision's layout")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
