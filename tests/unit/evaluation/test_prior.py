"""Target priors from a file, Bayes' rule, and the estimate from unlabelled images."""

import functools
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastlt.data.dataset import LongTailedDataset
from fastlt.evaluation import target
from fastlt.evaluation.prior import (
    adjust_to_prior,
    estimate_prior,
    log_probabilities,
    read_target,
    source_prior,
)
from fastlt.models import LinearHead

NAMES, COUNTS = ("ant", "bee", "cat"), (60, 30, 10)
read = functools.partial(read_target, class_names=NAMES, class_counts=COUNTS)


def test_named_targets() -> None:
    np.testing.assert_allclose(read("uniform"), [1 / 3] * 3)
    np.testing.assert_allclose(read("train"), [0.6, 0.3, 0.1])


def test_a_file_gives_frequencies_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "target.csv"
    path.write_text("class,frequency\nbee,2\ncat,0\nant,6\n")
    np.testing.assert_allclose(read(str(path)), [0.75, 0.25, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ant,1\nbee,-1\ncat,1\n", "line 2: .*'-1'"),
        ("ant,1\nbee,nan\ncat,1\n", "line 2: .*'nan'"),
        ("ant,1\ndog,1\n", r"line 2: .*'dog'.*\b3 classes"),
        ("ant,1\nant,1\n", "line 2: .*'ant'.* twice"),
        ("ant,1\nbee,1\n", r"\b1 of 3 classes.*'cat'"),
        ("ant,0\nbee,0\ncat,0\n", r"\b0\b"),
        ("ant 1\n", r"line 1: .*\b1 column"),
        ("ant,1e999\n", "line 1: .*'1e999'"),
        ("ant,1\x00\n", "line 1: .*'1|NUL"),
        ("ant," + "9" * 200_000 + "\n", "field larger"),
        ('"ant\nbee,1', "1 column"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "target.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^--target: .*{re.escape(str(path))}.*{message}") as caught:
        read(str(path))
    assert "\n" not in str(caught.value)


def test_huge_frequencies_have_a_finite_sum(tmp_path: Path) -> None:
    path = tmp_path / "target.csv"
    path.write_text("ant,1e308\nbee,1e308\ncat,0\n")
    np.testing.assert_allclose(read(str(path)), [0.5, 0.5, 0])


def test_a_target_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder")):
        with pytest.raises(ValueError, match=f"{path}: got {kind}"):
            read(str(path))


def test_an_absent_file_says_what_was_expected() -> None:
    with pytest.raises(FileNotFoundError, match=r"^--target: got unifrom\b.*uniform, train .*FILE\.csv"):
        read("unifrom")


def drawn(prior: list[float], num: int = 20_000) -> tuple[LinearHead, torch.Tensor, torch.Tensor]:
    """Gaussian classes in two dimensions drawn under a prior, and the Bayes head for balanced classes."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.tensor([[0.0, 1.2], [1.0, -0.6], [-1.0, -0.6]])
    labels = torch.multinomial(torch.tensor(prior), num, replacement=True, generator=generator)
    features = centres[labels] + torch.randn(num, 2, generator=generator)
    return LinearHead(centres, -centres.square().sum(1) / 2), features, labels


def test_bayes_rule_gains_accuracy_under_the_target() -> None:
    prior = [0.8, 0.15, 0.05]
    head, features, labels = drawn(prior)
    adjusted = adjust_to_prior(head, prior, [1 / 3] * 3)
    before, after = (float((h(features).argmax(1) == labels).float().mean()) for h in (head, adjusted))
    assert after > before + 0.02
    assert torch.isfinite(adjust_to_prior(head, [1.0, 0.0, 0.0], [1 / 3] * 3).bias).all()


def test_a_class_that_never_occurs_is_never_predicted_however_sure_a_head_is() -> None:
    sure = LinearHead(100 * torch.eye(3))
    for dtype in (torch.float32, torch.float16):
        adjusted = adjust_to_prior(sure, [0.5, 0.5, 0.0], [1 / 3] * 3).to(dtype)
        assert adjusted(torch.eye(3, dtype=dtype)).argmax(1).tolist()[:2] == [0, 1]
        assert adjusted(torch.eye(3, dtype=dtype)).argmax(1)[2] != 2
    rare = adjust_to_prior(sure, [0.5, 0.5, 1e-20], [1 / 3] * 3).bias.detach()
    assert rare[2] - rare[0] == pytest.approx(np.log(2e-20), abs=1e-3)


def test_bayes_rule_by_hand() -> None:
    bias = torch.tensor([0.5, -1.0, 2.0])
    wanted, source = [2, 6, 0], [30, 10, 10]  # counts: only their ratios matter
    got = adjust_to_prior(LinearHead(torch.eye(3), bias), wanted, source).bias.detach() - bias
    np.testing.assert_allclose(got, [np.log(0.25 / 0.6), np.log(0.75 / 0.2), -1e4], rtol=1e-6)


@pytest.mark.parametrize("source", [[1 / 3] * 3, [0.2, 0.3, 0.5]])
def test_the_prior_of_unlabelled_images_is_found(source: list[float]) -> None:
    prior = [0.7, 0.25, 0.05]
    balanced, features, _ = drawn(prior)
    head = adjust_to_prior(balanced, source, [1 / 3] * 3)
    found = estimate_prior(log_probabilities(head, features), source)
    np.testing.assert_allclose(found, prior, atol=0.02)
    assert found.sum() == pytest.approx(1)


def test_impossible_frequencies_are_refused() -> None:
    head = drawn([1.0, 1.0, 1.0], 10)[0]
    with pytest.raises(ValueError, match=r"^target: "):
        adjust_to_prior(head, [1, -1, 1], [1, 1, 1])
    with pytest.raises(ValueError, match=r"^source: "):
        adjust_to_prior(head, [1, 1, 1], [1, 0, 1])


def test_a_target_is_estimated_from_the_features_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior, source = [0.8, 0.15, 0.05], [0.2, 0.3, 0.5]
    balanced, features, labels = drawn(prior)
    head = adjust_to_prior(balanced, source, [1 / 3] * 3)
    Image.new("RGB", (8, 8)).save(tmp_path / "some.png")
    images = read(f"estimate:{tmp_path}")
    assert isinstance(images, LongTailedDataset)
    assert (images.root, images.paths) == (tmp_path, ("some.png",))
    monkeypatch.setattr(target, "features_of", lambda store, images: features)
    monkeypatch.setattr(target, "source_frequencies", lambda classifier: np.array(source))
    classifier: Any = SimpleNamespace(head=head, store=SimpleNamespace(device="cpu"))
    estimate = target.target_frequencies(classifier, images)
    np.testing.assert_allclose(estimate, prior, atol=0.02)
    adjusted = adjust_to_prior(head, estimate, source)
    assert (adjusted(features).argmax(1) == labels).sum() > (head(features).argmax(1) == labels).sum()


def test_a_target_that_cannot_be_is_found_early(tmp_path: Path) -> None:
    for spec, message in (
        ("estimate:", "estimate:DIR"),
        ("estimate:nowhere", "got estimate:nowhere"),
        (f"estimate:{tmp_path}", rf"got {tmp_path}\b"),
        ("absent.csv", r"got absent\.csv"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=f"^--target: .*{message}"):
            read(spec)
    np.testing.assert_allclose(read("train"), [0.6, 0.3, 0.1])


def test_the_source_is_what_sampling_showed() -> None:
    np.testing.assert_allclose(source_prior(COUNTS, sampling="instance_balanced"), [0.6, 0.3, 0.1])
    np.testing.assert_allclose(source_prior(COUNTS, sampling="class_balanced"), [1 / 3] * 3)
    np.testing.assert_allclose(source_prior([4, 1], sampling="square_root"), [2 / 3, 1 / 3])
    balanced = source_prior(COUNTS, sampling="instance_balanced", loss="balanced_softmax")
    np.testing.assert_allclose(balanced, [1 / 3] * 3)
