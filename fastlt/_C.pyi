"""The C++ core (csrc/): sampling order, augmentation draws, image resampling and tau intervals."""

import enum
from collections.abc import Sequence

import numpy as np

def resample_batch(
    images: list[np.ndarray],
    *,
    windows: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    flips: np.ndarray | None = None,
    interpolation: str = "bilinear",
    out: np.ndarray,
    num_threads: int = 1,
) -> None:
    """Resample parts of RGB images to squares, as Pillow's resize does: antialiased, in two rounded passes.

    The horizontal pass comes first. The result is exactly Pillow's `crop(window).resize(size, box=box)`, unless a newer
    version of Pillow begins with the vertical pass, as on tall images: then some pixels round to a neighbouring value.

    Args:
        images: B arrays, uint8 [height, width, 3].
        windows: int32 [B, 4], x, y, width, height, pixels: the part of the image that exists for the filter; by default
            all of it.
        boxes: float64 [B, 4], left, top, right, bottom in the window, pixels: what is resampled; by default all of it.
            The filter reaches over the box's edges, not over the window's.
        flips: bool [B], whether to mirror the result left to right; by default no.
        interpolation: bilinear or bicubic.
        out: uint8 [B, S, S, 3], receives the squares.
        num_threads: The largest number of threads that share the images.

    Raises:
        ValueError: A shape does not fit, an image is not contiguous or no uint8 array, a window leaves its image or a
            box its window, or the interpolation is unknown.
        TypeError: An array is not contiguous or of another type.
    """

def interval_bounds(
    logits: np.ndarray,
    labels: np.ndarray,
    slope: np.ndarray,
    *,
    log: bool,
    low: np.ndarray,
    high: np.ndarray,
    num_threads: int = 1,
) -> None:
    """Compute the open interval of taus at which each row's label has the first largest score.

    Scores are straight lines in tau: log2|z_j| - tau slope_j, with the sign of z_j, if `log`; else z_j - tau slope_j.

    Args:
        logits: float32 [R, C].
        labels: int64 [R] in 0..C-1.
        slope: float32 [C].
        log: Which of the two lines.
        low: float32 [R], receives the lower ends; inf where the label never wins.
        high: float32 [R], receives the upper ends; -inf where the label never wins.
        num_threads: The largest number of threads that share the rows.

    Raises:
        ValueError: A shape does not fit or a label is out of range.
        TypeError: An array is not contiguous or of another type.
    """

class Law(enum.Enum):
    """How a slot's sample is drawn."""

    epochs = ...
    """Every sample once an epoch."""
    uniform = ...
    """Any sample, with replacement."""
    class_cycles = ...
    """Classes in shuffled cycles, each class's samples in shuffled cycles of their own."""
    classes = ...
    """Any class with the same probability, any sample of it."""
    weighted = ...
    """A class with its weight's probability, any sample of it."""
    mixture = ...
    """A law that moves from `uniform` to `classes`."""

class Simd(enum.Enum):
    """The vector instructions that are used; they do not change the results."""

    scalar = ...
    avx2 = ...
    avx512 = ...

def best_simd() -> Simd:
    """Return the widest vectors that this processor has kernels for."""

class ClassIndex:
    """The samples of each class, in compressed sparse row form. It can be pickled."""

    def __init__(
        self,
        labels: np.ndarray,
        *,
        num_classes: int,
        with_order: bool = True,
        wide_ids: bool = False,
        num_threads: int = 1,
    ) -> None:
        """Count the samples of each class and sort them by class.

        Args:
            labels: [N], contiguous, any integer type.
            num_classes: C.
            with_order: Whether to sort; otherwise the samples are only counted.
            wide_ids: Keep 64-bit sample numbers even if 32 bits suffice.
            num_threads: The largest number of threads that share the labels; it does not change the result.

        Raises:
            ValueError: A label is outside [0, C).
            TypeError: The labels are not contiguous integers.
        """
    @property
    def num_samples(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def fingerprint(self) -> int:
        """A 64-bit hash of the labels, the same for every integer type."""
    @property
    def offsets(self) -> np.ndarray:
        """uint64 [C + 1]: class c has the samples order[offsets[c]:offsets[c + 1]]."""
    @property
    def order(self) -> np.ndarray | None:
        """uint32 [N], or uint64 where ids are wide: the samples class by class, ascending; None if not sorted."""

class Sampler:
    """The sample of every slot, as a pure function of seed and slot."""

    def __init__(
        self,
        index: ClassIndex,
        *,
        law: Law,
        seed: int,
        batch_size: int,
        epoch_slots: int,
        samples_per_class: int = 1,
        ramp_slots: int = 1,
        ramp_units: int = 0,
        shuffle_batches: bool = False,
        unique_batches: bool = False,
        weights: Sequence[float] | np.ndarray = [],
    ) -> None:
        """Describe a law.

        Args:
            index: Sorted, unless the law is `epochs` or `uniform`. Samplers may share one.
            law: How a slot's sample is drawn.
            seed: Seed of every draw.
            batch_size: Slots of a batch.
            epoch_slots: Slots of one permutation of all samples (`epochs`), at most N.
            samples_per_class: Consecutive slots of a class (`class_cycles`).
            ramp_slots: Slots after which the share of `classes` in a `mixture` grows by 1 / ramp_units.
            ramp_units: Number of such steps; 0 keeps the share at 0.
            shuffle_batches: Shuffle the slots of each batch.
            unique_batches: Use no sample twice in a batch while its class has others.
            weights: [C], relative probabilities, for `weighted` only.

        Raises:
            ValueError: The settings do not fit each other.
        """
    def draw(self, first_slot: int, count: int, *, num_threads: int = 1, simd: Simd = ...) -> np.ndarray:
        """Return the samples of consecutive slots.

        Args:
            first_slot: Global number of the first slot.
            count: Number of slots.
            num_threads: The largest number of threads that share the slots; it does not change the result.
            simd: The vector instructions to use; by default the widest that the processor has.

        Returns:
            int64 [count].
        """

def permutation(n: int, *, seed: int, cycle: int, places: np.ndarray) -> np.ndarray:
    """Return the values of permutation number `cycle` of 0..n-1 at some places.

    Up to n = 20 the permutation is decoded from one uniform integer, so that all n! are exactly as likely. Beyond it is
    a Feistel network with cycle walking, of 16 rounds up to n = 128, 12 up to 2048 and 8 above.

    Args:
        n: Size of the permutation.
        seed: Seed of all permutations.
        cycle: Number of the permutation.
        places: int64 [K] in 0..n-1.

    Returns:
        int64 [K].

    Raises:
        ValueError: A place is out of range.
    """

def draw_augmentations(
    *,
    seed: int,
    first_slot: int,
    sizes: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: float,
    jitter: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw crops, flips and colours for consecutive slots; see `fastlt.data.transforms.augmentation.Augmentation`.

    Args:
        seed: Seed of every draw.
        first_slot: Global number of the first slot.
        sizes: int32 [B, 2], width and height of the image in each slot, pixels.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width / height.
        flip: Probability that an image is mirrored.
        jitter: Strength of the colour jitter.

    Returns:
        windows int32 [B, 4], flips bool [B], jitter float32 [B, 3], order uint8 [B].

    Raises:
        ValueError: A side is smaller than 1.
    """
