"""Tables with an image and its class in a row, as Kaggle's train.csv beside a folder of images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ...files.tables import as_in_table, read_rows
from ...runtime.log import log, name_some
from ...runtime.output import quoted
from ..decoding.formats import IMAGE_SUFFIXES
from .layout import SPLITS, Layout
from .listing import Listing, nfc
from .walk import subfolders, walk

_MOST_BYTES = 1 << 30
_EXPECTED = "a table with a column of images and one of classes"
_NAMES = {
    "train": ("train.csv", "labels.csv", "train_labels.csv", "trainlabels.csv"),
    "val": ("val.csv", "valid.csv", "validation.csv", "val_labels.csv"),
    "test": ("test.csv", "test_labels.csv"),
}
_IMAGE_COLUMNS = (
    *("image", "image_id", "imageid", "image_name", "imagename", "image_path", "image_file", "img", "img_id"),
    *("img_name", "img_path", "file", "filename", "file_name", "filepath", "file_path", "path", "photo", "picture"),
    *("id", "name"),
)
_CLASS_COLUMNS = (
    *("label", "labels", "class", "category", "target", "class_name", "classname", "label_name", "category_name"),
    *("species", "breed", "variety", "cultivar", "diagnosis", "dx", "level", "class_id", "label_id", "category_id"),
)
_GENERIC = re.compile(
    r"(train|test|val|valid|validation)(ing)?([_-]?(images?|imgs?|photos?|jpe?gs?|pngs?|set|data)|[_-].*)?"
    r"|(all[_-]?)?(images?|imgs?|photos?|pictures?|jpe?gs?|pngs?|data(set)?)([_-]?\d+)?",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"(-?\d{1,18})[.,]0+")
_BIT = re.compile(r"[01]([.,]0+)?")
_INTEGER = re.compile(r"-?\d{1,18}")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where a table has what.

    Attributes:
        image: Number of the column of images.
        label: Number of the column of classes; None where there is none.
        one_hot: Numbers of the columns, where each class has one, with 1 in the rows of its images and else 0.
        has_header: Whether the first row names the columns.
    """

    image: int
    label: int | None
    one_hot: tuple[int, ...] = ()
    has_header: bool = True

    def label_of(self, row: Sequence[str], names: Sequence[str]) -> str:
        """Return the class in a row; "" where there is none."""
        if self.one_hot:
            return next((names[at] for at in self.one_hot if at < len(row) and _is_one(row[at])), "")
        return row[self.label] if self.label is not None and self.label < len(row) else ""


def find_tables(folder: Path) -> dict[str, Path]:
    """Return the table of each split in a folder; nothing without one for train that names images and classes."""
    if (folder / "train").is_dir() and len(subfolders(folder / "train")) > 1:
        return {}  # class folders, to which a table may be an addition
    tables = {file.name.lower(): file for file in sorted(folder.glob("*.[cC][sS][vV]")) if file.is_file()}
    found: dict[str, Path] = {}
    for split, names in _NAMES.items():
        if file := next((tables[name] for name in names if name in tables and _is_usable(tables[name])), None):
            found[split] = file
    known = {name for names in _NAMES.values() for name in names}
    others = [file for name, file in tables.items() if name not in known and not _is_of_test(name) and _is_usable(file)]
    if "train" not in found and len(others) == 1:
        found = {"train": others[0]} | found
    if "train" not in found:
        return {}
    if (test := next((tables[name] for name in _NAMES["test"] if name in tables), None)) and "test" not in found:
        log.info("%s: without a column of classes it is not opened; `fastlt predict` classifies images", test)
    return {split: found[split] for split in SPLITS if split in found}


def _is_of_test(name: str) -> bool:
    """Return whether a table is about test images by its name, perhaps with classes that stand for none."""
    return name.startswith("test") or "submission" in name


def _is_usable(file: Path) -> bool:
    """Return whether a table has a column of images and one of classes."""
    try:
        columns = find_columns(read_rows(file, _MOST_BYTES, _EXPECTED)[0])
    except ValueError:
        return False
    return columns is not None and (columns.label is not None or bool(columns.one_hot))


def find_columns(rows: Sequence[Sequence[str]]) -> Columns | None:
    """Find the columns of images and classes by their usual names, or in a table of two columns by what they hold."""
    if not rows:
        return None
    names = [re.sub(r"\W+", "_", cell.lower()).strip("_") for cell in rows[0]]
    image = next((names.index(name) for name in _IMAGE_COLUMNS if name in names), None)
    label = next((names.index(name) for name in _CLASS_COLUMNS if name in names), None)
    two = len(names) == 2
    if image is None and label is None:
        shown = [at for at, cell in enumerate(rows[0]) if Path(cell).suffix.lower() in IMAGE_SUFFIXES]
        return Columns(image=shown[0], label=1 - shown[0], has_header=False) if two and len(shown) == 1 else None
    if image is None:
        return Columns(image=1 - label, label=label) if two and label is not None else None
    others = tuple(at for at in range(len(names)) if at != image)
    if label is None and len(others) > 1 and _are_one_hot(rows[1:], others):
        return Columns(image=image, label=None, one_hot=others)
    return Columns(image=image, label=1 - image if label is None and two else label)


def _are_one_hot(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> bool:
    """Return whether in every row one of the columns is 1 and the others are 0."""
    chosen = ([row[at] for at in columns if at < len(row)] for row in rows if any(row))
    return all(sum(map(_is_one, cells)) == 1 and all(map(_BIT.fullmatch, cells)) for cells in chosen)


def _is_one(cell: str) -> bool:
    return cell.startswith("1") and _BIT.fullmatch(cell) is not None


def read_table(file: Path, root: Path, *, split: str, class_names: tuple[str, ...] | None = None) -> Listing:
    """Read a table.

    Args:
        file: The table.
        root: Images are searched below this folder: by path, by name, or by name without a suffix.
        split: Of images with the same name, those in a folder that is called after the split count. Where train has
            such a folder, an image in that of another split is not meant by its bare name.
        class_names: The classes of train, for another split; by default those of the table, sorted, numbers as such.

    Raises:
        FileNotFoundError: Images do not exist.
        ValueError: The table cannot be read, or does not give every image one class.
    """
    rows = read_rows(file, _MOST_BYTES, _EXPECTED)[0]
    columns = find_columns(rows)
    if columns is None or (columns.label is None and not columns.one_hot):
        raise ValueError(explain_columns(file))
    entries: list[tuple[str, str]] = []
    for number, row in enumerate(rows, 1):
        if not any(row) or (number == 1 and columns.has_header):
            continue
        image, label = row[columns.image] if columns.image < len(row) else "", columns.label_of(row, rows[0])
        if not (image and label):
            raise ValueError(f"{file}, row {number}: got {row!r:.80}; expected an image and its class; complete it")
        entries.append((image, nfc(" ".join(label.split()))))
    found = walk(root)
    paths = _Finder(found.images, split).find_all(file, root, [image for image, _ in entries])
    label_of = _one_label_each(file, paths, _tidy([label for _, label in entries]))
    names = class_names or _sorted_names(file, label_of.values())
    if unknown := sorted(set(label_of.values()) - set(names)):
        raise ValueError(
            f"{file}: got {len(unknown)} classes that train lacks, {name_some(unknown)}; expected those of train; "
            "correct them, or add their images to train"
        )
    numbers = {name: number for number, name in enumerate(names)}
    return Listing(
        root=root,
        paths=tuple(label_of),
        labels=np.array([numbers[label] for label in label_of.values()], np.int64),
        class_names=names,
        source=file,
        left_out=tuple(each for each in found.left_out if each.is_picture) if split == "train" else (),
    )


def are_classes(folders: Sequence[str]) -> bool:
    """Return whether folders look like classes: several, of which not all are called "images", "train" or the like."""
    return len(folders) > 1 and not all(map(_GENERIC.fullmatch, folders))


def explain_unlabelled(root: Path, folders: Sequence[str]) -> str:
    """Return the message for folders of images without classes, perhaps with a table that cannot be read."""
    tables = [file for file in sorted(root.glob("*.[cC][sS][vV]")) if not _is_of_test(file.name.lower())]
    if tables:
        named = [file for file in tables if file.name.lower() in _NAMES["train"]]
        return explain_columns((named or tables)[0])
    return (
        f"{root}: got images in {name_some(folders)}, without classes; expected a folder a class, or train.csv with "
        "columns image and label; sort the images, or add the table"
    )


def explain_columns(file: Path) -> str:
    """Return the message for a table whose columns are not known."""
    try:
        header = next(iter(read_rows(file, _MOST_BYTES, _EXPECTED)[0]), [])
    except ValueError as error:
        return str(error)
    expected = f"one of images ({name_some(_IMAGE_COLUMNS, 4)}) and one of classes ({name_some(_CLASS_COLUMNS, 4)})"
    return (
        f"{file}: got the columns {name_some(header, 8) or 'none'}; expected {expected}; name them so in the first row"
    )


def _tidy(labels: list[str]) -> list[str]:
    """Return labels, whole numbers without the decimals that spreadsheets add."""
    whole = [_WHOLE.sub(r"\1", label) if _WHOLE.fullmatch(label) else label for label in labels]
    return whole if all(map(_INTEGER.fullmatch, whole)) else labels


def _sorted_names(file: Path, labels: Iterable[str]) -> tuple[str, ...]:
    names = sorted(set(labels))
    if not all(map(_INTEGER.fullmatch, names)):
        return tuple(names)
    names.sort(key=int)
    if same := [f"{one} and {other}" for one, other in pairwise(names) if int(one) == int(other)]:
        raise ValueError(
            f"{file}: got {len(same)} numbers of classes in two forms, {name_some(same)}; expected one form; write "
            "them alike, or give the classes names"
        )
    return tuple(names)


def _one_label_each(file: Path, paths: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Return the class of every image; an image in several rows has the same one in all."""
    label_of: dict[str, str] = {}
    several: dict[str, str] = {}
    for path, label in zip(paths, labels, strict=True):
        if label_of.setdefault(path, label) != label:
            several.setdefault(path, f"{path} ({label_of[path]}, {label})")
    if several:
        raise ValueError(
            f"{file}: got {len(several)} images with several classes, {name_some([*several.values()])}; expected one "
            "class an image; correct the table"
        )
    if twice := len(paths) - len(label_of):
        log.info("%s: %d rows repeat an image of another row", file, twice)
    return label_of


class _Finder:
    """Finds the images that a table means among those on the disk."""

    def __init__(self, images: Sequence[str], split: str) -> None:
        self._split = split
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        self._by_number: dict[int, list[str]] = {}
        for path in images:
            name = _as_typed(path.rpartition("/")[2])
            stem = _without_suffix(name)
            self._by_name.setdefault(name, []).append(path)
            self._by_stem.setdefault(stem, []).append(path)
            if _INTEGER.fullmatch(stem):
                self._by_number.setdefault(int(stem), []).append(path)
        # Other splits may be cut out of the folder of train, but not train out of theirs
        self._is_apart = split == "train" and any(_is_of(path, split) for path in images)

    def find_all(self, file: Path, root: Path, images: Sequence[str]) -> list[str]:
        """Return the path of every image.

        Raises:
            FileNotFoundError: Some do not exist.
            ValueError: There are several of one name.
        """
        absent, several = [], []
        paths = []
        for image in images:
            found = self._find(image)
            paths.append(found[0] if found else "")
            if not found:
                absent.append(image)
            elif len(found) > 1:
                several.append(f"{image} ({name_some(found, 2)})")
        if absent:
            raise FileNotFoundError(
                f"{file}: got {len(absent)} of {len(images)} images that do not exist under {root}, "
                f"{name_some(absent)}; check the data root, or take them out of the table"
            )
        if several:
            raise ValueError(
                f"{file}: got {len(several)} images of which there are several, {name_some(several, 3)}; expected "
                "one; write their paths into the table"
            )
        bare = (path for path, image in zip(paths, images, strict=True) if not re.search(r"[/\\]", image))
        if self._split == "train" and (odd := [path for path in bare if _is_of_others(path, "train")]):
            log.warning("%s: %d of its images lie in a folder of another split, as %s", file, len(odd), odd[0])
        return paths

    def _find(self, image: str) -> list[str]:
        key = nfc(image.replace("\\", "/")).removeprefix("./").lstrip("/")
        whole = _WHOLE.fullmatch(key)
        for text in (key, whole[1]) if whole else (key,):
            name = text.rpartition("/")[2]
            for known, form in ((self._by_name.get(name), text), (self._by_stem.get(name), text)):
                if found := self._choose(known, form):
                    return found
            stem = _without_suffix(name)
            if stem != name and (found := self._choose(self._by_stem.get(stem), _without_suffix(text))):
                return found
            if _INTEGER.fullmatch(text) and (found := self._choose(self._by_number.get(int(text)), "")):
                return found  # a spreadsheet drops zeros in front
        return []

    def _choose(self, paths: list[str] | None, text: str) -> list[str]:
        """Return those of the images of a name that a text can mean, if possible one."""
        found = [path for path in paths or () if _ends_with(path, text)]
        if exact := [path for path in found if _same(path, text)]:
            return exact[:1]
        bare = self._is_apart and "/" not in text  # then one that is missing is not the one of that name elsewhere
        if len(found) < 2 and not bare:
            return found
        ours = [path for path in found if _is_of(path, self._split)]
        ours = ours or [path for path in found if not _is_of_others(path, self._split)]
        return ours if ours or bare else found


def _is_of(path: str, split: str) -> bool:
    """Return whether an image lies in a folder that is called after a split."""
    folders = [part.lower() for part in path.split("/")[:-1]]
    return any(
        part.startswith(split) and (not part[len(split) :][:1].isalpha() or _GENERIC.fullmatch(part))
        for part in folders
    )


def _is_of_others(path: str, split: str) -> bool:
    """Return whether an image lies in a folder that is called after other splits only."""
    return not _is_of(path, split) and any(_is_of(path, other) for other in SPLITS)


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def _as_typed(path: str) -> str:
    return nfc(as_in_table(path))


def _same(path: str, text: str) -> bool:
    path = _as_typed(path)
    return text in (path, _without_suffix(path))


def _ends_with(path: str, text: str) -> bool:
    path = f"/{_as_typed(path)}"
    return not text or path.endswith(f"/{text}") or _without_suffix(path).endswith(f"/{text}")


def _read(source: Path, root: Path, train: Listing | None) -> Listing:
    if train is None:
        return read_table(source, root, split="train")
    names: Mapping[str, tuple[str, ...]] = {split: _NAMES[split] for split in ("val", "test")}
    split = next((split for split, known in names.items() if source.name.lower() in known), "val")
    return read_table(source, root, split=split, class_names=train.class_names)


def _explain_no_val(train: Path) -> str:
    return (
        f"{train}: got a table for train but none for val; expected val.csv beside it; add it, or make val and test "
        f"from {train.name} with `fastlt data split {quoted(train.parent)}` (no image is moved)"
    )


TABLES = Layout(
    train="train.csv",
    find=find_tables,
    matches=lambda source: source.suffix.lower() == ".csv",
    read=_read,
    explain_no_val=_explain_no_val,
)
