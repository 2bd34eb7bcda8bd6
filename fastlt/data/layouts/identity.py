"""Whether sources that number classes mean the same classes: a class is its name, wherever names exist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ...runtime.log import log, name_some
from .listing import Listing, nfc

_PLACES = (slice(-2, -1), slice(-3, -2), slice(-4, -3), slice(-3, -1), slice(0, 1))
"""Where the class's folder may stand in a path: around the image, one or two above, the last two together, or first."""

_SHARE = 0.95  # of a list's images that must follow the rule of one number a folder
_NUM_SHOWN = 4


class Labelled(Protocol):
    """Images with labels: a split as it is listed, or opened."""

    @property
    def paths(self) -> tuple[str, ...]:
        """N files."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """int64 [N]."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names."""
        ...


def class_folders(listing: Labelled) -> tuple[str, ...] | None:
    """Return the folder of every class, where folders and classes match one to one; else None."""
    for place in _PLACES:
        if numbers := folder_numbers(listing, place):
            folders = {number: folder for folder, number in numbers.items()}
            return tuple(folders.get(label, listing.class_names[label]) for label in range(len(listing.class_names)))
    return None


def folder_numbers(listing: Labelled, place: slice) -> dict[str, int]:
    """Return the label of every folder at a place of the paths; nothing unless they match one to one.

    A few images that break the rule are wrong labels, which say nothing about the others.
    """
    folders = (nfc("/".join(path.split("/")[place])) for path in listing.paths)
    votes = Counter(zip(folders, listing.labels.tolist(), strict=True))
    most: dict[str, tuple[int, int]] = {}
    for (folder, label), count in votes.items():
        if count > most.get(folder, (0, 0))[0]:
            most[folder] = count, label
    numbers = {folder: label for folder, (_, label) in most.items()}
    num_labels = len({label for _, label in votes})
    if "" in numbers or not len(numbers) == len(set(numbers.values())) == num_labels:
        return {}
    return numbers if sum(count for count, _ in most.values()) >= _SHARE * len(listing.paths) else {}


def in_range(listing: Listing) -> bool:
    """Return whether a split has images, and all labels are numbers of its classes; else it has its own message."""
    labels = listing.labels
    return bool(listing.paths) and int(labels.min()) >= 0 and int(labels.max()) < len(listing.class_names)


def check_names(listing: Listing, *, given: bool = False) -> None:
    """Raise a ValueError if the images' folders have names of classes, but of other ones than their labels say.

    Args:
        listing: A split.
        given: Whether the class names are certainly names, even if all are numbers.
    """
    if not in_range(listing) or not (given or any(not name.isdecimal() for name in listing.class_names)):
        return
    names = tuple(map(nfc, listing.class_names))
    known = set(names)
    for place in _PLACES:
        numbers = folder_numbers(listing, place)
        if wrong := [(folder, at) for folder, at in numbers.items() if folder in known and names[at] != folder]:
            pairs = [f"{folder} has number {at}, which is {names[at]}" for folder, at in sorted(wrong, key=_number)]
            raise ValueError(
                f"{listing.source}: got {len(wrong)} of {len(numbers)} class folders with the number of another class "
                f"({name_some(pairs, _NUM_SHOWN)}); expected numbers in the order of the class names, "
                f"{name_some(names, _NUM_SHOWN)}; correct the list, or the order in classes.txt"
            )
        if numbers:
            return


def check_numbers(listing: Listing, train: Listing) -> None:
    """Raise a ValueError if class folders have other numbers in a split than in train."""
    for place in _PLACES:
        expected = folder_numbers(train, place)
        if not expected:
            continue
        numbers = folder_numbers(listing, place)
        shared = numbers.keys() & expected.keys()
        # Where most folders are train's, another one is another class; where few are, folders mean something else
        compared = numbers if 2 * len(shared) > len(numbers) else shared
        if wrong := sorted(
            (folder for folder in compared if expected.get(folder) != numbers[folder]), key=numbers.__getitem__
        ):
            own = {number: folder for folder, number in expected.items()}
            pairs = [
                f"{folder} is {numbers[folder]} here and {expected[folder]} in train"
                if folder in expected
                else f"{folder} is {numbers[folder]} here, which is {own.get(numbers[folder], 'unused')} in train"
                for folder in wrong
            ]
            raise ValueError(
                f"{listing.source}: got {len(wrong)} of {len(numbers)} class folders with another number than in "
                f"{train.source} ({name_some(pairs, _NUM_SHOWN)}); expected one number a class in all lists; number "
                "both by the same order of classes"
            )
        return


def _number(pair: tuple[str, int]) -> int:
    return pair[1]


def order_folders(folder: Path, folders: Sequence[str], names: Sequence[str], source: str) -> tuple[str, ...]:
    """Return class folders in the order of the names that a source lists.

    Names of the folders decide the order. Names of another kind, to show, are one for each folder in sorted order.

    Args:
        folder: Holds the class folders.
        folders: The class folders, sorted.
        names: The names.
        source: Where the names come from, for messages.

    Raises:
        ValueError: Only some of the names are those of folders, or the numbers differ.
    """
    if sorted(names) == sorted(folders):
        return tuple(names)
    if shared := set(names) & set(folders):
        absent = [name for name in names if name not in shared]
        extra = [name for name in folders if name not in shared]
        faults = [f"no folder for {name_some(absent, _NUM_SHOWN)}"] if absent else []
        faults += [f"no name for {name_some(extra, _NUM_SHOWN)}"] if extra else []
        raise ValueError(
            f"{folder}: got class folders and {source} that do not match ({'; '.join(faults or ['a name twice'])}); "
            "expected the name of every folder once; correct classes.txt, or the folders"
        )
    if len(names) != len(folders):
        raise ValueError(
            f"{folder}: got {len(folders)} class folders but {len(names)} class names; expected a name a folder, "
            f"in sorted order; correct {source}"
        )
    pairs = [f"{one} is {other}" for one, other in zip(folders, names, strict=True)]
    log.info("%s: class folders are named by %s in sorted order: %s", folder, source, name_some(pairs, 2))
    return tuple(folders)


def count_from_zero(listings: Mapping[str, Listing], names: Sequence[str] | None) -> dict[str, Listing]:
    """Return list files' splits with their labels moved down by one if they certainly count from 1; else as they are.

    It is certain if train has every number from 1 to C, no split has 0 or more than C, and no name is left over.

    Args:
        listings: The splits by name.
        names: The class names in classes.txt, or None.
    """
    splits = {split: listing for split, listing in listings.items() if listing.paths}
    train = splits.get("train")
    if train is None or len(splits) < 2:
        return dict(listings)
    labels = np.unique(train.labels)
    num_classes = len(labels)
    low = min(int(listing.labels.min()) for listing in splits.values())
    high = max(int(listing.labels.max()) for listing in splits.values())
    if not (low == int(labels[0]) == 1 and high == int(labels[-1]) == num_classes):
        return dict(listings)
    if names is not None and len(names) != num_classes:
        return dict(listings)
    log.info("%s: labels count from 1 to %d, with no 0 in any list: taken as 0 to %d", train.source, high, high - 1)
    kept = tuple(names) if names is not None else train.class_names[1:]
    return {split: replace(listing, labels=listing.labels - 1, class_names=kept) for split, listing in listings.items()}
