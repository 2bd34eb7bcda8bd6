"""Checks of scaled cross entropy's kernels: losses and all gradients that they can give."""

from collections.abc import Iterator

import torch
from checking import NEEDS, SHAPES, Check, Group, each_shape, near, problem
from fastlt.kernels import launch_linear as launch

from fastlt.ops import reference


def check_values(device: str, number: int, dtype: torch.dtype) -> Iterator[Check]:
    """Losses and gradients, with and without weights and smoothing."""
    p = problem(SHAPES[device][number], dtype, device, number)
    x, w, y, scale, shift = (p[name] for name in ("x", "w", "y", "scale", "shift"))
    for needs in NEEDS:
        for smoothing, weights in ((0.0, None), (0.1, p["class_weights"])):
            args = x, w, y, p["row_weights"], scale, shift, weights, smoothing, needs
            name = f"cross_entropy {needs} smoothing={smoothing}"
            yield near(name, launch.cross_entropy, reference.cross_entropy, args, dtype)


def groups(device: str) -> list[Group]:
    return each_shape(device, check_values)
