"""TF32 or full precision of products and convolutions inside a block, whatever the process has set before."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from fastlt.runtime.device import float32_factors

BACKENDS: Any = torch.backends
PARTS = {
    "matmul": BACKENDS.cuda.matmul,
    "mkldnn": BACKENDS.mkldnn.matmul,
    "conv": BACKENDS.cudnn.conv,
    "rnn": BACKENDS.cudnn.rnn,
}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the process's settings as they were."""
    before = BACKENDS.fp32_precision, {name: part.fp32_precision for name, part in PARTS.items()}
    yield
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    BACKENDS.fp32_precision = before[0]
    for name, part in PARTS.items():
        part.fp32_precision = before[1][name]


def everything() -> list[Any]:
    """Return what every switch says, and which contradict each other."""
    said: list[Any] = [part.fp32_precision for part in PARTS.values()]
    for older in (
        lambda: BACKENDS.cudnn.allow_tf32,
        lambda: BACKENDS.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision,
    ):
        try:
            said.append(older())
        except RuntimeError:
            said.append("contradicted")
    return said


def set_all_to_tf32() -> None:
    BACKENDS.fp32_precision = "tf32"


def set_new_switch_of_products() -> None:
    BACKENDS.cuda.matmul.fp32_precision = "tf32"


def set_new_switch_of_convolutions() -> None:
    BACKENDS.cudnn.conv.fp32_precision = "ieee"


def turn_convolutions_off() -> None:
    BACKENDS.cudnn.allow_tf32 = False


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize(
    "setting",
    [
        lambda: None,
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("medium"),
        turn_convolutions_off,
        set_all_to_tf32,
        set_new_switch_of_products,
        set_new_switch_of_convolutions,
    ],
)
def test_every_switch_agrees_inside_and_is_restored(setting: Callable[[], None], tf32: bool) -> None:
    setting()
    before = everything()
    with float32_factors(tf32=tf32):
        assert everything() == ["tf32" if tf32 else "ieee"] * 4 + [tf32, tf32, "high" if tf32 else "highest"]
    assert everything() == before
