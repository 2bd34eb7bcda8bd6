"""Where the released code differs from the paper, and the switch for each difference; the default follows the paper."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Quirk:
    """A difference between the paper and the released code.

    Attributes:
        name: Its subject.
        paper: What fastlt does under `--protocol paper`, the default.
        released: What the released code does.
        switch: The flag for this difference alone; empty where there is none.
    """

    name: str
    paper: str
    released: str
    switch: str


QUIRKS = (
    Quirk(
        name="batch norm in frozen parts",
        paper="keeps its running statistics",
        released="stays in training mode, so that they drift to class-balanced data",
        switch="train --batch-norm frozen|train; rebalance --protocol released --features live",
    ),
    Quirk(
        name="learning-rate schedule",
        paper="the first epoch runs at the base rate",
        released="steps before the first epoch, so that the last one runs at rate 0",
        switch="train --schedule paper|released",
    ),
    Quirk(
        name="class-balanced sampling",
        paper="each draw is of the next class",
        released="four images in a row of each class",
        switch="train --samples-per-class 1|4",
    ),
    Quirk(
        name="batch norm over a batch",
        paper="over the images that a process sees at once",
        released="over 64 images: 512 on eight GPUs",
        switch="train --bn-group 64",
    ),
    Quirk(
        name="tau-normalization's bias",
        paper="none",
        released="none, so that tau = 0 is not the joint classifier",
        switch="",
    ),
    Quirk(
        name="learned weight scaling's bias",
        paper="scaled with the weights; scales start at 1 and are decayed",
        released="the same",
        switch="",
    ),
    Quirk(
        name="nearest class mean",
        paper="cosine to centroids of centred features, normalised",
        released="Euclidean distance to centroids that are not normalised again",
        switch="rebalance --method ncm reports the six released variants",
    ),
    Quirk(
        name="progressively balanced mixture",
        paper="(E - 1) / (T - 1) in epoch E of T; the paper writes t / T",
        released="the same",
        switch="",
    ),
    Quirk(
        name="accuracy named `all` in tau's table",
        paper="over images",
        released="mean of class accuracies, reported as class_mean",
        switch="rebalance --select-by all|class_mean",
    ),
    Quirk(
        name="iNaturalist's one held-out split",
        paper="settings are chosen on val, which is reported too; with folds no image helps to choose what scores it",
        released="chosen on the split that is reported",
        switch="rebalance --select-on val|folds",
    ),
    Quirk(
        name="empty shot group",
        paper="null",
        released="0",
        switch="",
    ),
)
