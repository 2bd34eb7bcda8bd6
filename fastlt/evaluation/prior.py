"""Adjust a head to the class frequencies where it will be used: given ones, or estimates from unlabelled images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..config.base import number_from_zero
from ..data.dataset import LongTailedDataset
from ..data.unlabelled import unlabelled_images
from ..files.tables import as_in_table, read_rows
from ..models import LinearHead
from ..runtime.log import log
from .predictions import logit_chunks

# Shapes: N images, C classes, D feature width.

ESTIMATE = "estimate:"

NEVER = -1e4  # the bias of a class of target frequency 0: below any logits, and finite in half precision too
EM_STEPS, EM_TOLERANCE = 1000, 1e-7
MAX_BYTES = 64 << 20  # of a file of frequencies: more than any names need


def read_target(
    spec: str, *, class_names: Sequence[str], class_counts: ArrayLike
) -> NDArray[np.float64] | LongTailedDataset:
    """Return the class frequencies that a `--target` names, or the unlabelled images to estimate them from.

    Args:
        spec: `uniform`; `train`; the path of a CSV file with the columns class and frequency, one row for each class
            (frequencies may be counts); or `estimate:DIR`, the images below a folder.
        class_names: C names.
        class_counts: [C] training images of every class.

    Returns:
        [C], summing to 1; or the images.

    Raises:
        ValueError, FileNotFoundError: The file or the folder is absent, a row is wrong, or there are no images.
    """
    if spec.startswith(ESTIMATE):
        return unlabelled_images([image_folder(spec)], class_names, flag="--target")
    if spec == "uniform":
        return normalized(np.ones(len(class_names)))
    if spec == "train":
        return normalized(np.asarray(class_counts, dtype=np.float64))
    return read_frequencies(Path(spec), class_names)


def image_folder(spec: str) -> Path:
    """Return DIR of `estimate:DIR`."""
    folder = Path(spec.removeprefix(ESTIMATE))
    if spec == ESTIMATE:
        raise ValueError(f"--target: got {spec} without a folder; expected {ESTIMATE}DIR")
    if not folder.is_dir():
        raise FileNotFoundError(f"--target: got {spec}, which is not a folder; expected one of images")
    return folder


def normalized(frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return frequencies [C] scaled to sum to 1."""
    shares: NDArray[np.float64] = frequencies / frequencies.sum()
    return shares


def read_frequencies(path: Path, class_names: Sequence[str]) -> NDArray[np.float64]:
    """Read the frequency of every class from a CSV file, scaled to sum to 1."""
    if not path.exists():
        raise FileNotFoundError(f"--target: got {path}, which does not exist; expected uniform, train or FILE.csv")
    indices = {normalize("NFC", as_in_table(name)): index for index, name in enumerate(class_names)}
    frequencies = np.full(len(class_names), math.nan)
    rows, delimiter = read_rows(path, MAX_BYTES, "class,frequency in every line", shown=f"--target: {path}")
    for number, cells in enumerate(rows, 1):
        where = f"--target: {path}, line {number}"
        if not any(cells) or (number == 1 and cells[-1].lower() == "frequency"):
            continue
        if len(cells) != 2:
            raise ValueError(f"{where}: got {len(cells)} columns; expected class,frequency")
        name, text = normalize("NFC", cells[0]), cells[1]
        if delimiter == ";":
            text = text.replace(",", ".")  # as spreadsheets write it where numbers have a decimal comma
        if name not in indices:
            raise ValueError(f"{where}: got {name!r:.60}; expected one of the {len(indices)} classes")
        if not math.isnan(frequencies[indices[name]]):
            raise ValueError(f"{where}: got class {name!r} twice; expected one row a class")
        frequencies[indices[name]] = number_from_zero(text)
        if math.isnan(frequencies[indices[name]]):
            raise ValueError(f"{where}: got {text!r:.60}; expected a frequency from 0 up")
    missing = np.flatnonzero(np.isnan(frequencies))
    if len(missing):
        raise ValueError(
            f"--target: got {path} without {len(missing)} of {len(indices)} classes, first "
            f"{class_names[missing[0]]!r}; give every class a row (0 for one that never occurs)"
        )
    largest = frequencies.max()
    if largest <= 0:
        raise ValueError(f"--target: got {path} with the frequency 0 only; expected at least one above 0")
    return normalized(frequencies / largest)  # whose sum is finite


def adjust_to_prior(head: LinearHead, target: ArrayLike, source: ArrayLike) -> LinearHead:
    """Return the head with log(target) - log(source) added to its bias: Bayes' rule for changed class frequencies.

    Args:
        head: The classifier, whose probabilities are calibrated for `source`.
        target: [C] class frequencies where it will be used; a class with 0 gets a bias of -10,000.
        source: [C] class frequencies for which it is calibrated, positive: uniform for a rebalanced head.

    Raises:
        ValueError: There are not C frequencies, or one is negative, NaN or (source) zero.
    """
    after, before = (np.asarray(frequencies, dtype=np.float64) for frequencies in (target, source))
    for name, values, low in (("target", after, 0.0), ("source", before, np.finfo(float).tiny)):
        if values.shape != (head.num_classes,):
            raise ValueError(f"{name}: got shape {list(values.shape)}; expected [{head.num_classes}]")
        if not (values >= low).all() or not math.isfinite(values.sum()) or values.sum() <= 0:
            raise ValueError(
                f"{name}: got {values.min():g} to {values.max():g}, sum {values.sum():g}; expected finite frequencies "
                f"{'above 0' if low else 'from 0 up, at least one above 0'}"
            )
    ratio = normalized(after) / normalized(before)
    shift = np.log(ratio, out=np.full_like(ratio, NEVER), where=ratio > 0)
    bias = torch.zeros(head.num_classes) if head.bias is None else head.bias.detach()
    moved = bias.double().cpu() + torch.from_numpy(shift)
    return LinearHead(head.weight.detach().clone(), moved.to(head.weight))


@torch.inference_mode()
def log_probabilities(head: LinearHead, features: Tensor) -> Tensor:
    """Return log softmax of the head's logits, float64 [N, C], on the CPU."""
    return torch.cat([logits.log_softmax(1).cpu() for _, logits in logit_chunks(head, features)])


def estimate_prior(log_probabilities: Tensor, source: ArrayLike) -> NDArray[np.float64]:
    """Estimate the class frequencies of unlabelled images from a head's probabilities (Saerens et al., 2002).

    Expectation maximisation: weigh each image's probabilities by the current estimate over `source`, average, repeat.
    It maximises the likelihood, and assumes calibrated probabilities.

    Args:
        log_probabilities: [N, C] under `source`.
        source: [C] class frequencies under which the head is calibrated.

    Returns:
        [C], summing to 1.

    Raises:
        ValueError: There are no images, or probabilities are not finite.
    """
    if log_probabilities.ndim != 2 or not len(log_probabilities):
        raise ValueError(f"log_probabilities: got shape {list(log_probabilities.shape)}; expected [N, C], N at least 1")
    if torch.isnan(log_probabilities).any():
        raise ValueError("log_probabilities: got NaN; expected log probabilities")
    log_source = torch.from_numpy(np.log(normalized(np.asarray(source, dtype=np.float64))))
    log_ratio = log_probabilities.double() - log_source
    estimate = torch.full_like(log_source, 1 / len(log_source))
    for _ in range(EM_STEPS):
        posterior = (log_ratio + estimate.clamp(min=1e-300).log()).softmax(1)
        previous, estimate = estimate, posterior.mean(0)
        if float((estimate - previous).abs().sum()) < EM_TOLERANCE:
            break
    else:
        log.warning("--target: the estimate of the class frequencies has not converged after %d steps", EM_STEPS)
    result: NDArray[np.float64] = estimate.numpy()
    return result


def source_prior(class_counts: ArrayLike, *, sampling: str, loss: str = "cross_entropy") -> NDArray[np.float64]:
    """Return the class frequencies under which the head of stage 1 is calibrated, [C].

    They are the frequencies at which its sampling shows the classes; progressively balanced sampling ends
    class-balanced. Balanced softmax removes them from the head.

    Args:
        class_counts: [C] training images of every class.
        sampling: Stage 1's sampling.
        loss: Stage 1's loss.
    """
    power = {"instance_balanced": 1.0, "square_root": 0.5}.get(sampling, 0.0)
    if loss == "balanced_softmax":
        power = 0.0
    return normalized(np.asarray(class_counts, dtype=np.float64) ** power)
