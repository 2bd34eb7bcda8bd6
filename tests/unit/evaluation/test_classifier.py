"""The predictions of folds beside a classifier: there and back, and damaged."""

from pathlib import Path

import numpy as np
import pytest

from fastlt.evaluation.classifier import FOLDS, read_held_out, write_held_out
from fastlt.evaluation.predictions import Predictions


def test_predictions_of_folds_go_there_and_back_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    ones = np.ones(3, dtype=np.int64)
    write_held_out(tmp_path, Predictions(ones, 2 * ones, 0.5 * ones, -1.0 * ones))
    held_out = read_held_out(tmp_path)
    assert held_out is not None
    assert held_out.classes.tolist() == [2, 2, 2]
    path = tmp_path / FOLDS
    content = path.read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"^{path}: got a damaged file\b"):
            read_held_out(tmp_path)
