"""Stopping on a signal, after the step is finished and the state is saved."""

from __future__ import annotations

import signal

from ..run import Run
from ..runtime.output import quoted


class InterruptedTrainingError(Exception):
    """Training stopped on a signal, after saving everything needed to continue."""

    def __init__(self, run: Run, signum: int, step: int, num_steps: int) -> None:
        self.run, self.signum = run, signum
        super().__init__(
            f"stopped by {signal.Signals(signum).name} at step {step} of {num_steps}; everything is saved. "
            f"Continue with: fastlt train --resume --out {quoted(run.path)}"
        )
