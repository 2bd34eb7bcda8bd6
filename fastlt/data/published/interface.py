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
    """What may be asked of a data set besides its root; a set leaves alone what does not concern it.

    Attributes:
        lists: The folder of the list files, where it is not below the root.
        strict: Whether a file that is not a complete image is an error instead of being skipped.
        imbalance: Images of the largest class over those of the smallest, where a tail is cut out of a balanced set.
        seed: Of the choice of images, where a tail is cut out of a balanced set; 0 is the usual one.
    """

    lists: Path | None = None
    strict: bool = False
    imbalance: float = 100
    seed: int = 0


class PublishedSet(Protocol):
    """A published data set."""

    @property
    def name(self) -> str:
        """As in `--dataset`."""
        ...

    @property
    def title(self) -> str:
        """As people write it, for messages."""
        ...

    @property
    def contents(self) -> str:
        """What its data root holds, for messages."""
        ...

    @property
    def remedy(self) -> str:
        """What to do where files are not as published, for messages."""
        ...

    def open(self, root: Path, options: DataOptions) -> dict[str, LongTailedDataset]:
        """Open its splits, in any layout that it is known in, or from a pack."""
        ...

    def shape(self, options: DataOptions) -> Shape:
        """Return its class counts, for a made-up set."""
        ...

    def verify(self, root: Path, options: DataOptions) -> Verification:
        """Compare what is on a disk with what was published."""
        ...
