"""The simulation of the intervals' coverage, small."""

import numpy as np
import pytest

from benchmarks import coverage


def test_every_cell_is_in_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "CLASSES", (5, 20))
    even, uneven = list(coverage.even_cells(0, 50)), list(coverage.uneven_cells(0, 50))
    assert len(even) == 2 * 5 * 12
    text = "\n".join(coverage.tables(even, uneven))
    assert text.count("\n| tail A 0.5, head B 0.1 |") == 2
    assert "| target train |" in text


def test_coverage_counts_the_intervals_that_hold_the_truth() -> None:
    ends = (np.array([0.1, 0.4, 0.6]), np.array([0.3, 0.6, 0.8]))
    assert coverage.coverage(ends, 0.5) == 33.3
