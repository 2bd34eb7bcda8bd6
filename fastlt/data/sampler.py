"""The order of the training images: provisional plain NumPy body behind the final interface."""

from __future__ import annotations

import numpy as np


class LongTailSampler:
    """See the class-balanced sampler's own issue."""

    def __init__(self, labels, *, sampling="instance_balanced", batch_size, seed=0, rank=0, world_size=1, samples_per_class=1, replacement=False, num_steps=None, num_epochs=None, num_classes=None):
        self.labels = np.asarray(labels)
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.local_batch_size = batch_size // world_size
        self.steps_per_epoch = max(1, len(self.labels) // batch_size)
        self._epoch = (None, None)

    def __len__(self):
        return self.steps_per_epoch

    def first_slot(self, step):
        return step * self.batch_size + self.rank * self.local_batch_size

    def batch(self, step):
        epoch, i = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.labels)))
        o = self._epoch[1][i * self.batch_size : (i + 1) * self.batch_size]
        return o[self.rank * self.local_batch_size :][: self.local_batch_size]
