"""Stage 1: train a backbone and its linear head jointly; a resumed run ends with the same bits."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator

import torch
from rich.console import Console
from torch import Tensor, nn

from ..checkpoints import native
from ..checkpoints.start import InitialWeights
from ..config import TrainConfig
from ..data.dataset import LongTailedDataset
from ..data.loaders.base import Batch
from ..data.loaders.loader import Loader
from ..data.registry import open_data
from ..data.transforms.preprocess import Preprocess
from ..losses import EXPLODED, LOST, deferred_weights, ignorant_loss
from ..metrics import ShotAccuracy, shot_accuracy
from ..models import Network
from ..run import Run
from ..runtime import distributed
from ..runtime.compiling import Compiler
from ..runtime.device import algorithms, on_device, resolve_device
from ..runtime.distributed import ReportedElsewhereError, World
from ..runtime.log import log, only
from ..runtime.machine import keep_freed_memory
from ..runtime.output import Terminal
from ..runtime.signals import Signals
from ..schedule import learning_rate
from . import state
from .data_wait import DataWait
from .ema import MovingAverage, with_cosine_head
from .loaders import Streams, decoder_of, make_sampler
from .log import TrainingLog, announce, drop_records_after
from .network import build_network, make_optimizer, set_training_mode
from .setup import check_shares, open_run, out_of_memory
from .signals import InterruptedTrainingError
from .state import Progress
from .step import LossFunction, StepInput, ValidationPredictor, copy_gradients, loss_function, worth_compiling

__all__ = ["InterruptedTrainingError", "Trainer", "train"]

# Shapes: B batch, C classes, H, W image size.


def train(config: TrainConfig, *, console: Console | None = None) -> Run:
    """Train a network, or continue a run that was stopped (`config.resume`).

    Under torchrun all processes call this, and each trains on its share of every batch.

    Args:
        config: The settings. For a resumed run they must equal the run's own, except the fields that `TrainConfig`
            marks as `changeable`.
        console: Where progress is shown; by default standard output.

    Returns:
        The finished run, with its checkpoints `best` (highest val top-1) and `last`.

    Raises:
        ValueError, FileNotFoundError: Settings or data cannot be used, or another process trains the run.
        InterruptedTrainingError: SIGINT or SIGTERM arrived; the run can be resumed.
        ReportedElsewhereError: Training failed, and the process of rank 0 raises the reason.
    """
    device = resolve_device(distributed.local_device(config.device))
    with distributed.join(device) as world, contextlib.ExitStack() as stack:
        splits: dict[str, LongTailedDataset] = {}
        weights: InitialWeights | None = None

        def prepare() -> tuple[Run, TrainConfig]:
            nonlocal weights
            check_shares(config, world)
            run, resolved, data, weights = open_run(config, device)
            stack.enter_context(run.held())
            splits.update(data)
            return run, resolved

        run, resolved = world.first(prepare)
        if not splits:
            with only(logging.ERROR):  # the process that writes has logged the warnings
                splits.update(open_data(resolved))
        try:
            with algorithms(benchmark=resolved.cudnn_benchmark, deterministic=resolved.deterministic):
                Trainer(run, resolved, splits, device, console or Terminal(), world, weights).fit()
        except torch.OutOfMemoryError as error:
            raise ValueError(out_of_memory(resolved, device, world)) from error
    return run


class Trainer:
    """A stage-1 run in this process; with several processes, each trains on its share of every batch."""

    def __init__(
        self,
        run: Run,
        config: TrainConfig,
        splits: dict[str, LongTailedDataset],
        device: torch.device,
        console: Console,
        world: World,
        weights: InitialWeights | None,
    ) -> None:
        self.run, self.config, self.splits, self.device, self.console = run, config, splits, device, console
        self.world, self.signals = world, Signals(patient=world.size > 1)
        if device.type == "cpu":
            keep_freed_memory()
        # Otherwise the weights come from the run's last checkpoint
        start = not (config.resume and run.checkpoint("last").exists())
        train = splits["train"]
        self.model = build_network(config, train.num_classes, device, world, start=start, weights=weights, train=train)
        self.average = MovingAverage(self.model, config.ema) if config.ema else None
        self.preprocess = Preprocess(
            config.mean,
            config.std,
            randaugment_magnitude=config.randaugment_magnitude,
            channels_last=config.channels_last,
        ).to(device)
        self.optimizer = make_optimizer(self.model, config, device)
        sampler = make_sampler(config, splits["train"], world)
        self.streams = Streams(config, splits, sampler, world, device)
        self.steps_per_epoch = len(sampler)
        self.num_steps = self.steps_per_epoch * config.epochs
        # [loss summed over images, correct predictions] of the epoch so far in this process; read at the epoch's end
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.class_counts = torch.from_numpy(splits["train"].class_counts).to(device)
        self.ignorant_loss = ignorant_loss(config.loss, self.class_counts)
        self.data_wait = DataWait(device)
        self.compiler = Compiler(
            worth_compiling(config, device, self.num_steps),
            channels_last=config.channels_last,
            cuda_graphs=config.cuda_graphs and device.type == "cuda",
        )
        network = self.averaged or self.model
        self.predictor = ValidationPredictor(network, self.preprocess, config, device, self.compiler)
        self.progress = Progress()
        self.decoder: str | None = None
        self.parallel: nn.Module | None = None
        if config.resume:
            self.restore()

    @property
    def averaged(self) -> Network | None:
        """The network of moving averages, if there is one."""
        return None if self.average is None else self.average.network

    def restore(self) -> None:
        """Load the run's last checkpoint, if there is one."""
        path = self.run.checkpoint("last")
        if not path.exists():
            log.info("%s has no checkpoint yet: starting from the first step", self.run.path)
            self.world.first(lambda: drop_records_after(self.run.metrics, 0))
            return
        tensors, record = state.read_last(self.run)
        settings = self.run.config.fingerprint()
        if record.settings not in (None, settings):
            raise ValueError(
                f"{path}: got a checkpoint of other settings; expected those of {self.run.path / 'config.json'}; "
                "restore that file"
            )
        state.unpack(tensors, self.model, self.optimizer, self.averaged, source=path)
        self.decoder, self.progress = record.decoder, record.progress
        if self.world.is_writer:  # the sums are over all processes, so only one continues them
            self.sums.copy_(torch.tensor([self.progress.loss_sum, self.progress.num_correct], dtype=torch.float64))
        self.world.first(lambda: drop_records_after(self.run.metrics, self.progress.step))

    def save(self) -> None:
        """Write the state after the current step, atomically; all processes call it."""
        with self.signals.uncut():
            self.progress.loss_sum, correct = self.world.total(self.sums).tolist()
            self.progress.num_correct = int(correct)
            self.average_buffers()
            if self.world.is_writer:
                metadata = {
                    "progress": dataclasses.asdict(self.progress),
                    "settings": self.run.config.fingerprint(),
                    "decoder": self.decoder,
                }
                tensors = state.pack(self.model, self.optimizer, self.averaged)
                native.save(self.run.checkpoint("last"), tensors, metadata)
            self.world.barrier()

    def average_buffers(self) -> None:
        """Give every process the same running statistics."""
        self.world.average_buffers(self.model)
        if self.averaged is not None:
            self.world.average_buffers(self.averaged)

    def parallelise(self, module: nn.Module) -> nn.Module:
        """Return the module with gradients averaged over all processes."""
        self.parallel = self.world.parallel(module, self.device, in_bf16=self.config.bf16_gradients)
        return self.parallel

    def fit(self) -> None:
        """Train from the current step to the last one."""
        config, progress, world = self.config, self.progress, self.world
        if progress.step >= self.num_steps:
            log.info("%s is finished; nothing is left to train", self.run.path)
            return
        loss_and_hits = loss_function(
            self.model,
            self.preprocess,
            config,
            self.device,
            self.compiler,
            self.class_counts,
            self.parallelise,
        )
        training, validation = self.streams.open(progress.step, self.decoder)
        self.decoder = decoder_of(training.name)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.signals.collected())
            stack.enter_context(contextlib.closing(training))
            stack.enter_context(contextlib.closing(validation))
            logger = stack.enter_context(self.open_log(training.name)) if world.is_writer else None
            recent_loss = torch.zeros((), dtype=torch.float64, device=self.device)
            recent_steps = signum = 0
            set_training_mode(self.model, config)
            self.data_wait.begin_epoch()
            for batch in self.data_wait.watch(training, self.signals):
                epoch = progress.step // self.steps_per_epoch
                rate = self.set_learning_rate(epoch)
                loss, hits = self.backward(loss_and_hits, batch)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                progress.step += 1
                progress.num_seen += len(batch.labels) * world.size
                if self.average is not None:
                    self.average.update(progress.step)
                self.sums += torch.stack([loss * len(batch.labels), hits.double()])
                recent_loss += loss
                recent_steps += 1
                signum = world.agree_on_signal(self.signals.received)
                ended = progress.step % self.steps_per_epoch == 0
                if ended or progress.step % config.log_every == 0 or signum:
                    mean_loss = world.total(recent_loss).item() / (recent_steps * world.size)
                    self.data_wait.read()
                    # The first epoch may overshoot and come back, unless nothing follows it
                    self.check_loss(mean_loss, LOST if ended and (epoch or config.epochs == 1) else EXPLODED)
                    if logger is not None:
                        name = f"{epoch + 1}/{config.epochs}"
                        logger.step(step=progress.step, epoch=name, loss=mean_loss, learning_rate=rate)
                    recent_loss.zero_()
                    recent_steps = 0
                if ended:
                    self.end_epoch(epoch, rate, validation, logger)
                if signum:
                    break
            if progress.step < self.num_steps:  # a signal ended a step or the wait for a batch
                if recent_steps:
                    self.check_loss(recent_loss.item() / recent_steps, EXPLODED)
                self.save()
                signum = signum or self.signals.received[0]
                raise InterruptedTrainingError(self.run, signum, progress.step, self.num_steps)
        if training.replaced:
            log.warning(
                "%d images could not be read and were replaced by others of their classes", len(training.replaced)
            )

    def open_log(self, loader: str) -> TrainingLog:
        """Log what is trained, and return the training log."""
        config, device = self.config, self.device
        announce(config, self.splits["train"], self.steps_per_epoch, device, self.world.size, loader)
        return TrainingLog(
            console=self.console,
            num_steps=self.num_steps,
            first_step=self.progress.step,
            batch_size=config.batch_size,
            metrics=self.run.metrics,
            tensorboard=self.run.path / "tensorboard",
        )

    def set_learning_rate(self, epoch: int) -> float:
        """Set the learning rate of the next step, and return it."""
        share = (self.progress.step % self.steps_per_epoch + 1) / self.steps_per_epoch
        rate = learning_rate(self.config, epoch, share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_share"]
        return rate

    def step_input(self, batch: Batch) -> StepInput:
        """Return a batch of the loader with the current step's draws."""
        operations, mixup_share = self.streams.draws(self.progress.step)
        epoch_share = mean_weight = None
        if self.config.loss == "ldam":
            # A tensor, so that the step is not compiled again when the value changes
            epoch_share = on_device(
                torch.tensor(self.progress.step // self.steps_per_epoch / self.config.epochs), self.device
            )
            weights = deferred_weights(self.class_counts, epoch_share).double()
            # Over the whole batch, so that all pieces and processes weight their images alike
            mean_weight = self.world.total(weights[batch.labels].mean()) / self.world.size
        return StepInput(
            batch.images, batch.labels, batch.jitter, batch.order, operations, mixup_share, epoch_share, mean_weight
        )

    def backward(self, loss_and_hits: LossFunction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute the gradients of this process's share of a batch, piece by piece.

        Returns:
            (mean loss, number of correct predictions), of this process, on the device.
        """
        num_pieces = self.config.accumulate
        losses, hits = [], []
        for number, piece in enumerate(self.step_input(batch).pieces(num_pieces), 1):
            with self.without_averaging(number < num_pieces):
                loss, num_hits = loss_and_hits(piece)
                (loss if num_pieces == 1 else loss / num_pieces).backward()  # type: ignore[no-untyped-call]
            if number == 1 < num_pieces and self.compiler.cuda_graphs:
                copy_gradients(self.model)  # the next replay overwrites them; it adds its own to the copies
            losses.append(loss.detach().double())
            hits.append(num_hits)
        if num_pieces == 1:
            return losses[0], hits[0]
        return torch.stack(losses).mean(), torch.stack(hits).sum()

    def without_averaging(self, enabled: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context for all but a batch's last piece, in which processes do not average their gradients."""
        if enabled and isinstance(self.parallel, nn.parallel.DistributedDataParallel):
            return self.parallel.no_sync()
        return contextlib.nullcontext()

    def check_loss(self, loss: float, times: float) -> None:
        """Raise an error if the run has diverged, before it overwrites a good checkpoint.

        Args:
            loss: The mean loss since the last log step.
            times: How many times the loss of a network that knows nothing it may be.
        """
        if not math.isfinite(loss) or loss > times * self.ignorant_loss:
            if not self.world.is_writer:
                raise ReportedElsewhereError
            raise ValueError(
                f"--lr: got a loss of {loss:.4g} by step {self.progress.step} with --lr {self.config.lr:g} and "
                f"--batch-size {self.config.batch_size}, so training has diverged; expected less than "
                f"{self.ignorant_loss:.2g}, that of guessing; lower --lr (0.2 suits a batch of 512, others in "
                "proportion) and start a new run"
            )

    def end_epoch(self, epoch: int, rate: float, validation: Loader, logger: TrainingLog | None) -> None:
        """Validate, record, and save the checkpoints."""
        progress = self.progress
        waits = self.world.total(torch.tensor(self.data_wait.share(), dtype=torch.float64, device=self.device))
        self.average_buffers()
        accuracy = self.validate(validation)
        loss_sum, correct = self.world.total(self.sums).tolist()
        best = 100 * accuracy.all > progress.best
        if logger is not None:
            logger.epoch(
                {
                    "epoch": epoch + 1,
                    "epochs": self.config.epochs,
                    "step": progress.step,
                    "learning_rate": rate,
                    "loss": loss_sum / progress.num_seen,
                    "train_accuracy": 100 * correct / progress.num_seen,
                    "images_per_s": logger.epoch_images_per_s(),
                    "data_wait_share": waits.item() / self.world.size,
                    "val": {key: None if v is None else 100 * v for key, v in dataclasses.asdict(accuracy).items()},
                }
            )
        self.sums.zero_()
        progress.num_seen = 0
        if best:
            progress.best = 100 * accuracy.all
            if self.world.is_writer:
                metadata = {"epoch": epoch + 1, "val_all": progress.best, "settings": self.run.config.fingerprint()}
                with self.signals.uncut(), self.evaluated() as network:
                    native.save(self.run.checkpoint("best"), network.state_dict(), metadata)
        self.save()
        if logger is not None:
            logger.begin_epoch(progress.step)
        self.data_wait.begin_epoch()

    @contextlib.contextmanager
    def evaluated(self) -> Iterator[Network]:
        """Yield the network to evaluate and to keep as `best`: the moving average, if there is one."""
        network = self.averaged or self.model
        with with_cosine_head(network, enabled=self.config.loss == "ldam"):
            yield network

    def validate(self, validation: Loader) -> ShotAccuracy:
        """Return the accuracy on val."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # val has its own decoder, which needs memory that training has cached
        with self.evaluated():
            predictions = self.predictor.predict(validation)
        set_training_mode(self.model, self.config)
        labels = self.splits["val"].labels
        return shot_accuracy(self.streams.merge(predictions).numpy(), labels, self.splits["train"].class_counts)
