"""Features and labels in memory or memory-mapped, and how rows of them reach a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.device import on_device

ROWS = 4096  # of a chunk: all features, or their logits, may be larger than memory


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """The features of one split, in the order of its data set.

    `features` is [N, D], float32 or, for bf16, the bits as uint16; stored ones are memory-mapped. `labels` is int64
    [N].

    Example:
        >>> import torch
        >>> from fastlt.features import Features
        >>> train = Features.of(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([1, 0]))
        >>> len(train), train.num_features
        (2, 2)
        >>> train.tensors(torch.device("cpu"))
        (tensor([[0., 1.],
                [2., 3.]]), tensor([1, 0]))
    """

    features: NDArray[np.float32] | NDArray[np.uint16]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, features: Any, labels: Any, *, name: str = "features") -> Self:
        """Return features of tensors or arrays in memory.

        Args:
            features: Floating point [N, D], on any device.
            labels: Integers [N].
            name: What messages call them.

        Raises:
            ValueError: The shapes do not fit, labels are no integers from 0 up, or some features are not finite.
        """
        x = torch.as_tensor(features).detach().cpu().float().contiguous()
        y = torch.as_tensor(labels).detach().cpu()
        if y.is_floating_point() or (y.numel() and y.min() < 0):
            raise ValueError(f"{name}: got labels of {y.dtype} from {y.min()} up; expected integers from 0 up")
        y = y.long().contiguous()
        if x.ndim != 2 or y.shape != x.shape[:1] or not len(y):
            raise ValueError(
                f"{name}: got shapes {list(x.shape)} and {list(y.shape)}; expected [N, D] and [N], N at least 1"
            )
        check_finite(x, name)
        return cls(features=x.numpy(), labels=y.numpy())

    def __len__(self) -> int:
        """Return the number of samples, N."""
        return len(self.labels)

    @property
    def num_features(self) -> int:
        """Feature width, D."""
        return int(self.features.shape[1])

    def take(self, ids: NDArray[np.integer[Any]]) -> Self:
        """Return the features of some samples, in memory.

        Args:
            ids: Their indices, [B].
        """
        return type(self)(features=self.features[ids], labels=self.labels[ids])

    def rows(self, ids: NDArray[np.integer[Any]], device: torch.device) -> Tensor:
        """Return the features of some samples as float32 [B, D]; no other rows are read.

        Args:
            ids: Their indices, [B].
            device: Where they go.
        """
        return on_device(as_tensor(np.asarray(self.features[ids])), device).float()

    def read_only(self) -> Self:
        """Return the same features as arrays that nobody can write to, so that tensors are copies of them."""
        features, labels = self.features.view(), self.labels.view()
        features.flags.writeable = labels.flags.writeable = False
        return type(self)(features=features, labels=labels)

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return features, float32 [N, D], and labels [N]; on the CPU fp32 features are not copied.

        Args:
            device: Where they go.
        """
        return as_tensor(self.features).to(device).float(), as_tensor(self.labels).to(device)


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return stored features as a tensor in their own precision, in which they are copied to a device."""
    if not array.flags.writeable:
        array = np.array(array)
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def check_finite(features: Tensor, name: str, hint: str = "") -> None:
    """Raise a ValueError if a row of [B, D] holds NaN or an infinity."""
    num_bad = int((~torch.isfinite(features).all(1)).sum())
    if num_bad:
        raise ValueError(
            f"{name}: got {num_bad} of {len(features)} images whose features are NaN or infinite; expected finite "
            f"numbers{hint}"
        )


def chunks(features: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, features of these rows) of features [N, D]."""
    for start in range(0, len(features), ROWS):
        rows = slice(start, start + ROWS)
        yield rows, features[rows]
