"""TensorBoard's event files, if TensorBoard is installed; a disk that fails costs the curves, not the training."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..runtime.log import log

WRITER_THREAD = "_AsyncWriterThread"


class Events:
    """Curves for TensorBoard.

    Args:
        folder: Where the event files go.
        first_step: Curves of an earlier try end before this step.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self.folder = folder
        self.writer: Any = None
        self.hook = threading.excepthook
        threading.excepthook = self.on_thread_error
        with self.losing_no_more(), contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder), purge_step=first_step)

    def add(self, values: Mapping[str, float | None], step: int) -> None:
        """Add a point to every curve by name; None adds none."""
        with self.losing_no_more():
            for name, value in values.items():
                if self.writer is not None and value is not None:
                    self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left, and close the files."""
        with self.losing_no_more():
            if self.writer is not None:
                self.writer.close()
        threading.excepthook = self.hook

    @contextlib.contextmanager
    def losing_no_more(self) -> Iterator[None]:
        """Turn an error inside a block into a warning, and write no more."""
        try:
            yield
        except Exception as error:
            self.writer = None
            reason = getattr(error, "strerror", None) or error
            log.warning("%s cannot be written (%s): TensorBoard's curves end here", self.folder, reason)

    def on_thread_error(self, args: threading.ExceptHookArgs) -> None:
        """Report a thread's error, but not that of TensorBoard's writer, which raises it again at the next call."""
        if type(args.thread).__name__ != WRITER_THREAD:
            self.hook(args)
