"""What to load in each step: a pure function of the step, shared by all loaders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ...runtime.log import log
from ..dataset import LongTailedDataset
from ..image import decode_bytes, is_of_machine, why
from ..sampler import LongTailSampler
from ..transforms.augmentation import Augmentation, EvalTransform

VIEW_SLOT_BITS = 44  # only a training of 10^13 images would reach the draws of the first view


@dataclass(frozen=True)
class Replacement:
    """A file that could not be read, relative to the root, the reason, and its stand-in, a file of the same class."""

    path: str
    reason: str
    substitute: str


class UnreadableImageError(Exception):
    """An image of the data set can no longer be read; the message is the reason."""


class Work(NamedTuple):
    """The content of one batch (B images).

    Attributes:
        ids: int64 [B], the samples, with stand-ins in place of broken ones.
        windows: int32 [B, 4], x, y, width, height to crop before resampling; None takes whole images.
        boxes: float64 [B, 4], left, top, right, bottom in the whole image to resample; None takes all of the window.
        flips: bool [B], whether to mirror.
        jitter: float32 [B, 3], colour factors; None leaves the colours alone.
        order: uint8 [B], order of the three colour operations.
    """

    ids: np.ndarray
    windows: np.ndarray | None
    boxes: np.ndarray | None
    flips: np.ndarray | None
    jitter: np.ndarray | None
    order: np.ndarray | None


class StandIns:
    """The samples of a data set that turned out to be broken, and their stand-ins.

    The stand-in is the next sample of the class, by index and cyclically, that is not known to be broken. So the choice
    depends on the files alone, not on the loader, its threads or what was loaded before.
    """

    def __init__(self, dataset: LongTailedDataset) -> None:
        self.dataset = dataset
        self.reasons: dict[int, str] = {}
        self.replaced: list[Replacement] = []

    def resolve(self, ids: np.ndarray) -> np.ndarray:
        """Return samples with stand-ins for those known to be broken: int64 [B] -> int64 [B].

        Raises:
            ValueError: Every image of a class is broken.
        """
        if not self.reasons:
            return ids
        return np.array([self.stand_in(index) for index in ids.tolist()], np.int64)

    def stand_in(self, index: int) -> int:
        """Return the sample itself, or its stand-in."""
        if index not in self.reasons:
            return index
        members = np.flatnonzero(self.dataset.labels == self.dataset.labels[index])
        at = int(np.searchsorted(members, index))
        for member in np.roll(members, -at).tolist():
            if member not in self.reasons:
                return int(member)
        name, split = self.dataset.class_names[self.dataset.labels[index]], self.dataset.split
        raise ValueError(
            f"{self.dataset.path(index)}: got an unreadable image ({self.reasons[index]}), as are all {len(members)} "
            f"{split} images of class {name}; restore them, or remove the class"
        )

    def mark(self, reasons: dict[int, str]) -> None:
        """Record broken samples; report new ones in a warning and in `replaced`."""
        new = [index for index in reasons if index not in self.reasons]
        self.reasons.update({index: reasons[index] for index in new})
        paths = self.dataset.paths
        # A stand-in for an earlier sample may be among the new ones
        self.replaced = [
            Replacement(paths[index], reason, paths[self.stand_in(index)]) for index, reason in self.reasons.items()
        ]
        for replacement in self.replaced[len(self.replaced) - len(new) :]:
            log.warning(
                "%s cannot be read any more (%s); %s of the same class stands in for it",
                self.dataset.root / replacement.path,
                replacement.reason,
                replacement.substitute,
            )


class Plan(Protocol):
    """The batches of a loader, by position from 0 to len - 1."""

    @property
    def dataset(self) -> LongTailedDataset:
        """The images."""
        ...

    @property
    def size(self) -> int:
        """Side of the resampled squares in pixels."""
        ...

    @property
    def interpolation(self) -> str:
        """How images are resampled: bilinear or bicubic."""
        ...

    @property
    def batch_size(self) -> int:
        """Images of a full batch."""
        ...

    @property
    def samples(self) -> np.ndarray:
        """The samples that may be asked for, ascending: int64 [*]."""
        ...

    def __len__(self) -> int: ...

    def work(self, position: int, stand_ins: StandIns) -> Work:
        """Return what the batch at a position is made of."""
        ...


@dataclass(frozen=True, kw_only=True)
class AugmentedPlan:
    """Images as training sees them: each with a random crop, flip and jitter."""

    dataset: LongTailedDataset
    augmentation: Augmentation

    @property
    def size(self) -> int:
        """Side of the resampled squares in pixels."""
        return self.augmentation.size

    @property
    def interpolation(self) -> str:
        """How they are resampled."""
        return self.augmentation.interpolation

    def augment(self, ids: np.ndarray, *, slot: int, seed: int) -> Work:
        """Return a batch of the samples [B], with the windows, flips and jitter of the slots from `slot` on."""
        draws = self.augmentation.draw(slot, self.dataset.sizes[ids], seed=seed)
        jittered = self.augmentation.jitter > 0
        return Work(
            ids=ids,
            windows=draws.windows,
            boxes=None,
            flips=draws.flips,
            jitter=draws.jitter if jittered else None,
            order=draws.order if jittered else None,
        )


@dataclass(frozen=True, kw_only=True)
class TrainPlan(AugmentedPlan):
    """The steps from `start_step` on, with the sampler's order and the augmentation's draws."""

    sampler: LongTailSampler
    start_step: int
    num_steps: int

    @property
    def batch_size(self) -> int:
        """Images of a batch of this rank."""
        return self.sampler.local_batch_size

    @property
    def samples(self) -> np.ndarray:
        """The samples that may be asked for, ascending: int64 [N]."""
        return np.arange(len(self.dataset))

    def __len__(self) -> int:
        return self.num_steps

    def work(self, position: int, stand_ins: StandIns) -> Work:
        """Return what the batch at a position is made of: samples, windows, flips and jitter."""
        step = self.start_step + position
        ids = stand_ins.resolve(self.sampler.batch(step))
        return self.augment(ids, slot=self.sampler.first_slot(step), seed=self.sampler.seed)


@dataclass(frozen=True, kw_only=True)
class ViewPlan(AugmentedPlan):
    """The samples from `start` on, once and in order, each with one random crop, flip and jitter for this `view`.

    A view uses the draws of slots that no training reaches. They are keyed by seed, view and sample, independent of the
    batch size and the start.
    """

    batch_size: int
    seed: int
    view: int
    start: int = 0

    @property
    def samples(self) -> np.ndarray:
        """The samples that are asked for, ascending: int64 [*]."""
        return np.arange(self.start, len(self.dataset))

    def __len__(self) -> int:
        return -(-(len(self.dataset) - self.start) // self.batch_size)

    def work(self, position: int, stand_ins: StandIns) -> Work:
        """Return what the batch at a position is made of: samples, windows, flips and jitter."""
        first = self.start + position * self.batch_size
        ids = stand_ins.resolve(np.arange(first, min(first + self.batch_size, len(self.dataset))))
        return self.augment(ids, slot=(self.view << VIEW_SLOT_BITS) + first, seed=self.seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalPlan:
    """Every sample once and in order, resized and centrally cropped; the last batch may be smaller."""

    dataset: LongTailedDataset
    transform: EvalTransform
    batch_size: int
    indices: np.ndarray

    @property
    def size(self) -> int:
        """Side of the resampled squares in pixels."""
        return self.transform.size

    @property
    def interpolation(self) -> str:
        """How they are resampled."""
        return self.transform.interpolation

    @property
    def samples(self) -> np.ndarray:
        """The samples that are asked for, ascending: int64 [*]."""
        return np.unique(self.indices)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def work(self, position: int, stand_ins: StandIns) -> Work:
        """Return what the batch at a position is made of: samples and boxes."""
        ids = self.indices[position * self.batch_size : (position + 1) * self.batch_size]
        ids = stand_ins.resolve(ids)
        boxes = self.transform.boxes(self.dataset.sizes[ids])
        return Work(ids=ids, windows=None, boxes=boxes, flips=None, jitter=None, order=None)


def read_image(dataset: LongTailedDataset, index: int) -> np.ndarray:
    """Decode a sample: uint8 [height, width, 3].

    Raises:
        UnreadableImageError: The file is missing or broken, or the image's size has changed since it was indexed.
    """
    try:
        pixels = decode_bytes(dataset.read(index), str(dataset.path(index)))
    except (OSError, ValueError) as error:
        if is_of_machine(error):
            raise
        raise UnreadableImageError(why(error)) from None
    height, width = pixels.shape[:2]
    expected = tuple(dataset.sizes[index].tolist())
    if (width, height) != expected:
        raise UnreadableImageError(f"{width} x {height} pixels now, {expected[0]} x {expected[1]} when it was indexed")
    return pixels


def read_or_reason(dataset: LongTailedDataset, index: int) -> np.ndarray | str:
    """Decode a sample, or return the reason why it cannot be decoded."""
    try:
        return read_image(dataset, index)
    except UnreadableImageError as error:
        return str(error)
