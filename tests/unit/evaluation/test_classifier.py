"""A classifier of a run by its name, and the predictions of folds beside it: there and back, and damaged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastlt.evaluation.classifier import FOLDS, MODEL, open_classifier, read_held_out, write_held_out
from fastlt.evaluation.predictions import Predictions
from fastlt.run import Run

AGAIN = "make it again"


def test_predictions_of_folds_go_there_and_back_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    ones = np.ones(3, dtype=np.int64)
    write_held_out(tmp_path, Predictions(ones, 2 * ones, 0.5 * ones, -1.0 * ones))
    assert read_held_out(tmp_path, remedy=AGAIN).classes.tolist() == [2, 2, 2]
    path = tmp_path / FOLDS
    content = path.read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"^{path}: got .*{AGAIN}"):
            read_held_out(tmp_path, remedy=AGAIN)


@pytest.mark.parametrize(
    "change", [{"labels": np.ones(2, np.int64)}, {"classes": np.ones(3)}, {"labels": None}, {"classes": np.array(3)}]
)
def test_predictions_of_another_form_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    ones = np.ones(3, dtype=np.int64)
    arrays = Predictions(ones, ones, 0.5 * ones, -1.0 * ones)._asdict() | change
    np.savez(tmp_path / FOLDS, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=rf"^{tmp_path / FOLDS}: got .*{AGAIN}"):
        read_held_out(tmp_path, remedy=AGAIN)


def test_an_unknown_classifier_is_answered_with_every_known_one_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for method in ("tau", "mine.half"):
        run.method(method).mkdir(parents=True)
        (run.method(method) / MODEL).touch()
    store: Any = SimpleNamespace(run=run)
    with pytest.raises(
        ValueError, match=r"^--method: got 'other'; choose one of joint, tau, (?!.*\btau\b).*mine\.half$"
    ):
        open_classifier(store, "other")
