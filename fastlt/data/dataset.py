"""One split of a long-tailed data set: its image files, their labels, and the class counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..files import replacing
from ..files.reading import read_regular
from ..metrics import shot_groups
from ..runtime.cache import cache_dir
from ..runtime.log import log, name_some
from .index import content_hash, content_keys, fingerprint, index_files, index_key
from .layouts.coco import read_coco
from .layouts.folders import list_folder
from .layouts.identity import check_names
from .layouts.listing import Listing, as_on_disk, check_labels, nfc
from .layouts.lists import read_list
from .layouts.walk import LeftOut, tell_left_out
from .tar import TarImages


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not a complete image, relative to the root, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False, kw_only=True)
class LongTailedDataset:
    """One split of N images in C classes.

    Attributes:
        root: What `paths` are relative to.
        paths: N files, with forward slashes.
        labels: int64 [N], classes 0 .. C - 1.
        sizes: int32 [N, 2], width and height in pixels, EXIF orientation ignored.
        native: bool [N], whether DALI decodes the file to the pixels of `decode_rgb`.
        class_names: C names.
        split: "train", "val", "test" or any other name.
        fingerprint: Hash of paths, labels, file sizes and modification times.
        content: Hash of labels, file sizes and content (`index.content_hash`), the same for a copy in another place;
            empty where it is not known, as in packs of earlier versions.
        contents: uint64 [N], the same for images whose files have the same bytes; None where they are not known.
        skipped: The files left out because they are not complete images.
        left_out: Files and folders beside the images that are no images, or are not entered.
        images: The images if they are packed in a tar, which is then `root`.
    """

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    sizes: np.ndarray
    native: np.ndarray
    class_names: tuple[str, ...]
    split: str
    fingerprint: str
    content: str = ""
    contents: np.ndarray | None = None
    skipped: tuple[SkippedFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    images: TarImages | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"LongTailedDataset({self.split!r}, {len(self)} images, {self.num_classes} classes, root={self.root})"

    @property
    def num_classes(self) -> int:
        """Number of classes C, including those without an image in this split."""
        return len(self.class_names)

    @property
    def class_counts(self) -> np.ndarray:
        """Images of each class: int64 [C]."""
        return np.bincount(self.labels, minlength=self.num_classes).astype(np.int64)

    @property
    def imbalance_ratio(self) -> float:
        """Images in the largest class divided by those in the smallest one."""
        counts = self.class_counts
        return float(counts.max() / counts.min()) if counts.min() > 0 else float("inf")

    def shot_groups(self, many: int = 100, few: int = 20) -> dict[str, np.ndarray]:
        """Group classes by their count in this split, as Liu et al. (CVPR 2019) group them.

        Args:
            many: A class with more images than this is "many".
            few: A class with fewer images than this is "few"; all others, at both limits too, are "medium".

        Returns:
            The class ids (int64) of "many", "medium" and "few".
        """
        return {name: np.flatnonzero(mask) for name, mask in shot_groups(self.class_counts, many, few).items()}

    def path(self, index: int) -> Path:
        """Return the file of a sample; for a packed one, its path below the tar.

        Args:
            index: Number of the sample.
        """
        return self.root / self.paths[index]

    def read(self, index: int) -> bytes:
        """Return the bytes of a sample's file.

        Args:
            index: Number of the sample.

        Raises:
            OSError: The file cannot be read, or a packed image is damaged.
            ValueError: It is no regular file.
        """
        if self.images is None:
            return read_regular(self.path(index))
        try:
            return self.images.read(index)
        except OSError as error:
            error.filename = str(self.path(index))
            raise

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        *,
        split: str | None = None,
        class_folders: tuple[str, ...] | None = None,
        class_names: tuple[str, ...] | None = None,
        strict: bool = False,
        cache: bool = True,
    ) -> LongTailedDataset:
        """Read a folder of class folders.

        Args:
            folder: Holds one folder per class, with the class's images at any depth.
            split: Name of the split; by default the folder's name.
            class_folders: The folders of classes 0 .. C - 1, for a split that shares another one's classes;
                by default all that exist, sorted.
            class_names: The folders' names in the order of the classes, or names to show, in the order of the sorted
                folders; by default the lines of `classes.txt`, or the folders' names.
            strict: Whether a file that is not a complete image, or a picture of a kind that is not read, is an error
                instead of being left out.
            cache: Whether the index may be read from and written to the cache folder.

        Returns:
            The split.

        Raises:
            FileNotFoundError: No such folder, or no class folder in it.
            ValueError: A class without an image, a class folder that is not among `class_folders`, or a folder that
                links make a part of two classes.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> from PIL import Image
            >>> from fastlt.data import LongTailedDataset
            >>> folder = Path(tempfile.mkdtemp()) / "train"
            >>> for name in ("ant/1.png", "ant/2.png", "bee/1.png"):
            ...     (folder / name).parent.mkdir(parents=True, exist_ok=True)
            ...     Image.new("RGB", (8, 8)).save(folder / name)
            >>> train = LongTailedDataset.from_folder(folder, cache=False)
            >>> train.class_names, train.class_counts.tolist(), train.paths
            (('ant', 'bee'), [2, 1], ('ant/1.png', 'ant/2.png', 'bee/1.png'))
        """
        folder = Path(folder)
        listing = list_folder(folder, class_folders=class_folders, class_names=class_names)
        return build_dataset(
            listing, split=split or folder.name, complete=class_folders is None, strict=strict, cache=cache
        )

    @classmethod
    def from_list(
        cls,
        file: Path | str,
        root: Path | str,
        *,
        split: str | None = None,
        class_names: tuple[str, ...] | None = None,
        strict: bool = False,
        cache: bool = True,
    ) -> LongTailedDataset:
        """Read a list file: one line `path label` per image. Paths are relative to `root` and may contain spaces.

        Args:
            file: The list.
            root: The folder the paths start from.
            split: Name of the split; by default the list's name without its suffix.
            class_names: Names of classes 0 .. C - 1, for a split that shares another one's classes; by default
                the images' folders where these match the labels one to one, else the labels.
            strict: Whether a file that is not a complete image is an error instead of being skipped.
            cache: Whether the index may be read from and written to the cache folder.

        Returns:
            The split.

        Raises:
            FileNotFoundError: No such list, no such root, or images that do not exist.
            ValueError: A line that cannot be read; labels that are negative, out of range or not contiguous.
        """
        file = Path(file)
        listing = read_list(file, Path(root), class_names=class_names)
        if class_names is not None:
            check_names(listing)
        return build_dataset(
            listing, split=split or file.stem, complete=class_names is None, strict=strict, cache=cache
        )

    @classmethod
    def from_coco(
        cls,
        file: Path | str,
        root: Path | str,
        *,
        split: str | None = None,
        categories: tuple[int | str, ...] | None = None,
        class_names: tuple[str, ...] | None = None,
        strict: bool = False,
        cache: bool = True,
    ) -> LongTailedDataset:
        """Read COCO-style JSON with one category per image, as in iNaturalist 2018.

        Args:
            file: Holds `images` (id, file_name), `annotations` (image_id, category_id) and, optionally, `categories`.
            root: The folder file_name starts from.
            split: Name of the split; by default the file's name without its suffix.
            categories: Category ids of classes 0 .. C - 1, for a split that shares another one's classes; by
                default those of the file that have an image, sorted.
            class_names: Names of classes 0 .. C - 1; by default the categories' names. Where the file has these names,
                they and not the ids say which category is which class.
            strict: Whether a file that is not a complete image is an error instead of being skipped.
            cache: Whether the index may be read from and written to the cache folder.

        Returns:
            The split.

        Raises:
            FileNotFoundError: No such file, no such root, or images that do not exist.
            ValueError: No annotations, several categories for an image, or an unknown category.
        """
        file = Path(file)
        listing = read_coco(file, Path(root), categories=categories, class_names=class_names)
        return build_dataset(listing, split=split or file.stem, complete=categories is None, strict=strict, cache=cache)


def build_dataset(listing: Listing, *, split: str, complete: bool, strict: bool, cache: bool) -> LongTailedDataset:
    """Index the files of a listing and leave out those that are not complete images.

    Args:
        listing: The images.
        split: Name of the split.
        complete: Whether every class must have an image.
        strict: As for `LongTailedDataset.from_folder`.
        cache: As for `LongTailedDataset.from_folder`.
    """
    source = str(listing.source)
    tell_left_out(listing.source.resolve(), listing.left_out, strict=strict)
    if not listing.paths:
        raise ValueError(f"{source}: got an empty {split} split; add images, or see `fastlt data split`")
    check_labels(listing, complete=complete)
    if complete:
        _tell_namesakes(listing)
    listing = as_on_disk(listing)
    index = index_files(listing.root, listing.paths, source=source, cache=cache)
    paths, labels, sizes, native, stats = listing.paths, listing.labels, index.sizes, index.native, index.stats
    digests = index.digests
    skipped = tuple(SkippedFile(paths[at], reason) for at, reason in index.reasons.items())
    if skipped:
        keep = np.ones(len(paths), np.bool_)
        keep[list(index.reasons)] = False
        _tell_skipped(listing, split, skipped, strict=strict)
        if not keep.any():
            raise ValueError(f"{source}: got {len(paths)} files, none of which is an image: {_name(skipped)}")
        paths = tuple(path for path, kept in zip(paths, keep.tolist(), strict=True) if kept)
        labels, sizes, native, stats, digests = (array[keep] for array in (labels, sizes, native, stats, digests))
        check_labels(replace(listing, paths=paths, labels=labels), complete=complete)
        if emptied := [listing.class_names[label] for label in np.setdiff1d(listing.labels, labels).tolist()]:
            log.warning("%s: no %s image is left of %d classes, %s", source, split, len(emptied), name_some(emptied))
    return LongTailedDataset(
        root=listing.root,
        paths=paths,
        labels=labels,
        sizes=sizes,
        native=native,
        class_names=listing.class_names,
        split=split,
        fingerprint=fingerprint(paths, labels, stats),
        content=content_hash(labels, stats, digests),
        contents=content_keys(stats[:, 0], digests),
        skipped=skipped,
        left_out=listing.left_out,
    )


def _tell_namesakes(listing: Listing) -> None:
    """Warn of classes with one name, which nobody can tell apart in what is written about them."""
    counts = Counter(map(nfc, listing.class_names))
    if shared := [f"{name} ({count})" for name, count in counts.items() if count > 1]:
        log.warning(
            "%s: %d names are those of several classes, %s: these stay apart, but look alike in all results; give each "
            "class a name of its own",
            listing.source,
            len(shared),
            name_some(shared, 3),
        )


def _tell_skipped(listing: Listing, split: str, skipped: tuple[SkippedFile, ...], *, strict: bool) -> None:
    """Warn of the files that are left out, and write all their names to a file in the cache folder."""
    # Resolved, so that a command that reopens the data by the path recorded in its run logs the same line
    source = listing.source.resolve()
    fault = f"{len(skipped)} of {len(listing.paths)} {split} files that are not complete images"
    if strict:
        raise ValueError(
            f"{source}: got {fault}: {_name(skipped)}; replace or remove them, or drop --strict to skip them"
        )
    file = cache_dir() / "index" / f"{index_key(listing.root, listing.paths)}.skipped.txt"
    text = "".join(f"{image.path}\t{image.reason}\n" for image in skipped)
    try:
        with replacing(file) as partial:
            partial.write_text(text, encoding="utf-8", errors="surrogateescape")
        log.warning("%s: %s are skipped; they are named in %s", source, fault, file)
    except OSError:
        log.warning("%s: %s are skipped: %s", source, fault, _name(skipped))


def _name(skipped: tuple[SkippedFile, ...]) -> str:
    return name_some([f"{file.path} ({file.reason})" for file in skipped], most=10, separator="; ")
