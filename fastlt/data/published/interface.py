"""What the registry asks of a published data set: to be opened, made up and verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..dataset import LongTailedDataset
from ..inspection.verification import Verification
from ..synthetic.published_shape import Shape


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options of a data set besides its root; each set ignores those that do not concern it.

    Attributes:
        lists: The folder of the list files, if it is not below the root.
        strict: As for `open_splits`.
        imbalance: Images in the largest class divided by those in the smallest, for a tail cut out of a balanced set.
        seed: Seed for choosing the images of such a tail; 0 is the usual one.
    """

    lists: Path | None = None
    strict: bool = False
    imbalance: float = 100
    seed: int = 0


class PublishedSet(Protocol):
    """A published data set."""

    @property
    def name(self) -> str:
        """The name that `--dataset` takes."""
        ...

    @property
    def title(self) -> str:
        """The usual name, for messages."""
        ...

    @property
    def contents(self) -> str:
        """What the data root holds, for messages."""
        ...

    @property
    def remedy(self) -> str:
        """What to do about files that are not as published, for messages."""
        ...

    def open(self, root: Path, options: DataOptions) -> dict[str, LongTailedDataset]:
        """Open the splits, in any known layout of the set, or from a pack."""
        ...

    def shape(self, options: DataOptions) -> Shape:
        """Return the class counts, for a made-up set."""
        ...

    def verify(self, root: Path, options: DataOptions) -> Verification:
        """Compare the data on disk with what was published."""
        ...
