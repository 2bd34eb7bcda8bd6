"""The order of the training images: class-balanced and other samplings, stateless, exact and the same on every rank."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import _C
from .sampler_arguments import (
    as_labels,
    check_samples_per_class,
    check_sampling,
    check_whole,
    count_classes,
    find_law,
    find_ramp,
    find_weights,
)
from .sampler_place import check_place, check_shares, current_place, group_place, step_of_state

_STREAM_VERSION = 1  # of the draws themselves: a state saved under another version would continue with other samples


class LongTailSampler:
    """The samples of every batch of every rank, as a pure function of the seed and the step.

    With n_c samples in class c, N in all, and C classes, a slot of a batch holds class c with probability p_c:

    - `instance_balanced`: p_c = n_c / N. Every sample occurs at most once per epoch: of a permutation of all N, each
      epoch uses the first floor(N / batch_size) * batch_size.
    - `class_balanced`: p_c = 1 / C. Classes come in shuffled cycles, each class once per cycle with `samples_per_class`
      consecutive draws, without replacement, from shuffled cycles through its own samples. All cycles continue across
      epochs. With samples_per_class > 1 the slots of each batch are shuffled as well.
    - `square_root`: p_c = sqrt(n_c) / sum_i sqrt(n_i), classes and samples of a class drawn with replacement.
    - `progressively_balanced`: p_c = (1 - l) n_c / N + l / C with l = (E - 1) / (T - 1) in epoch E of T (0 if T = 1),
      or l = step / (num_steps - 1) with progress="step"; classes and samples of a class drawn with replacement.
    - a number q: p_c = n_c^q / sum_i n_i^q, with replacement; 1, 0 and 0.5 are the first three of the above.
    - `class_weights` w: p_c = w_c / sum_i w_i, with replacement.

    These are the samplings of Kang et al., ICLR 2020, section 3; DistributedSampler and WeightedRandomSampler in one.
    Slot i of step s has the global number s * batch_size + i; a rank holds a contiguous share of each batch, so the
    batches are the same for every world size. Only the class index is stored (4 bytes per sample; nothing for
    instance_balanced), and the state is the number of steps done.

    It is also a batch_sampler for a torch DataLoader, with one epoch per iteration. Each iteration starts the epoch
    after the one that the previous iteration started, however many batches were taken of it; `set_epoch` may be called,
    but is not needed, and `load_state_dict` goes on in the middle of an epoch. Under DDP every process makes the same
    sampler, and takes its share of each batch by its rank in torch.distributed::

        sampler = LongTailSampler(labels, sampling="class_balanced", batch_size=256)  # 256 over all processes
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=8)
        for epoch in range(num_epochs):
            for images, targets in loader:  # 256 / world_size images on each process
                ...

    Attributes:
        num_samples: N.
        num_classes: C.
        class_counts: int64 [C].
        batch_size: Samples per batch over all ranks.
        local_batch_size: Samples per batch on this rank.
        steps_per_epoch: floor(N / batch_size), at least 1; also len().
        seed: Seed of every draw.
        rank: Rank of this process: as given, else its current rank in torch.distributed, else 0.
        world_size: Number of processes that share each batch, likewise; else 1.

    Example:
        >>> from fastlt.data import LongTailSampler
        >>> labels = [0, 0, 0, 0, 0, 0, 1, 1, 2]
        >>> sampler = LongTailSampler(labels, sampling="class_balanced", batch_size=6, seed=0)
        >>> ids = sampler.batch(0)  # samples of global step 0
        >>> sorted(labels[index] for index in ids)  # two cycles through the three classes
        [0, 0, 1, 1, 2, 2]
        >>> shares = [
        ...     LongTailSampler(labels, sampling="class_balanced", batch_size=6, rank=rank, world_size=2).batch(0)
        ...     for rank in (0, 1)
        ... ]
        >>> [*shares[0], *shares[1]] == [*ids]  # the ranks share the same batch
        True
        >>> for epoch in range(2):  # a loop of a user; this one leaves each epoch early
        ...     for batch in sampler:
        ...         print(epoch, batch.shape)
        ...         break
        0 (6,)
        1 (6,)
    """

    def __init__(
        self,
        labels: Any,
        *,
        sampling: str | float = "instance_balanced",
        batch_size: int,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        samples_per_class: int = 1,
        replacement: bool = False,
        num_steps: int | None = None,
        num_epochs: int | None = None,
        num_classes: int | None = None,
        class_weights: Sequence[float] | np.ndarray | None = None,
        progress: str = "epoch",
        unique_batches: bool = False,
        shuffle_batches: bool | None = None,
        num_threads: int = 1,
    ) -> None:
        """Index the labels.

        Args:
            labels: Integers [N] from 0 to C - 1: a numpy array (memory-mapped or not), a torch tensor, a sequence, or
                the path of a .npy file, which is memory-mapped.
            sampling: A name or a power, see above.
            batch_size: Samples per batch over all ranks.
            seed: 0 to 2^64 - 1.
            rank: Rank of this process; None asks torch.distributed when a batch is drawn, so that the process group may
                be initialised later. Give 0 of 1 where something else shares batches out among processes.
            world_size: Number of processes, given with the rank; must divide batch_size.
            samples_per_class: Consecutive draws of a class, for class_balanced without replacement.
            replacement: Draw with replacement under every sampling.
            num_steps: Steps of the whole training; iteration ends there.
            num_epochs: Epochs of the whole training; progressively_balanced needs it or num_steps.
            num_classes: C; by default the largest label + 1.
            class_weights: C numbers, in place of a sampling; see `fastlt.data.effective_number_weights`.
            progress: When the progressively balanced mixture moves: every "epoch" or every "step".
            unique_batches: Replace a sample that is already in the batch by another of its class (of any class, under
                instance_balanced), unless all are in the batch.
            shuffle_batches: Shuffle the slots of each batch; by default only if samples_per_class > 1.
            num_threads: Threads that index and draw; the result does not depend on them.

        Raises:
            ValueError: A label is out of range, a class is empty, or a setting does not fit the others.
        """
        self.batch_size = check_whole("batch_size", batch_size, least=1, most=2**31 - 1)
        self.seed = check_whole("seed", seed, least=0, most=2**64 - 1)
        self._given_place = check_place(rank, world_size)
        self._pickled_place: tuple[int, int] | None = None
        self.num_steps = None if num_steps is None else check_whole("num_steps", num_steps, least=1)
        self.num_epochs = None if num_epochs is None else check_whole("num_epochs", num_epochs, least=1)
        self.num_threads = check_whole("num_threads", num_threads, least=1)
        if (place := self._given_place or group_place()) is not None:
            check_shares(place[1], self.batch_size)
        self.sampling = check_sampling(sampling, class_weights)
        self.replacement, self.unique_batches, self.progress = bool(replacement), bool(unique_batches), progress
        self.samples_per_class = check_samples_per_class(
            samples_per_class, sampling=self.sampling, replacement=self.replacement, batch_size=self.batch_size
        )
        self.shuffle_batches = self.samples_per_class > 1 if shuffle_batches is None else bool(shuffle_batches)
        if progress not in ("epoch", "step"):
            raise ValueError(f"progress: got {progress!r}; expected 'epoch' or 'step'")

        labels = as_labels(labels)
        num_classes = count_classes(labels, num_classes)
        self._law = find_law(self.sampling, replacement=self.replacement)
        by_class = self._law not in (_C.Law.epochs, _C.Law.uniform)
        self._index = _C.ClassIndex(labels, num_classes=num_classes, with_order=by_class, num_threads=self.num_threads)
        self.num_samples, self.num_classes = self._index.num_samples, self._index.num_classes
        self.class_counts: np.ndarray = np.diff(self._index.offsets).astype(np.int64)
        self._weights = find_weights(class_weights, self.class_counts, sampling=self.sampling, law=self._law)
        self.steps_per_epoch = max(1, self.num_samples // self.batch_size)
        self._ramp_steps, self._ramp_units = 1, 0
        if self._law == _C.Law.mixture:
            self._ramp_steps, self._ramp_units = find_ramp(
                self.num_steps, self.num_epochs, steps_per_epoch=self.steps_per_epoch, by_step=progress == "step"
            )
        self._step = 0  # the first one of the next iteration
        self._is_resumed = False  # whether `load_state_dict` set it, and no iteration has begun since
        self._core = self._build_core()

    @property
    def rank(self) -> int:
        """Rank of this process, now."""
        return self._place()[0]

    @property
    def world_size(self) -> int:
        """Number of processes that share each batch, now."""
        return self._place()[1]

    @property
    def local_batch_size(self) -> int:
        """Samples per batch on this rank."""
        return self.batch_size // self.world_size

    def __len__(self) -> int:
        return self.steps_per_epoch

    def batch(self, step: int) -> np.ndarray:
        """Return this rank's samples of a step.

        Args:
            step: Global number of the step, counted from 0 and never restarted.

        Returns:
            int64 [local_batch_size], indices of samples.

        Raises:
            ValueError: The step is negative, or too large for 64-bit slots.
        """
        rank, world_size = self._place()
        count = self.batch_size // world_size
        return self._core.draw(self._slot(step) + rank * count, count)

    def first_slot(self, step: int) -> int:
        """Return the global slot of this rank's first sample of a step.

        Args:
            step: Global number of the step, counted from 0.

        Raises:
            ValueError: As for `batch`.
        """
        return self._slot(step) + self.rank * self.local_batch_size

    def draw(self, first_slot: int, count: int) -> np.ndarray:
        """Return the samples of consecutive slots, whatever rank they belong to: int64 [count].

        Args:
            first_slot: Global number of the first slot.
            count: Number of slots.

        Raises:
            ValueError: A slot is negative or beyond 2^63.
        """
        count = check_whole("count", count, least=0)
        first_slot = check_whole("first_slot", first_slot, least=0, most=2**63 - count)
        return self._core.draw(first_slot, count, num_threads=self.num_threads)

    def batches(self, start_step: int = 0, num_steps: int | None = None) -> Iterator[np.ndarray]:
        """Yield this rank's batches from a global step on: int64 [local_batch_size] each.

        Args:
            start_step: The first step.
            num_steps: Number of steps; by default unlimited.
        """
        step = start_step
        while num_steps is None or step < start_step + num_steps:
            yield self.batch(step)
            step += 1

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield this rank's batches to the end of the epoch; the next iteration starts the next epoch.

        An iteration begins when its first batch is taken. It may be left early. Several may run at once, each in an
        epoch of its own.
        """
        start = self._step
        end = (start // self.steps_per_epoch + 1) * self.steps_per_epoch
        if self.num_steps is not None:
            end = max(start, min(end, self.num_steps))
        self._step, self._is_resumed = end, False
        yield from self.batches(start, end - start)

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at an epoch, and those after it at the following ones.

        Right after `load_state_dict`, a call with the epoch that the state stands in changes nothing, so that loops
        which call this before every epoch can be resumed in the middle of one.

        Args:
            epoch: Number of the epoch, counted from 0.

        Raises:
            ValueError: The epoch is negative.
        """
        epoch = check_whole("epoch", epoch, least=0)
        if not (self._is_resumed and epoch == self._step // self.steps_per_epoch):
            self._step, self._is_resumed = epoch * self.steps_per_epoch, False

    def class_probabilities(self, step: int = 0) -> np.ndarray:
        """Return the probability of each class in a slot of a step: float64 [C].

        Args:
            step: Global number of the step; only progressively balanced sampling changes with it.

        Raises:
            ValueError: The step is negative.
        """
        by_count: np.ndarray = self.class_counts / self.num_samples
        if self._weights is not None:
            return np.asarray(self._weights / self._weights.sum())
        if self._law in (_C.Law.epochs, _C.Law.uniform):
            return by_count
        balance = 1.0
        if self._law == _C.Law.mixture:
            units = check_whole("step", step, least=0) // self._ramp_steps
            balance = min(1.0, units / self._ramp_units) if self._ramp_units else 0.0
        return (1 - balance) * by_count + balance / self.num_classes

    def state_dict(self, *, step: int) -> dict[str, Any]:
        """Return what another sampler needs to continue.

        Args:
            step: Number of batches trained on, which only the caller knows: loaders fetch batches ahead. Where epochs
                were left early it is epoch * len(sampler) + batches trained on in this epoch.

        Returns:
            The step, the settings and a fingerprint of settings and labels; JSON can hold it.

        Raises:
            ValueError: The step is negative.
        """
        step = check_whole("step", step, least=0)
        return {"step": step, "settings": self._settings(), "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration at the step of a state, in the middle of an epoch if need be.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: The state comes from labels or settings that give other batches. Rank and world size may differ.
        """
        self._step = step_of_state(state, settings=self._settings(), fingerprint=self.fingerprint)
        self._is_resumed = True

    @property
    def fingerprint(self) -> str:
        """Hash of the labels and of the settings that decide the order, 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode()).hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        state = copy.copy(self.__dict__)
        del state["_core"]
        # Another process, such as a DataLoader's worker, may be in no process group
        return {**state, "_law": self._law.name, "_pickled_place": group_place() or self._pickled_place}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._law = getattr(_C.Law, state["_law"])
        self._core = self._build_core()

    def __repr__(self) -> str:
        sampling = "class_weights" if self._law == _C.Law.weighted and self.sampling is None else self.sampling
        rank, world_size = self._given_place or group_place() or (None, None)
        return (
            f"LongTailSampler({self.num_samples} samples, {self.num_classes} classes, sampling={sampling!r}, "
            f"batch_size={self.batch_size}, seed={self.seed}, rank={rank}, world_size={world_size})"
        )

    def _slot(self, step: int) -> int:
        """Return the global slot of a step's first sample."""
        # Slots are 64-bit numbers; any training ends long before they run out
        return check_whole("step", step, least=0, most=2**63 // self.batch_size - 1) * self.batch_size

    def _place(self) -> tuple[int, int]:
        """Return (rank, world size)."""
        if self._given_place is not None:
            return self._given_place
        rank, world_size = current_place(self._pickled_place)
        check_shares(world_size, self.batch_size)
        return rank, world_size

    def _settings(self) -> dict[str, Any]:
        """Return everything that decides the order, as JSON values."""
        weights = None if self._weights is None else hashlib.sha256(self._weights.tobytes()).hexdigest()[:16]
        return {
            "stream": _STREAM_VERSION,
            "labels": f"{self._index.fingerprint:016x}",
            "num_samples": self.num_samples,
            "num_classes": self.num_classes,
            "sampling": self.sampling,
            "class_weights": weights,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "samples_per_class": self.samples_per_class,
            "replacement": self.replacement,
            "unique_batches": self.unique_batches,
            "shuffle_batches": self.shuffle_batches,
            "ramp": [self._ramp_steps, self._ramp_units],
        }

    def _build_core(self) -> _C.Sampler:
        slots = self.steps_per_epoch * self.batch_size
        return _C.Sampler(
            self._index,
            law=self._law,
            seed=self.seed,
            batch_size=self.batch_size,
            # An epoch smaller than a batch does not end at a step: one permutation follows another
            epoch_slots=min(slots, self.num_samples),
            samples_per_class=self.samples_per_class,
            ramp_slots=self._ramp_steps * self.batch_size,
            ramp_units=self._ramp_units,
            shuffle_batches=self.shuffle_batches,
            unique_batches=self.unique_batches,
            weights=[] if self._weights is None else self._weights,
        )
