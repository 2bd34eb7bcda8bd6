"""The log of a training: a progress bar or plain lines, metrics.jsonl, and TensorBoard if it is installed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..config import SHOT_GROUPS, TrainConfig
from ..data.dataset import LongTailedDataset
from ..files import check_regular, naming, replacing
from ..files.reading import decode_json
from ..runtime.log import log
from .events import Events


def clock(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def announce(
    config: TrainConfig,
    dataset: LongTailedDataset,
    steps_per_epoch: int,
    device: torch.device,
    num_processes: int,
    loader: str,
) -> None:
    """Log what is trained on what."""
    log.info(
        "training %s on %s: %s images, %d classes, imbalance ratio %.0f; "
        "%d epochs of %d steps on %s%s in %s, %s loader",
        config.backbone,
        config.dataset,
        f"{len(dataset):,}",
        dataset.num_classes,
        dataset.imbalance_ratio,
        config.epochs,
        steps_per_epoch,
        f"{num_processes} x " if num_processes > 1 else "",
        device.type if num_processes > 1 else device,
        config.precision,
        loader,
    )


class TrainingLog:
    """The log of a training run.

    Args:
        console: The console for the bar.
        num_steps: Steps of the whole run.
        first_step: Steps done before this process began.
        batch_size: Images per step.
        metrics: The metrics.jsonl file.
        tensorboard: Folder for TensorBoard's event files.
    """

    def __init__(
        self, *, console: Console, num_steps: int, first_step: int, batch_size: int, metrics: Path, tensorboard: Path
    ) -> None:
        self.console = console
        self.num_steps, self.batch_size = num_steps, batch_size
        self.metrics = metrics
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[status]}"),
            console=console,
        )
        self.task = self.bar.add_task("training", total=num_steps, completed=first_step, status="starting")
        self.interactive = console.is_terminal
        self.mark(first_step)
        self.begin_epoch(first_step)
        self.events = Events(tensorboard, first_step)

    def __enter__(self) -> Self:
        """Start the bar."""
        if self.interactive:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar and close the files."""
        self.bar.stop()
        self.events.close()

    def begin_epoch(self, step: int) -> None:
        """Start the clock for the epoch's rate at `step`, after validation."""
        self.mark(step)
        self.epoch_step, self.epoch_at = step, self.marked_at

    def epoch_images_per_s(self) -> float:
        """Return the training rate of the epoch up to its last log step."""
        return (self.marked_step - self.epoch_step) * self.batch_size / max(self.marked_at - self.epoch_at, 1e-9)

    def mark(self, step: int) -> None:
        """Start the clock for the next rate at `step`."""
        self.marked_step, self.marked_at = step, time.perf_counter()

    def step(self, *, step: int, epoch: str, loss: float, learning_rate: float) -> None:
        """Report a log step: mean loss since the last one, rate and time left."""
        now = time.perf_counter()
        num_images = (step - self.marked_step) * self.batch_size
        images_per_s = num_images / max(now - self.marked_at, 1e-9)
        self.mark(step)
        left_s = (self.num_steps - step) * self.batch_size / max(images_per_s, 1e-9)
        status = f"loss {loss:.3f}  {images_per_s:,.0f} img/s  {clock(left_s)} left"
        if self.interactive:
            self.bar.update(self.task, completed=step, description=f"epoch {epoch}", status=status)
        else:
            log.info("epoch %s  step %d/%d  %s", epoch, step, self.num_steps, status)
        self.events.add(
            {"train/loss": loss, "train/learning_rate": learning_rate, "train/images_per_s": images_per_s}, step
        )

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Append an epoch's record to metrics.jsonl and log it as one line."""
        with naming(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
        val = record["val"]
        shots = "  ".join(f"{name} {val[name]:.1f}" for name in SHOT_GROUPS if val[name] is not None)
        log.info(
            "epoch %d/%d  loss %.3f  train %.1f %%  val %.1f %% (%s)  waited for data %.0f %%",
            record["epoch"],
            record["epochs"],
            record["loss"],
            record["train_accuracy"],
            val["all"],
            shots,
            100 * record["data_wait_share"],
        )
        curves = {"train/accuracy": record["train_accuracy"], "train/data_wait_share": record["data_wait_share"]}
        self.events.add(curves | {f"val/{name}": value for name, value in val.items()}, record["step"])


class EpochRecord(TypedDict, total=False):
    """What is read again of an epoch's record."""

    epoch: int
    step: int
    loss: float | None
    val: dict[str, float | None] | None


def read_records(metrics: Path) -> Iterator[tuple[bytes, EpochRecord]]:
    """Yield the lines of a metrics file with their records; a damaged line, as a crash leaves it, is left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no regular file.
    """
    check_regular(metrics, "the records of a training")
    for line in metrics.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            yield line, decode_json(line, EpochRecord, source=metrics, remedy="")


def drop_records_after(metrics: Path, step: int) -> None:
    """Remove the records of epochs that a resumed run will train again, and damaged lines."""
    if not metrics.exists():
        return
    lines = [line for line, record in read_records(metrics) if record.get("step", step + 1) <= step]
    with replacing(metrics) as partial:
        partial.write_bytes(b"".join(line + b"\n" for line in lines))
