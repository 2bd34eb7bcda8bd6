"""Augmentation draws: provisional."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Draws(NamedTuple):
    windows: np.ndarray
    flips: np.ndarray
    jitter: np.ndarray
    order: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.4

    def draw(self, first_slot, sizes, *, seed):
        n = len(sizes)
        rng = np.random.Generator(np.random.Philox(key=[seed, 1], counter=[0, 0, first_slot, 0]))
        W, H = sizes[:, 0].astype(float), sizes[:, 1].astype(float)
        a = rng.uniform(*self.scale, (10, n)) * W * H
        r = np.exp(rng.uniform(*np.log(self.ratio), (10, n)))
        w, h = np.rint(np.sqrt(a * r)), np.rint(np.sqrt(a / r))
        ok = (w >= 1) & (w <= W) & (h >= 1) & (h <= H)
        k, j = ok.argmax(0), np.arange(n)
        w, h = np.where(ok.any(0), w[k, j], W), np.where(ok.any(0), h[k, j], H)
        u = rng.random((2, n))
        windows = np.stack([np.floor(u[0] * (W - w + 1)), np.floor(u[1] * (H - h + 1)), w, h], 1).astype(np.int32)
        jitter = rng.uniform(1 - self.jitter, 1 + self.jitter, (n, 3)).astype(np.float32)
        return Draws(windows, rng.random(n) < self.flip, jitter, rng.integers(0, 6, n).astype(np.uint8))


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    size: int
    resize: int

    def boxes(self, sizes):
        W, H = sizes[:, 0].astype(np.int64), sizes[:, 1].astype(np.int64)
        short = np.minimum(W, H)
        nw = np.where(W <= H, self.resize, (self.resize * W / short).astype(np.int64))
        nh = np.where(H <= W, self.resize, (self.resize * H / short).astype(np.int64))
        left, top = np.round((nw - self.size) / 2.0), np.round((nh - self.size) / 2.0)
        b = np.stack([left, top, left + self.size, top + self.size], 1).astype(float)
        return b * np.stack([W / nw, H / nh, W / nw, H / nh], 1)
