"""Settings of every command: frozen dataclasses whose field docstrings are the command line's help."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

SAMPLINGS = ("instance_balanced", "class_balanced", "square_root", "progressively_balanced")
LOADERS = ("auto", "memory", "dali", "pillow")
PRECISIONS = ("auto", "fp32", "bf16")
PROTOCOLS = ("paper", "released")
METHODS = ("tau",)
GROUPS = ("all", "class_mean", "many", "medium", "few")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ValueError that names the nearest choice unless ``value`` is one of ``choices``."""
    choices = tuple(choices)
    if value not in choices:
        nearest = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"{name}: got {value!r}; {hint}choose one of {', '.join(choices)}")


def check_range(
    name: str, value: float, *, low: float, high: float = math.inf, low_open: bool = False, unit: str = ""
) -> None:
    """Raise a ValueError unless ``value`` is a finite number in [low, high], or in (low, high] with ``low_open``."""
    if not math.isfinite(value) or value < low or value > high or (low_open and value == low):
        left = f"more than {low:g}" if low_open else f"at least {low:g}"
        right = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name}: got {value}; expected a finite number, {left}{right}{unit and ' ' + unit}")


class Config:
    """What all settings share: JSON in, JSON out."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; paths become strings."""
        assert dataclasses.is_dataclass(self)
        return {key: str(v) if isinstance(v, Path) else v for key, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, source: str) -> Self:
        """Rebuild settings from ``to_json``'s values.

        Args:
            values: Field values by name.
            source: Where they were read, for messages.

        Raises:
            ValueError: A key is unknown, or a value is refused by the settings' own checks.
        """
        assert dataclasses.is_dataclass(cls)
        defaults = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(defaults))
        if unknown:
            raise ValueError(
                f"{source}: unknown setting {unknown[0]!r}; it was written by another version of fastlt: use that one"
            )

        def revive(name: str, value: Any) -> Any:
            if isinstance(value, list):
                return tuple(value)
            return Path(value) if isinstance(value, str) and "Path" in str(defaults[name].type) else value

        try:
            return cls(**{name: revive(name, value) for name, value in values.items()})
        except TypeError as error:
            raise ValueError(f"{source}: a setting has the wrong type ({error}); restore the file") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Stage 1: train a backbone and a linear classifier jointly.

    The defaults are the paper's for ImageNet-LT; a recipe (``--dataset``) replaces them, a flag overrides the recipe.
    """

    dataset: str = "folder"
    """Data set, and the recipe of its settings: see `fastlt recipes`."""
    data_root: Path | None = None
    """Folder with the images (train/<class>/*, val/<class>/*, optional test/), or with list files beside them."""
    lists: Path | None = None
    """Folder with the list files (train.txt, val.txt, optional test.txt: `path label` a line), if not in DATA-ROOT."""
    strict: bool = False
    """Stop when an image cannot be read; by default it is skipped, counted and reported."""

    backbone: str = "resnext50_32x4d"
    """Network: resnet8 (small images), resnet10/50/101/152, resnext50_32x4d, resnext101_32x4d, resnext152_32x4d, or
    timm:NAME."""
    epochs: int = 90
    """Number of epochs; one is floor(images / batch size) steps under every sampling."""
    batch_size: int = 512
    """Images a step. When you change it, scale --lr in proportion."""
    lr: float = 0.2
    """Base learning rate; it follows a cosine to 0, stepped per epoch."""
    momentum: float = 0.9
    """SGD momentum (no Nesterov)."""
    weight_decay: float = 5e-4
    """Weight decay, on every parameter."""
    sampling: str = "instance_balanced"
    """Order of the images: instance_balanced, class_balanced, square_root or progressively_balanced."""
    samples_per_class: int | None = None
    """Consecutive draws of a class under class_balanced; by default 1, and 4 under --protocol released."""
    protocol: str = "paper"
    """`paper` follows the paper's intent, `released` the released code's quirks (its schedule ends at rate 0 one
    epoch early)."""
    seed: int = 0
    """Seed of weights, order and augmentation."""

    image_size: int = 224
    """Side of the square network input, pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of an image's area that a training crop covers."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Narrowest and widest aspect ratio (width / height) of a training crop."""
    flip: float = 0.5
    """Probability that a training image is mirrored."""
    color_jitter: float = 0.4
    """Strength of the brightness, contrast and saturation jitter; 0 turns it off."""
    eval_resize: int | None = None
    """Short side before the centre crop in evaluation, pixels; by default image size x 256 / 224."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of the red, green and blue channel, in units of the full range."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of the red, green and blue channel, in units of the full range."""

    device: str = "auto"
    """cuda, cuda:N or cpu; auto takes a CUDA device if there is one."""
    precision: str = "auto"
    """fp32 or bf16 (autocast); auto takes bf16 on CUDA, and on a CPU that multiplies bf16 in hardware."""
    compile: bool = True
    """Compile the step with torch.compile: always on CUDA, on a CPU when the run is long enough to pay for it."""
    loader: str = "auto"
    """Image loader: memory (decoded once, for sets that fit), dali, pillow, or auto."""
    num_threads: int | None = None
    """Loader threads or workers; by default the number of processors, at most 16."""
    memory_share: float = 0.25
    """Share of the free memory that a decoded set may take for the memory loader to be chosen by auto."""
    log_every: int = 50
    """Steps between log lines; the loss stays on the device in between."""

    out: Path | None = None
    """Run folder; by default runs/<dataset>/<backbone>-<time>."""
    resume: bool = False
    """Continue the run in OUT (by default the last one) where it stopped, with the settings it has."""

    EXECUTION = ("data_root", "lists", "device", "loader", "num_threads", "memory_share", "log_every", "out", "resume")
    """Fields that may change when a run is resumed: they do not decide what is computed."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_choice("--sampling", self.sampling, SAMPLINGS)
        check_choice("--protocol", self.protocol, PROTOCOLS)
        check_choice("--precision", self.precision, PRECISIONS)
        check_choice("--loader", self.loader, LOADERS)
        for flag, whole in (
            ("--epochs", self.epochs),
            ("--batch-size", self.batch_size),
            ("--image-size", self.image_size),
            ("--log-every", self.log_every),
            ("--num-threads", 1 if self.num_threads is None else self.num_threads),
            ("--samples-per-class", 1 if self.samples_per_class is None else self.samples_per_class),
            ("--eval-resize", self.image_size if self.eval_resize is None else self.eval_resize),
        ):
            check_range(flag, whole, low=1)
        check_range("--lr", self.lr, low=0, low_open=True)
        check_range("--momentum", self.momentum, low=0, high=1)
        check_range("--weight-decay", self.weight_decay, low=0)
        check_range("--flip", self.flip, low=0, high=1)
        check_range("--color-jitter", self.color_jitter, low=0, high=1)
        check_range("--memory-share", self.memory_share, low=0, high=1)
        check_range("--seed", self.seed, low=0, high=2**63 - 1)
        if self.samples_per_class not in (None, 1) and self.sampling != "class_balanced":
            raise ValueError(
                f"--samples-per-class: got {self.samples_per_class} with --sampling {self.sampling}; "
                "it belongs to class_balanced: drop it, or choose that sampling"
            )
        if self.eval_resize is not None and self.eval_resize < self.image_size:
            raise ValueError(
                f"--eval-resize: got {self.eval_resize}, smaller than the crop it is cut from; "
                f"give at least --image-size ({self.image_size})"
            )
        for flag, (low, high), most in (
            ("--crop-scale", self.crop_scale, 1.0),
            ("--crop-ratio", self.crop_ratio, math.inf),
        ):
            if not (0 < low <= high <= most and math.isfinite(high)):
                bound = f" <= {most:g}" if most < math.inf else ""
                raise ValueError(f"{flag}: got {low} {high}; expected two numbers with 0 < low <= high{bound}")
        if not all(math.isfinite(v) for v in self.mean):
            raise ValueError(f"--mean: got {self.mean}; expected three finite numbers")
        if not all(math.isfinite(v) and v > 0 for v in self.std):
            raise ValueError(f"--std: got {self.std}; expected three positive numbers")

    @property
    def resize(self) -> int:
        """Short side before the centre crop, pixels: the paper's 256 for 224, scaled to the image size."""
        return self.eval_resize if self.eval_resize is not None else round(self.image_size * 256 / 224)

    @property
    def draws_per_class(self) -> int:
        """Consecutive draws of a class under class-balanced sampling."""
        return self.samples_per_class or (4 if self.protocol == "released" else 1)

    def fingerprint(self) -> str:
        """Return a hash of the settings that decide what is computed; 16 hexadecimal digits."""
        decisive = {key: value for key, value in self.to_json().items() if key not in self.EXECUTION}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RebalanceConfig(Config):
    """Stage 2: rebalance the linear classifier of a trained run; the backbone stays as it is."""

    method: str = "tau"
    """tau: W / ||W||^tau, without a bias (tau-normalization)."""
    tau: str = "auto"
    """A number from 0 (the joint weights without bias) up, 1 for unit norms, or auto: the best on val, exactly."""
    select_by: str = "class_mean"
    """The val accuracy that --tau auto maximises: all, class_mean, many, medium or few."""
    device: str = "auto"
    """cuda, cuda:N or cpu; auto takes a CUDA device if there is one."""
    loader: str = "auto"
    """Image loader for features not computed yet: memory, dali, pillow or auto."""
    num_threads: int | None = None
    """Loader threads or workers; by default the number of processors, at most 16."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_choice("--method", self.method, METHODS)
        check_choice("--select-by", self.select_by, GROUPS)
        check_choice("--loader", self.loader, LOADERS)
        check_range("--num-threads", 1 if self.num_threads is None else self.num_threads, low=1)
        self.fixed_tau()

    def fixed_tau(self) -> float | None:
        """Return tau, or None if it is to be chosen on val.

        Raises:
            ValueError: tau is neither ``auto`` nor a finite number that is not negative.
        """
        if self.tau == "auto":
            return None
        try:
            tau = float(self.tau)
        except ValueError:
            tau = math.nan
        if not math.isfinite(tau) or tau < 0:
            raise ValueError(
                f"--tau: got {self.tau!r}; expected a number from 0 up (the paper searches 0 to 2), or auto"
            )
        return tau


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Accuracy of a run's classifier: many, medium, few and all, with 95 % intervals."""

    method: str = "joint"
    """joint (stage 1 as it is), or a rebalanced classifier of the run: tau."""
    split: Literal["val", "test", "all"] = "all"
    """The split to report, or all of them."""
    device: str = "auto"
    """cuda, cuda:N or cpu; auto takes a CUDA device if there is one."""
    loader: str = "auto"
    """Image loader for features not computed yet: memory, dali, pillow or auto."""
    num_threads: int | None = None
    """Loader threads or workers; by default the number of processors, at most 16."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_choice("--method", self.method, ("joint", *METHODS))
        check_choice("--split", self.split, ("val", "test", "all"))
        check_choice("--loader", self.loader, LOADERS)
        check_range("--num-threads", 1 if self.num_threads is None else self.num_threads, low=1)
