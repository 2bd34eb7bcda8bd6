"""The settings of stage 2."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from .base import (
    CHOOSING,
    FUNCTION,
    GROUPS,
    LOADERS,
    LOSSES,
    METHODS,
    PROTOCOLS,
    Config,
    Device,
    Loader,
    Protocol,
    Target,
    check_choice,
    check_range,
    number_from_zero,
    one_of,
)
from .plugins import check_choice_or_function, check_method, method_names

FEATURES = ("cached", "live")
FEATURE_PRECISIONS = ("fp32", "tf32", "bf16")
FINE_TUNE = ("classifier", "last_block", "all")
SELECT_ON = ("val", "folds", "test")
METHOD_OF = {"tau": "tau", "strength": "logit_adjustment"}
"""Setting -> the only method that has it."""
Method = Annotated[str, one_of((*CHOOSING, *METHODS, "all", FUNCTION))]
METHOD_HELP = (
    "auto: the best of the joint classifier and every method that takes seconds, by cross-validated val "
    "(--tau or --strength alone name their method); best: the same among all methods, however long they take; "
    + "".join(f"{name}: {text}; " for name, text in METHODS.items())
    + "all: all of them, and those registered; module:function: your own, from a Problem to a LinearHead."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RebalanceConfig(Config):
    """Stage 2: rebalance the linear classifier of a trained network; the backbone stays as it is."""

    method: Method = dataclasses.field(default="auto", metadata={"help": METHOD_HELP})
    """A rebalancing method, one of your own (registered, or as module:function), all of them, or auto or best, which
    choose one; auto with only a `tau` or a `strength` becomes its method."""
    tau: Annotated[str, "auto|learned|NUMBER"] | None = None
    """A number from 0 (the joint weights without bias) up, 1 for unit norms; auto, the default: the exact best on val;
    learned: by cross entropy on class-balanced draws of the training features. Without --method it means --method
    tau."""
    strength: Annotated[str, "auto|NUMBER"] | None = None
    """Logit adjustment's own tau: a number from 0 (the joint classifier) up, or auto, the default: the exact best on
    val. Without --method it means --method logit_adjustment."""
    select_by: Annotated[str, one_of(GROUPS)] = "class_mean"
    """The accuracy by which settings, and among methods, are chosen."""
    select_on: Annotated[str, one_of(SELECT_ON)] = "val"
    """Where settings are chosen: val; folds (five folds of val, each scored with the settings chosen on the others,
    which --method auto and best always use); or test, only with --force, since its accuracies are then no longer
    honest. Without val it is always five folds of train."""

    epochs: int | None = None
    """Epochs of a trained method; by default the paper's, 10 (iNaturalist 30), 5 for lws, and on other sets up to eight
    times as many while training images of a whole class are wrong and it takes under a minute."""
    batch_size: int | None = None
    """Images per step; by default as in stage 1."""
    lr: tuple[float, ...] = ()
    """Learning rates to try; the best on val wins. By default one: 0.2 x batch size / 512 (los: what the curvature of
    its loss allows)."""
    weight_decay: tuple[float, ...] = ()
    """Weight decays to try; the best on val wins. By default one, the paper's: 5e-4 (iNaturalist 1e-4)."""
    loss: Annotated[str, one_of((*LOSSES, FUNCTION))] = "cross_entropy"
    """Loss of crt. ldam re-weights classes late in training; module:function is your own, as for `fastlt train`. All
    but cross_entropy use instance-balanced draws."""
    label_smoothing: float = 0.98
    """Label smoothing of los, as a share of the label's mass."""
    seed: int = 0
    """Seed for new classifiers, draws and folds."""
    protocol: Protocol = "paper"
    """paper follows the paper's intent; released follows the released code: BatchNorm drifts in stage 2 (--features
    live), its list of learning rates, four images in a row per class."""

    features: Annotated[str, one_of(FEATURES)] = "cached"
    """cached: features computed once; live: images through the backbone each epoch, augmented as in stage 1."""
    views: int = 1
    """Views of each training image to cache: the first is the evaluation transform, the others are augmented."""
    feature_precision: Annotated[str, one_of(FEATURE_PRECISIONS)] = "fp32"
    """Precision in which a GPU computes the features of training images: fp32 in full, or tf32 or bf16 (not
    measured yet). bf16 also takes half the disk space. A CPU computes in fp32. val and test are always fp32 in full."""
    reestimate_batch_norm: bool = False
    """Re-estimate BatchNorm's statistics on class-balanced batches before features are computed."""
    fine_tune: Annotated[str, one_of(FINE_TUNE)] = "classifier"
    """What crt trains: classifier, or, for the ablation, also last_block or all (both need --features live)."""

    temperature: bool = True
    """Fold a temperature, fitted on val, into the rebalanced classifier, to calibrate its confidences."""
    target: Target = "uniform"
    """The class frequencies where the network will be used: uniform, train, FILE.csv (class,frequency), or
    estimate:DIR from unlabelled images (with several methods, by the first one)."""

    device: Device = "auto"
    """Device to compute on; auto takes a CUDA device if there is one."""
    loader: Loader = "auto"
    """Image loader for features not computed yet."""
    num_threads: int | None = None
    """Loader threads or workers; by default the number of processors, at most 16."""
    force: bool = False
    """Go on where fastlt would stop: when selecting on test, or with a checkpoint near chance on val."""

    def __post_init__(self) -> None:
        """Fill in the method, and refuse settings that cannot work."""
        self._fill_in()
        for flag, value, choices in (
            ("--select-by", self.select_by, GROUPS),
            ("--select-on", self.select_on, SELECT_ON),
            ("--protocol", self.protocol, PROTOCOLS),
            ("--features", self.features, FEATURES),
            ("--feature-precision", self.feature_precision, FEATURE_PRECISIONS),
            ("--fine-tune", self.fine_tune, FINE_TUNE),
            ("--loader", self.loader, LOADERS),
        ):
            check_choice(flag, value, choices)
        check_method(self.method)
        check_choice_or_function("--loss", self.loss, LOSSES)
        for flag, count in (
            ("--epochs", self.epochs),
            ("--batch-size", self.batch_size),
            ("--views", self.views),
            ("--num-threads", self.num_threads),
        ):
            check_range(flag, 1 if count is None else count, low=1)
        for rate in self.lr:
            check_range("--lr", rate, low=0, low_open=True)
        for decay in self.weight_decay:
            check_range("--weight-decay", decay, low=0)
        check_range("--label-smoothing", self.label_smoothing, low=0, high=1)
        check_range("--seed", self.seed, low=0, high=2**63 - 1)
        if self.select_on == "test" and not self.force:
            raise ValueError(
                "--select-on: got test; expected val or folds, since settings chosen on test make its accuracies "
                "worthless; choose one of them, or insist with --force"
            )
        if self.fine_tune != "classifier" and (self.method, self.features) != ("crt", "live"):
            raise ValueError(
                f"--fine-tune: got {self.fine_tune} with --method {self.method} --features {self.features}; expected "
                "--method crt --features live; choose them, or classifier"
            )
        if self.features == "cached" and self.protocol == "released":
            raise ValueError(
                "--features: got cached with --protocol released; expected live, since the released code lets "
                "BatchNorm drift while it trains the classifier; choose --features live, or --protocol paper"
            )
        if self.features == "live" and self.views > 1:
            raise ValueError(
                f"--views: got {self.views} with --features live; expected 1, as every epoch is a new view; drop it"
            )
        self.fixed_tau()
        self.fixed_strength()
        if self.chooses and self.select_on == "test":
            raise ValueError(
                f"--select-on: got test with --method {self.method}, which chooses by folds of val; expected val or "
                "folds; drop it, or name one method"
            )

    def _fill_in(self) -> None:
        """Name the method of which only the setting is given; a setting that is not given becomes auto.

        Raises:
            ValueError: Settings of two methods are given, or one with `best`.
        """
        given = {"tau": self.tau, "strength": self.strength}
        names = [name for name, value in given.items() if value not in (None, "auto")]
        if names and self.method == "best":
            name, flag = names[0], f"--{names[0]}"
            raise ValueError(
                f"{flag}: got {given[name]} with --method best, which chooses it too; expected auto; drop it, or "
                f"choose --method {METHOD_OF[name]}"
            )
        if self.method == "auto":
            if len(names) > 1:
                raise ValueError(
                    f"--method: got none with --tau {self.tau} and --strength {self.strength}, which belong to two "
                    "methods; expected one of them; drop a flag, or add --method tau or logit_adjustment"
                )
            # Of settings that are auto, only a single one was given: where both are, they were filled in before
            named = names or [name for name, value in given.items() if value]
            if len(named) == 1:
                object.__setattr__(self, "method", METHOD_OF[named[0]])
        for name, value in given.items():
            object.__setattr__(self, name, "auto" if value is None else value)

    @property
    def chooses(self) -> bool:
        """Whether one method is to be chosen among several."""
        return self.method in CHOOSING

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods to fit: the one named, or all, of which one may be chosen.

        A function of the user's is imported for it.
        """
        return method_names("all" if self.chooses else self.method)

    @property
    def selection_split(self) -> str:
        """The split on which settings are chosen."""
        return "test" if self.select_on == "test" else "val"

    def fixed_tau(self) -> float | None:
        """Return tau, or None if it is to be chosen.

        Raises:
            ValueError: tau is neither `auto` nor `learned` nor a finite number that is not negative.
        """
        return (
            None if self.tau == "learned" else fixed("--tau", self.tau, "the paper searches 0 to 2), auto or learned")
        )

    def fixed_strength(self) -> float | None:
        """Return logit adjustment's strength, or None if it is to be chosen.

        Raises:
            ValueError: The strength is neither `auto` nor a finite number that is not negative.
        """
        return fixed("--strength", self.strength, "1 fits balanced test data), or auto")


def fixed(flag: str, text: str | None, hint: str) -> float | None:
    """Return the number in `text`, or None for `auto`."""
    if text is None or text == "auto":
        return None
    value = number_from_zero(text)
    if math.isnan(value):
        raise ValueError(f"{flag}: got {text!r}; expected a number from 0 up ({hint}")
    return value
