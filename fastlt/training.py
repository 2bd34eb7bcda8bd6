"""Stage 1: train a backbone and its linear head jointly, resumable to the bit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from . import checkpoint
from .config import TrainConfig
from .data.augmentation import Augmentation, EvalTransform
from .data.dataset import LongTailedDataset
from .data.loader import Loader, eval_loader, train_loader
from .data.preprocess import Preprocess
from .data.sampler import LongTailSampler
from .data.source import open_data
from .hardware import keep_freed_memory, resolve_device, resolve_precision, resolve_threads
from .loggers import TrainingLog, drop_records_after, log
from .metrics import ShotAccuracy, shot_accuracy
from .models import create_model
from .run import Run
from .step import learning_rate, loss_function, predict

# Shapes: B batch, C classes, H, W image size.


class InterruptedTrainingError(Exception):
    """Training stopped on a signal, after saving everything needed to go on."""

    def __init__(self, run: Run, signum: int, step: int, num_steps: int) -> None:
        self.run, self.signum = run, signum
        super().__init__(
            f"stopped by {signal.Signals(signum).name} at step {step} of {num_steps}; everything is saved. "
            f"Go on with: fastlt train --resume --out {run.path}"
        )


@dataclass
class Progress:
    """How far a run is: what a resumed run needs besides tensors."""

    step: int = 0
    best: float = -1.0
    loss_sum: float = 0.0
    num_correct: int = 0
    num_seen: int = 0


def train(config: TrainConfig, *, console: Console | None = None) -> Run:
    """Train a network, or go on with a run (``config.resume``).

    Args:
        config: The settings; those of a resumed run must be the run's own but for ``TrainConfig.EXECUTION``.
        console: Where progress is shown; by default standard output.

    Returns:
        The finished run, with its checkpoints ``best`` (highest val top-1) and ``last``.

    Raises:
        ValueError, FileNotFoundError: Settings or data cannot be used.
        InterruptedTrainingError: SIGINT or SIGTERM arrived; the run can be resumed.
    """
    device = resolve_device(config.device)
    run = None
    if config.resume:
        run = Run.open(config.out)
        config = resumed_config(config, run)
    else:
        config = dataclasses.replace(config, precision=resolve_precision(config.precision, device))
    create_model(config.backbone, 2)  # an unknown backbone is found before the data are read
    splits = open_data(config)
    if run is None:
        run = Run.create(config, splits)
        config = run.config
    else:
        run.check_data(splits)
    try:
        Trainer(run, config, splits, device, console or Console()).fit()
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"--batch-size: {config.batch_size} images of {config.image_size} pixels do not fit the memory of "
            f"{device}; lower it, and --lr in proportion"
        ) from error
    return run


def resumed_config(asked: TrainConfig, run: Run) -> TrainConfig:
    """Return the run's own settings with the execution settings asked for.

    Raises:
        ValueError: A setting that decides the result was asked to change.
    """
    own = run.config
    for field in dataclasses.fields(TrainConfig):
        before, now = getattr(own, field.name), getattr(asked, field.name)
        automatic = field.name == "precision" and now == "auto"
        if field.name not in TrainConfig.EXECUTION and before != now and not automatic:
            flag = f"--{field.name.replace('_', '-')}"
            raise ValueError(
                f"{flag}: got {now}, but {run.path} was begun with {before}; drop the flag, or start a new run"
            )
    changes = {name: getattr(asked, name) for name in TrainConfig.EXECUTION if name not in ("data_root", "lists")}
    changes |= {name: getattr(asked, name) or getattr(own, name) for name in ("data_root", "lists")}
    return dataclasses.replace(own, **changes)


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying; a second one acts as usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous: dict[int, Any] = {}

    def remember(signum: int, _frame: FrameType | None) -> None:
        caught.append(signum)
        signal.signal(signum, previous[signum])

    for each in (int(signal.SIGINT), int(signal.SIGTERM)):
        previous[each] = signal.signal(each, remember)
    try:
        yield caught
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def decoder_of(loader: Loader) -> str:
    """Return which decoder's pixels a loader gives, as a loader's name."""
    return "dali" if loader.name == "dali" else "pillow"


class Trainer:
    """One stage-1 run in this process."""

    def __init__(
        self,
        run: Run,
        config: TrainConfig,
        splits: dict[str, LongTailedDataset],
        device: torch.device,
        console: Console,
    ) -> None:
        self.run, self.config, self.splits, self.device, self.console = run, config, splits, device, console
        if device.type == "cpu":
            keep_freed_memory()
        else:
            torch.backends.cudnn.benchmark = True
        train_split = splits["train"]
        torch.manual_seed(config.seed)
        self.model = create_model(config.backbone, train_split.num_classes)
        self.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.preprocess = Preprocess(config.mean, config.std).to(device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=device.type == "cuda" or None,
        )
        self.sampler = LongTailSampler(
            train_split.labels,
            sampling=config.sampling,
            batch_size=config.batch_size,
            seed=config.seed,
            samples_per_class=config.draws_per_class if config.sampling == "class_balanced" else 1,
            num_epochs=config.epochs,
            num_classes=train_split.num_classes,
        )
        self.steps_per_epoch = len(self.sampler)
        self.num_steps = self.steps_per_epoch * config.epochs
        # [loss summed over images, correct predictions] of the epoch so far: on the device, read at log steps only
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.progress = Progress()
        self.decoder: str | None = None
        if config.resume:
            self.restore()

    def restore(self) -> None:
        """Load the state of the last step saved, if the run got as far."""
        path = self.run.checkpoint("last")
        if not path.exists():
            log.info("%s stopped before its first checkpoint: starting from the first step", self.run.path)
            drop_records_after(self.run.metrics, 0)
            return
        tensors, metadata = checkpoint.load(path)
        if metadata.get("config") != self.run.config.fingerprint():
            raise ValueError(
                f"{path}: saved under other settings than {self.run.path / 'config.json'}; restore that file"
            )
        momentum = {key.removeprefix("momentum."): v for key, v in tensors.items() if key.startswith("momentum.")}
        weights = {key.removeprefix("model."): v for key, v in tensors.items() if key.startswith("model.")}
        checkpoint.load_into(self.model, weights, source=path)
        for name, parameter in self.model.named_parameters():
            if name in momentum:
                # empty_like keeps channels_last, in which the buffer was saved and the update runs
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.decoder = metadata.get("decoder")
        self.progress = Progress(**metadata["progress"])
        self.sums.copy_(torch.tensor([self.progress.loss_sum, self.progress.num_correct], dtype=torch.float64))
        drop_records_after(self.run.metrics, self.progress.step)

    def save(self) -> None:
        """Write the state after the current step, atomically."""
        self.progress.loss_sum, correct = self.sums.tolist()
        self.progress.num_correct = int(correct)
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            buffer = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{name}"] = buffer
        metadata = {
            "progress": dataclasses.asdict(self.progress),
            "config": self.run.config.fingerprint(),
            "decoder": self.decoder,
        }
        checkpoint.save(self.run.checkpoint("last"), tensors, metadata)

    def loaders(self) -> tuple[Loader, Loader]:
        """Open the training stream, from the next step on, and the val set.

        The memory and the Pillow loader give the same pixels, DALI others within a decoder's tolerance: a resumed run
        keeps to the decoder it began with, unless --loader says otherwise.
        """
        training = self.open_training(self.config.loader)
        if self.decoder is not None and decoder_of(training) != self.decoder:
            if self.config.loader == "auto":
                training.close()
                training = self.open_training(self.decoder)
            else:
                log.warning(
                    "the run began with images decoded by %s: with --loader %s it goes on, but not to the same bits",
                    self.decoder,
                    training.name,
                )
        self.decoder = decoder_of(training)
        transform = EvalTransform(size=self.config.image_size, resize=self.config.resize)
        backend = self.config.loader if self.config.loader != "auto" or training.name == "memory" else training.name
        common = self.loader_settings(backend)
        return training, eval_loader(self.splits["val"], transform, batch_size=self.config.batch_size, **common)

    def loader_settings(self, backend: str) -> dict[str, Any]:
        """Return what both loaders are opened with."""
        return {
            "device": self.device,
            "backend": backend,
            "num_threads": resolve_threads(self.config.num_threads),
            "memory_share": self.config.memory_share,
        }

    def open_training(self, backend: str) -> Loader:
        """Open the training stream from the next step on."""
        config = self.config
        augmentation = Augmentation(
            size=config.image_size,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            flip=config.flip,
            jitter=config.color_jitter,
        )
        return train_loader(
            self.splits["train"],
            self.sampler,
            augmentation,
            start_step=self.progress.step,
            num_steps=self.num_steps - self.progress.step,
            **self.loader_settings(backend),
        )

    def fit(self) -> None:
        """Train from the current step to the last one."""
        config, progress = self.config, self.progress
        if progress.step >= self.num_steps:
            log.info("%s is finished: nothing to resume", self.run.path)
            return
        loss_and_hits = loss_function(self.model, self.preprocess, config, self.device, self.num_steps)
        training, validation = self.loaders()
        logger = TrainingLog(
            console=self.console,
            num_steps=self.num_steps,
            first_step=progress.step,
            batch_size=config.batch_size,
            metrics=self.run.metrics,
            tensorboard=self.run.path / "tensorboard",
        )
        log.info(
            "training %s on %s: %s images, %d classes, imbalance ratio %.0f; "
            "%d epochs of %d steps on %s in %s, %s loader",
            config.backbone,
            config.dataset,
            f"{len(self.splits['train']):,}",
            self.splits["train"].num_classes,
            self.splits["train"].imbalance_ratio,
            config.epochs,
            self.steps_per_epoch,
            self.device,
            config.precision,
            training.name,
        )
        recent_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        recent_steps = 0
        self.model.train()
        with contextlib.closing(training), contextlib.closing(validation), catch_signals() as signals, logger:
            for batch in training:
                epoch = progress.step // self.steps_per_epoch
                rate = learning_rate(config, epoch)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                loss, hits = loss_and_hits(batch.images, batch.labels, batch.jitter, batch.order)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                detached = loss.detach().double()
                self.sums += torch.stack([detached * len(batch.labels), hits.double()])
                recent_loss += detached
                recent_steps += 1
                progress.step += 1
                progress.num_seen += len(batch.labels)
                ended = progress.step % self.steps_per_epoch == 0
                if ended or progress.step % config.log_every == 0 or signals:
                    mean_loss = recent_loss.item() / recent_steps
                    self.check_loss(mean_loss)
                    name = f"{epoch + 1}/{config.epochs}"
                    logger.step(step=progress.step, epoch=name, loss=mean_loss, learning_rate=rate)
                    recent_loss.zero_()
                    recent_steps = 0
                if ended:
                    self.end_epoch(epoch, rate, validation, logger)
                if signals and progress.step < self.num_steps:
                    self.save()
                    raise InterruptedTrainingError(self.run, signals[0], progress.step, self.num_steps)
        if training.replaced:
            log.warning("%d images could not be read; others of their classes stood in", len(training.replaced))

    def check_loss(self, loss: float) -> None:
        """Stop a run that has diverged, before it overwrites a good checkpoint."""
        if not math.isfinite(loss):
            raise ValueError(
                f"--lr: the loss is {loss} by step {self.progress.step} with learning rate {self.config.lr:g} and "
                f"batch size {self.config.batch_size}; lower --lr (it scales with the batch size: 512 -> 0.2) and "
                "start a new run"
            )

    def end_epoch(self, epoch: int, rate: float, validation: Loader, logger: TrainingLog) -> None:
        """Validate, record, and save the checkpoints."""
        progress = self.progress
        accuracy = self.validate(validation)
        loss_sum, correct = self.sums.tolist()
        best = 100 * accuracy.all > progress.best
        logger.epoch(
            {
                "epoch": epoch + 1,
                "epochs": self.config.epochs,
                "step": progress.step,
                "learning_rate": rate,
                "loss": loss_sum / progress.num_seen,
                "train_accuracy": 100 * correct / progress.num_seen,
                "images_per_s": logger.epoch_images_per_s(),
                "val": {key: None if v is None else 100 * v for key, v in dataclasses.asdict(accuracy).items()},
            }
        )
        self.sums.zero_()
        progress.num_seen = 0
        if best:
            progress.best = 100 * accuracy.all
            metadata = {"epoch": epoch + 1, "val_all": progress.best, "config": self.run.config.fingerprint()}
            checkpoint.save(self.run.checkpoint("best"), self.model.state_dict(), metadata)
        self.save()
        logger.begin_epoch(progress.step)

    def validate(self, validation: Loader) -> ShotAccuracy:
        """Return the accuracy on val."""
        predictions = predict(self.model, self.preprocess, validation, self.device, self.config.precision)
        self.model.train()
        return shot_accuracy(predictions, self.splits["val"].labels, self.splits["train"].class_counts)
