"""The paper's accuracies, which tables print beside ours."""

from __future__ import annotations

from dataclasses import dataclass

# Source: Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition (ICLR 2020): tables of the
# paper and of the authors' README. Top-1 accuracy, %. Figures not printed there are left out.

Row = tuple[float | None, float | None, float | None, float]
INSTANCE = "instance_balanced"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of a published table, percent; None where only `all` was printed."""

    many: float | None
    medium: float | None
    few: float | None
    all: float


# (data set, backbone, epochs or None if not printed)
# -> (sampling of stage 1, classifier) -> many, medium, few, all
_TABLES: dict[tuple[str, str, int | None], dict[tuple[str, str], Row]] = {
    ("imagenet_lt", "resnext50_32x4d", 90): {
        (INSTANCE, "joint"): (65.9, 37.5, 7.7, 44.4),
        ("class_balanced", "joint"): (61.8, 40.1, 15.5, 45.1),
        ("square_root", "joint"): (64.3, 41.2, 17.0, 46.8),
        ("progressively_balanced", "joint"): (61.9, 43.2, 19.4, 47.2),
        (INSTANCE, "ncm"): (56.6, 45.3, 28.1, 47.3),
        (INSTANCE, "crt"): (61.8, 46.2, 27.4, 49.6),
        (INSTANCE, "tau"): (59.1, 46.9, 30.7, 49.4),
        (INSTANCE, "lws"): (60.2, 47.2, 30.3, 49.9),
    },
    ("imagenet_lt", "resnext152_32x4d", None): {
        (INSTANCE, "lws"): (None, None, None, 53.3),
    },
    ("places_lt", "resnet152", None): {
        (INSTANCE, "joint"): (45.7, 27.3, 8.2, 30.2),
        (INSTANCE, "ncm"): (40.4, 37.1, 27.3, 36.4),
        (INSTANCE, "crt"): (42.0, 37.6, 24.9, 36.7),
        (INSTANCE, "tau"): (37.8, 40.7, 31.8, 37.9),
        (INSTANCE, "lws"): (40.6, 39.1, 28.6, 37.6),
    },
    ("inat2018", "resnet50", 90): {
        (INSTANCE, "joint"): (72.2, 63.0, 57.2, 61.7),
        (INSTANCE, "crt"): (69.0, 66.0, 63.2, 65.2),
        (INSTANCE, "tau"): (65.6, 65.3, 65.9, 65.6),
    },
    ("inat2018", "resnet50", 200): {
        (INSTANCE, "ncm"): (None, None, None, 63.1),
        (INSTANCE, "crt"): (None, None, None, 68.2),
        (INSTANCE, "tau"): (None, None, None, 69.3),
        (INSTANCE, "lws"): (None, None, None, 69.5),
    },
    ("inat2018", "resnet152", 200): {
        (INSTANCE, "crt"): (None, None, None, 71.2),
        (INSTANCE, "tau"): (None, None, None, 72.5),
    },
}


def published(*, dataset: str, backbone: str, epochs: int, sampling: str, method: str) -> Published | None:
    """Return the paper's accuracies of a classifier, or None if it has none.

    Args:
        dataset: Data set, as in `TrainConfig`.
        backbone: Network.
        epochs: Epochs of stage 1.
        sampling: Sampling of stage 1.
        method: joint, or the rebalancing method.
    """
    for key in ((dataset, backbone, epochs), (dataset, backbone, None)):
        row = _TABLES.get(key, {}).get((sampling, method))
        if row is not None:
            return Published(many=row[0], medium=row[1], few=row[2], all=row[3])
    return None
