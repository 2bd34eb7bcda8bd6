"""Map the order of classes in a checkpoint from elsewhere to that of the data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.layouts.listing import nfc
from ..files import read_json
from ..runtime.log import log, name_some

MAX_NAME = 1000  # characters; no folder has a longer one
MAX_CLASSES = 1 << 20
TO_NUMBER = ("class_to_idx", "class_to_index", "label2id")
TO_NAME = ("idx_to_class", "index_to_class", "id2label")
LISTED = ("classes", "class_names", "label_names", "CLASSES")
INSIDE = ("meta", "dataset_meta", "config", "cfg", "args", "hyper_parameters", "hparams")
"""Where training scripts keep class names beside weights, and in which parts of a file."""
RECORD = "data.json"  # of a run of our own, whose names are classes even if they are numbers
NUMBERED = re.compile(r"(LABEL_|class[ _]?)?\d+", re.IGNORECASE)  # a name that only says a class's place


@dataclass(frozen=True)
class ClassOrder:
    """An order that the classes of a checkpoint may have: for each class of the data, its row in the head."""

    name: str
    rows: tuple[int, ...]

    def differing(self, other: ClassOrder) -> list[int]:
        """Return the classes of the data that have another row in another order."""
        return [at for at, (one, two) in enumerate(zip(self.rows, other.rows, strict=True)) if one != two]

    def first_names(self, class_names: Sequence[str], other: ClassOrder) -> str:
        """Return the names of the first few rows that another order gives to other classes."""
        rows = sorted(self.rows[at] for at in self.differing(other))
        classes = {row: at for at, row in enumerate(self.rows)}
        return name_some([f"{row} {class_names[classes[row]]}" for row in rows], 4)


def settle_order(
    path: Path,
    settings: Mapping[str, Any],
    classes: Path | None,
    class_names: Sequence[str],
    *,
    folders: Sequence[str] | None = None,
    content: Any = None,
) -> tuple[ClassOrder, ...]:
    """Return the order of a checkpoint's classes; more than one where only the images can tell.

    Args:
        path: The checkpoint, for messages.
        settings: The checkpoint's config.json.
        classes: A file with the checkpoint's class names in its own order, the name of a way to sort, or None.
        class_names: The data's classes, in the data's order.
        folders: Their class folders, where these have other names.
        content: What a training script saved beside the weights.

    Raises:
        ValueError, FileNotFoundError: The names are not those of the data, each once, or the file does not exist.
    """
    known = [tuple(map(nfc, names)) for names in (class_names, folders) if names is not None]
    sorts = sorted_orders(known[-1])
    if classes is not None:
        if not classes.is_file() and str(classes) in sorts:
            return (sorts[str(classes)],)
        return (ClassOrder("--classes", order_of(read_names(classes), known, "--classes", str(classes))),)
    carried: list[ClassOrder] = []
    for where, names in carried_names(path, settings, content):
        # Names of another kind (LABEL_0, or tench for n01440764) do not tell the order; a partial match is a mistake,
        # unless another list has matched
        theirs = set(map(nfc, names))
        if any(theirs == set(ours) if carried else theirs & set(ours) for ours in known):
            rows = order_of(names, known, str(path), f"a {where}", ", or give --classes FILE to overrule it")
            carried.append(ClassOrder(where, rows))
    if carried:
        check_agreement(path, carried, class_names)
        log.info("%s: classes in the order of its %s", path, carried[0].name)
        return (carried[0],)
    orders = [ClassOrder("the data's", tuple(range(len(class_names))))]
    if list(known[-1]) != [str(at) for at in range(len(class_names))]:  # numbers may be no names of folders at all
        orders += [order for order in sorts.values() if order.rows not in [other.rows for other in orders]]
    if len(orders) == 1:
        log.info("%s: classes taken to be in the data's order, %s ... (--classes FILE for another)", path, known[0][0])
    return tuple(orders)


def check_agreement(path: Path, orders: Sequence[ClassOrder], class_names: Sequence[str]) -> None:
    """Raise a ValueError if the names in two places of a checkpoint give its classes other numbers."""
    one = orders[0]
    for other in orders[1:]:
        if other.rows != one.rows:
            raise ValueError(
                f"{path}: got classes in two orders, {one.first_names(class_names, other)} in its {one.name} and "
                f"{other.first_names(class_names, one)} in its {other.name}; expected one; give the right one with "
                "--classes FILE"
            )


def sorted_orders(names: Sequence[str]) -> dict[str, ClassOrder]:
    """Return the orders in which the usual trainers number class folders."""
    ranked = range(len(names))
    ways = {
        "torchvision": sorted(ranked, key=lambda at: names[at]),
        "timm": sorted(ranked, key=lambda at: (natural_key(names[at]), names[at])),
    }
    return {way: ClassOrder(f"{way}'s", tuple(np.argsort(classes).tolist())) for way, classes in ways.items()}


def natural_key(name: str) -> list[int | str]:
    """Return what timm sorts class folders by: text without its case, and runs of digits as numbers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


def read_names(file: Path) -> list[str]:
    """Return the class names in the file that --classes names, one a line."""
    if not file.is_file():
        raise FileNotFoundError(
            f"--classes: got {file}, which does not exist; expected a file with a class name a line, or timm or "
            "torchvision"
        )
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--classes: got {file}, which is not text; expected a class name a line") from error
    return [line.strip() for line in lines if line.strip()]


def carried_names(path: Path, settings: Mapping[str, Any], content: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield (what carries them, class names in the checkpoint's order) for all that a checkpoint comes with.

    Raises:
        ValueError: Numbers of classes do not count from 0.
    """
    parts: list[tuple[str, str, Any]] = [("config.json", "", settings.get("config"))]
    for folder in list(path.resolve().parents)[1:3]:  # one of our own, in its run
        if (folder / "config.json").is_file() and (folder / RECORD).is_file():
            parts.append((RECORD, "", read_json(folder / RECORD, remedy="restore the file")))
    parts += [("dict", name, part) for name, part in inner_parts(content)]
    for kind, prefix, part in parts:
        if not isinstance(part, Mapping):
            continue
        for key in (*TO_NUMBER, *TO_NAME, *LISTED):
            found, where = part.get(key), f"{kind} with {prefix}{key}"
            if key in LISTED:
                if isinstance(found, (list, tuple)) and 0 < len(found) <= MAX_CLASSES:
                    yield where, [str(name)[:MAX_NAME] for name in found]
            elif isinstance(found, Mapping) and 0 < len(found) <= MAX_CLASSES:
                names = {at: name for name, at in found.items()} if key in TO_NUMBER else found
                yield where, in_order(path, where, names)


def inner_parts(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield (its name, a part of what a training script saved) for all in which class names may stand."""
    todo: list[tuple[str, Any, int]] = [("", content, 0)]
    for name, part, depth in todo:
        part = vars(part) if hasattr(part, "__dict__") and not isinstance(part, Mapping) else part
        if isinstance(part, Mapping):
            yield name, part
            todo += [(f"{name}{key}.", part[key], depth + 1) for key in INSIDE if depth < 2 and key in part]


def in_order(path: Path, where: str, names: Mapping[Any, Any]) -> list[str]:
    """Return names by number in the order of the numbers.

    Raises:
        ValueError: The numbers are not 0 to one less than their count.
    """
    numbers = [str(number) for number in range(len(names))]
    named = {str(number): name for number, name in names.items()}
    if not named.keys() <= set(numbers):
        raise ValueError(
            f"{path}: got a {where} whose keys are not the numbers from 0 to {len(numbers) - 1}; expected class "
            "indices; correct or drop it"
        )
    return [str(named[number])[:MAX_NAME] for number in numbers]


def order_of(
    names: Sequence[str], known: Sequence[Sequence[str]], what: str, source: str, remedy: str = ""
) -> tuple[int, ...]:
    """Return the place in `names` of every class of the data.

    Args:
        names: The checkpoint's class names.
        known: The data's class names and, if they are others, class folders.
        what: What errors blame.
        source: What errors call the list.
        remedy: What errors add to the way out.
    """
    rows, fault = rows_of(names, known)
    if fault:
        raise ValueError(
            f"{what}: got {source} of {len(names)} names that do not match the data's {len(known[0])} classes: "
            f"{fault}; expected each class name (folder name) once, in the checkpoint's order; correct it{remedy}"
        )
    return rows


def rows_of(names: Sequence[str], known: Sequence[Sequence[str]]) -> tuple[tuple[int, ...], str]:
    """Return the place in `names` of every class of the data, or none and in what the two differ."""
    names = [nfc(name) for name in names]
    class_names = max(known, key=lambda ours: len(set(ours) & set(names)))
    places = {name: place for place, name in enumerate(names)}
    if len(places) < len(names):
        return (), f"it names {next(name for name in names if names.count(name) > 1)} twice"
    missing = [name for name in class_names if name not in places]
    unknown = [name for name in names if name not in set(class_names)]
    faults = [f"it lacks {name_some(missing, 3)}"] if missing else []
    faults += [f"the data have no {name_some(unknown, 3)}"] if unknown else []
    return () if faults else tuple(places[name] for name in class_names), "; ".join(faults)


def order_for_head(
    carried: Iterable[tuple[str, Sequence[str]]], known: Sequence[Sequence[str]]
) -> tuple[ClassOrder | None, str]:
    """Return the order of a head's classes by the names that its checkpoint carries.

    Args:
        carried: What `carried_names` yields.
        known: The data's class names and, if they are others, class folders.

    Returns:
        (the order, None if the names do not tell; why the head cannot be used, else empty).
    """
    known = [tuple(map(nfc, names)) for names in known]
    orders: list[ClassOrder] = []
    others = ""
    for where, names in carried:
        rows, fault = rows_of(names, known)
        if not fault:
            orders.append(ClassOrder(where, rows))
            continue
        shared = any(set(map(nfc, names)) & set(ours) for ours in known)
        if shared or where.startswith(RECORD) or not all(map(NUMBERED.fullmatch, names)):
            others = others or f"is for other classes (its {where}: {fault})"
    if not orders:
        return None, others
    if other := next((order for order in orders if order.rows != orders[0].rows), None):
        return None, f"has its classes in two orders (its {orders[0].name} and its {other.name})"
    return orders[0], ""
