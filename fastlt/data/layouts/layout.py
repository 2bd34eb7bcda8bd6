"""What a layout is: one way to store the splits of a data set on disk."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

from ...runtime.log import name_some
from .listing import Listing

SPLITS = ("train", "val", "test")

UNFINISHED = ".unfinished"
"""Where `fastlt data synth` keeps splits until they are whole."""

Reader = Callable[[Path, Path, Listing | None], Listing]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to store the splits of a data set on disk.

    Attributes:
        train: Where the train split is below a data root, for messages.
        find: Returns the source (a file or a folder) of each split of a data root; nothing without one for train.
        matches: Says whether a source has this layout.
        read: Lists the images of a source, given the data root and, for splits other than train, train's listing.
        explain_no_val: Returns the error for a train source that has no val beside it.
        file: The usual name of a split's file, with `{split}` in it; empty for folders.
        pattern: The pattern that a file with another name must match, with `{split}` in it.
    """

    train: str
    find: Callable[[Path], dict[str, Path]]
    matches: Callable[[Path], bool]
    read: Reader
    explain_no_val: Callable[[Path], str]
    file: str = ""
    pattern: str = ""


def file_layout(
    train: str,
    *,
    file: str,
    pattern: str,
    folders: tuple[str, ...],
    read: Callable[[Path, Path, Listing | None], Listing],
) -> Layout:
    """Return a layout with one file per split, in one of some folders of a data root; the rest is as in `Layout`."""

    def find(root: Path) -> dict[str, Path]:
        return next(filter(None, (find_files(root / folder, file, pattern) for folder in folders)), {})

    def explain_no_val(source: Path) -> str:
        names = " or ".join(name.format(split="val") for name in (file, pattern))
        return f"{source.parent}: got {source.name} but no file for val; expected {names} beside it; add it"

    return Layout(
        train=train,
        find=find,
        matches=lambda source: source.suffix.lower() == Path(file).suffix,
        read=read,
        explain_no_val=explain_no_val,
        file=file,
        pattern=pattern,
    )


def find_files(folder: Path, file: str, pattern: str) -> dict[str, Path]:
    """Find the file of each split in a folder; return nothing if train has none.

    Args:
        folder: The folder.
        file: As in `Layout`.
        pattern: As in `Layout`.

    Raises:
        ValueError: Several files match.
    """
    files: dict[str, Path] = {}
    for split in SPLITS:
        found = find_file(folder, (file.format(split=split),), (pattern.format(split=split),), split=split)
        if found is None and split == "train":
            break
        if found is not None:
            files[split] = found
    return files


def find_file(
    folder: Path, names: tuple[str, ...], patterns: tuple[str, ...], *, split: str, others: Container[str] = ()
) -> Path | None:
    """Find the file of a split: by its name, or else the only match of a pattern that is not among `others`.

    Raises:
        ValueError: Several files match.
    """
    for name in names:
        if (file := folder / name).is_file():
            return file
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.name not in others]
    if len(files) > 1:
        raise ValueError(
            f"{folder}: got several {split} files, {name_some([file.name for file in files])}; expected one, as "
            f"{names[0]}; give the others a folder of their own"
        )
    return files[0] if files else None
