"""Read a checkpoint of any supported format without running its code, and keep track of how to write it back."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..files import deciphering, read_limited
from ..files.reading import check_growth, decode_json
from ..runtime.log import log, name_some
from .formats.pickled import REMEDY, is_zip, load_pickled
from .formats.shards import Shard, read_shard

TIMM_ARGUMENT = "crop_pct"  # every command line of timm's training script has it
TORCHVISION_ARGUMENT = "val_crop_size"  # and that of torchvision's
AVERAGES = ("state_dict_ema", "model_ema")
WRAPPERS = (*AVERAGES, "state_dict", "model", "model_state_dict", "module", "net", "network")
"""Keys under which a training script keeps its weights. Averaged ones come first, as in timm."""
PREFIXES = ("module.", "_orig_mod.", "model.")
RELEASED = ("feat_model", "classifier")
AVERAGE_COUNTER = "n_averaged"  # torch.optim.swa_utils keeps the number of averages beside the weights
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_JSON = 4 << 20  # bytes: an index of 40,000 tensors


@dataclass(frozen=True)
class TensorPlace:
    """The place of a tensor in a checkpoint: the mapping that holds it, and its key there."""

    holder: dict[str, Any]
    key: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory.

    `places` has every tensor by its name without wrappers and prefixes; `settings` is the content of config.json, empty
    for a single file. `content` is what torch.load returned; for safetensors it is None, and `shards` has the files.
    """

    path: Path
    places: dict[str, TensorPlace]
    content: Any = None
    shards: tuple[Shard, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    zipped: bool = True

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        return {name: place.holder[place.key] for name, place in self.places.items()}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a .pth file (a state dict, bare or wrapped, or the released code's), .safetensors, or a folder of these.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another kind, is cut short, or holds objects whose code would have to run.
    """
    if path.is_dir():
        return read_folder(path)
    if path.suffix == ".safetensors":
        shard = read_shard(path)
        return Checkpoint(path=path, places=name_places([shard.tensors]), shards=(shard,))
    content = load_pickled(path)
    places = find_places(path, content)
    check_tensors(path, places)
    return Checkpoint(path=path, places=places, content=content, settings=hints(content), zipped=is_zip(path))


def read_folder(path: Path) -> Checkpoint:
    """Read a folder with config.json and model.safetensors, in one file or in shards."""
    files = sorted(path.glob("*.safetensors"))
    if (path / WHOLE).exists():
        files = [path / WHOLE]
    elif (path / INDEX).exists():
        files = indexed_files(path)
    elif not files:
        raise ValueError(f"{path}: got a folder without {WHOLE}; expected config.json and {WHOLE}, whole or in shards")
    elif len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise ValueError(f"{path}: got a folder of several checkpoints ({names}); expected one; name one of them")
    shards = tuple(read_shard(file) for file in files)
    settings: dict[str, Any] = {}
    for name in ("config.json", "preprocessor_config.json"):
        if (path / name).exists():
            settings[name.removesuffix(".json")] = read_foreign(path / name)
    places = name_places([shard.tensors for shard in shards])
    return Checkpoint(path=path, places=places, shards=shards, settings=settings)


class Index(TypedDict, total=False):
    """An index of shards: the file of every tensor."""

    weight_map: dict[str, str]
    metadata: dict[str, Any] | None


def read_foreign(path: Path, kind: Any = dict[str, Any]) -> Any:
    """Return a JSON file that came with a checkpoint, as a type.

    Raises:
        ValueError: It is none, is too long, or does not fit.
    """
    content = read_limited(path, MAX_JSON, f"a JSON file of at most {MAX_JSON:,}")
    return decode_json(content, kind, source=path, remedy="correct or restore it", foreign=True)


def indexed_files(path: Path) -> list[Path]:
    """Return the shards that a folder's index names.

    Raises:
        ValueError: The index names none.
        FileNotFoundError: A shard is missing.
    """
    index = read_foreign(path / INDEX, Index)
    names = sorted(set(index.get("weight_map", {}).values()))
    if not names or any(Path(name).name != name for name in names):
        raise ValueError(
            f"{path / INDEX}: got no list of files; expected a weight_map from tensors to files of the folder; restore "
            "it"
        )
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path}: got a folder without {name_some(missing, 3)}, {len(missing)} of the {len(names)} shards that "
            f"{INDEX} names; expected all of them; fetch them again"
        )
    return [path / name for name in names]


def find_places(path: Path, content: Any) -> dict[str, TensorPlace]:
    """Find the state dict in what torch.load returned, the averaged one if there are two.

    Raises:
        ValueError: There is no state dict.
    """
    keys: list[str] = []
    seen: set[int] = set()  # a hostile file may hold a dict that holds itself
    while isinstance(content, dict) and id(content) not in seen:
        seen.add(id(content))
        best = content.get("state_dict_best", content)
        if isinstance(best, dict) and all(isinstance(best.get(part), dict) for part in RELEASED):
            return name_places([best[part] for part in RELEASED])
        # Wrappers first: a script may keep another tensor beside them, such as its best accuracy
        inner = [key for key in WRAPPERS if isinstance(content.get(key), dict) and content[key]]
        if not inner:
            if any(isinstance(value, Tensor) for value in content.values()):
                return name_places([content])
            keys = [str(key)[:50] for key in itertools.islice(content, 5)]
            break
        if inner[1:]:
            kind = "averaged weights" if inner[0] in AVERAGES else "weights"
            log.info("%s: took the %s in %s, not those in %s", path, kind, inner[0], ", ".join(inner[1:]))
        content = content[inner[0]]
    what = f"dict of {', '.join(keys) or 'nothing'}" if isinstance(content, dict) else type(content).__name__
    raise ValueError(
        f"{path}: got no state dict but a {what}; expected tensors by name, alone or under {', '.join(WRAPPERS)}"
    )


def check_tensors(path: Path, places: Mapping[str, TensorPlace]) -> None:
    """Raise a ValueError unless tensors of a pickle hold their numbers, in memory as large as the file.

    A pickle can also make tensors without data, or tensors that repeat one number without end.
    """
    with deciphering(path, expected="tensors with all their numbers", remedy=REMEDY):
        tensors = {name: place.holder[place.key] for name, place in places.items()}
        for name, tensor in tensors.items():
            if (
                tensor.device.type != "cpu"
                or tensor.layout != torch.strided
                or bool(tensor.numel()) > tensor.data_ptr()
            ):
                raise TypeError(f"{name} has no data")
        check_growth(sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()), path.stat().st_size)


def name_places(holders: list[dict[str, Any]]) -> dict[str, TensorPlace]:
    """Name every tensor without wrapper prefixes that most names of its mapping share; a loss's names may lack them."""
    places: dict[str, TensorPlace] = {}
    for holder in holders:
        names = {
            key: key
            for key, value in holder.items()
            if isinstance(key, str) and isinstance(value, Tensor) and key != AVERAGE_COUNTER
        }
        while prefix := next(
            (p for p in PREFIXES if 2 * sum(n.startswith(p) for n in names.values()) > len(names)), ""
        ):
            shorter = {key: name.removeprefix(prefix) for key, name in names.items()}
            if len(set(shorter.values())) < len(names):
                break
            names = shorter
        places |= {name: TensorPlace(holder, key) for key, name in names.items()}
    return places


def hints(content: Any) -> dict[str, Any]:
    """Return what a training script saved beside the weights: its arguments, and the network in config.json's form."""
    if not isinstance(content, dict):
        return {}
    arguments = content.get("args")
    arguments = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    arguments = {str(key): value for key, value in arguments.items()} if isinstance(arguments, dict) else {}
    of_script = TIMM_ARGUMENT in arguments or TORCHVISION_ARGUMENT in arguments
    names = {"architecture": content.get("arch") or (arguments.get("model") if of_script else None)}
    if TIMM_ARGUMENT in arguments:
        names["global_pool"] = arguments.get("gp")
    config: dict[str, Any] = {key: name for key, name in names.items() if name and isinstance(name, str)}
    if (pool := config.get("global_pool")) and pool.startswith("fast"):
        config["global_pool"] = pool.removeprefix("fast") or "avg"
    if isinstance(built := arguments.get("model_kwargs"), dict) and of_script:
        config["model_args"] = built
    return {key: value for key, value in {"config": config, "args": arguments}.items() if value}
