"""The page of costs: the fit finds the rates that made the points, and the page tells measured from modelled."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def scaling(script: Callable[[str], Any]) -> Any:
    return script("scaling")


def points(scaling: Any) -> list[Any]:
    """Steps that obey 2 GB/s, 100 GFLOP/s and 5 ms a step."""
    sizes = [(1e6, 3e9, 8), (4e6, 2e9, 16), (9e6, 1e9, 4), (2e6, 8e9, 2), (5e6, 5e8, 32)]
    return [
        scaling.Point(
            backbone="x",
            image_size=32,
            batch_size=batch,
            bytes_per_image=moved,
            operations_per_image=done,
            seconds=batch * (moved / 2e9 + done / 1e11) + 5e-3,
        )
        for moved, done, batch in sizes
    ]


def test_the_fit_finds_the_rates(scaling: Any) -> None:
    steps = points(scaling)
    np.testing.assert_allclose(scaling.fit(steps), [1 / 2e9, 1 / 1e11, 5e-3], rtol=1e-6)
    assert max(map(abs, scaling.errors(steps))) < 1e-6
    slower = [dataclasses.replace(steps[0], seconds=2 * steps[0].seconds), *steps[1:]]
    assert scaling.errors(slower)[0] == pytest.approx(-0.5)


def test_a_point_is_timed_and_counted(scaling: Any) -> None:
    step = scaling.time_step("resnet8", 16, 2, device=torch.device("cpu"), repeats=1)
    assert step.seconds > 0
    assert step.operations_per_image == scaling.operations("resnet8", 16) > 1e6


def test_the_page_has_the_table_and_what_was_timed(
    scaling: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "RESULTS", tmp_path)
    assert "step (fitted)" not in scaling.page()
    record = scaling.record_of(points(scaling), torch.device("cpu"))
    (tmp_path / "scaling-cpu-2030-01-01.json").write_text(json.dumps(record))
    page = scaling.page()
    assert "bytes at 2.0 GB/s plus operations at 100 GFLOP/s plus 5.0 ms a step" in page
    assert page.count("step (fitted)") == len(scaling.JOBS)
    assert page.count("| x | 32 |") == 5
