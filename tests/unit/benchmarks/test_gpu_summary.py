"""The page of a GPU run: whatever figures are there, as tables."""

from collections.abc import Callable
from typing import Any

import pytest

LINES: list[dict[str, Any]] = [
    {"row": "machine", "name": "machine", "device": "a GPU", "driver_version": "580.10", "commit": None},
    {"row": "checks: images", "name": "jitter", "ok": False, "error": "two runs differ"},
    {"row": "checks: images", "ended_s": 1.0, "error": None},
    {"row": "step: alternately", "name": "ours", "images_per_s": 5000.4, "ms": 51.25, "operations": ["images"]},
    {"row": "step: alternately", "name": "theirs", "error": "torchvision is not installed"},
    {"row": "step: alternately", "ended_s": 9.0, "error": None},
    {"row": "step: plain", "name": "plain", "images_per_s": 900.0, "sm_mhz": 1980.0},
    {"row": "profile: kernels", "name": "triton|fused", "ms": 0.5},
    {"row": "profile: kernels", "ended_s": 3.0, "error": "the process ended with status -9; log.txt says more"},
    {"row": "layers: 64 to 256", "name": "cuDNN, forward", "ms": 2.0, "pass": "forward", "num": 3, "images": 16},
    {"row": "layers: 64 to 256", "name": "product, forward", "ms": 1.0, "pass": "forward", "num": 3, "images": 16},
    {"row": "layers: 64 to 256", "name": "cuDNN, to weights", "ms": 5.0, "pass": "to weights", "num": 1, "images": 16},
]


@pytest.fixture(scope="module")
def summary(script: Callable[[str], Any]) -> Any:
    return script("gpu.summary")


def test_tables_of_what_was_reached(summary: Any) -> None:
    page = summary.page(LINES)
    assert "device a GPU, driver_version 580.10." in page
    assert "0 checks are right, 1 wrong.\n- checks: images, jitter: two runs differ" in page
    assert "|  |  | images_per_s | ms | error | sm_mhz |  |" in page
    assert "| alternately | ours | 5,000 | 51.25 | - | - | unverified: 1 checks of images fail |" in page
    assert "| alternately | theirs | - | - | torchvision is not installed | - |  |" in page
    assert "| plain |  | 900 | - | - | 1,980 |  |" in page
    assert "| kernels | triton/fused | 0.5 |" in page
    assert "- profile: kernels: the process ended with status -9; log.txt says more" in page


def test_figures_of_several_machines_are_told_apart(summary: Any) -> None:
    [same, other] = LINES[0] | {"sm_mhz": 1200.0, "clocks.sm": "345 MHz"}, LINES[0] | {"device": "a faster GPU"}
    page = summary.page([*LINES, same])
    assert page.count("a GPU") == 1
    assert "several machines" not in page
    page = summary.page([*LINES, same, other])
    assert "several machines" in page
    assert "device a faster GPU, driver_version 580.10." in page


def test_the_fastest_of_each_layer_and_pass_are_added_up(summary: Any) -> None:
    page = summary.page(LINES)
    assert "| 64 to 256 | product, forward | 3 | 1 | 3 |" in page
    assert "| 64 to 256 | cuDNN, forward | 3 |" not in page
    assert "All together: 8.00 ms a step, 2,000 img/s." in page


def test_a_later_figure_replaces_an_earlier_one(summary: Any) -> None:
    later = {"row": "step: plain", "name": "plain", "images_per_s": 950.0}
    mended = {"row": "checks: images", "name": "jitter", "ok": True}
    page = summary.page([*LINES, later, mended])
    assert "| plain |  | 950 |" in page
    assert "| plain |  | 900 |" not in page
    assert "unverified" not in page


@pytest.mark.parametrize(
    ("ends", "doubt"),
    [
        ([], "images not checked"),
        ([{"row": "checks: images", "ended_s": 1.0, "error": "no end after 120 s"}], "images not checked"),
        ([{"row": "checks: images", "ended_s": 1.0, "error": None}], ""),
    ],
)
def test_what_was_not_checked_is_unverified(summary: Any, ends: list[dict[str, Any]], doubt: str) -> None:
    lines = [{"row": "checks: images", "name": "jitter", "ok": True}, *ends]
    assert summary.unverified(["images"], lines) == doubt
