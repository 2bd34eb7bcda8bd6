"""The training step: its learning rate, its loss, and when it is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn import functional as F

from .config import TrainConfig
from .data.loader import Loader
from .hardware import autocast
from .loggers import log
from .models import Network

# Shapes: B batch, H, W image size.

MIN_STEPS_TO_COMPILE_ON_CPU = 5000  # below this a CPU's faster step does not earn the half minute of compiling back

LossFunction = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]
"""(images uint8 [B, H, W, 3], labels [B], jitter [B, 3], order [B]) -> (mean loss, number classified right)."""


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Return the learning rate of epoch ``epoch`` (from 0): base (1 + cos(pi t / T)) / 2 with T epochs.

    The paper's intent is t = epoch; the released code steps its scheduler first, so that t = epoch + 1 and the last
    epoch runs at rate 0.
    """
    t = epoch + (config.protocol == "released")
    return config.lr * 0.5 * (1 + math.cos(math.pi * t / config.epochs))


def loss_function(
    model: Network, preprocess: nn.Module, config: TrainConfig, device: torch.device, num_steps: int
) -> LossFunction:
    """Return the loss of a batch under the model, compiled where that pays over ``num_steps`` steps."""

    def loss_and_hits(
        images: Tensor, labels: Tensor, jitter: Tensor | None, order: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        with autocast(device, config.precision):
            logits = model(preprocess(images, jitter, order))
        loss = F.cross_entropy(logits.float(), labels)
        return loss, (logits.detach().argmax(1) == labels).sum()

    pays = device.type == "cuda" or num_steps >= MIN_STEPS_TO_COMPILE_ON_CPU
    return compiled_or_eager(loss_and_hits) if config.compile and pays else loss_and_hits


def compiled_or_eager(eager: LossFunction) -> LossFunction:
    """Compile a function; where the compiler does not work, say so once and go on without it."""
    run = torch.compile(eager, dynamic=False)

    def call(images: Tensor, labels: Tensor, jitter: Tensor | None, order: Tensor | None) -> tuple[Tensor, Tensor]:
        nonlocal run
        try:
            return run(images, labels, jitter, order)
        except TorchDynamoException as error:
            if run is eager:
                raise
            reason = str(error).strip().splitlines()[0]
            log.warning("torch.compile does not work here (%s): steps run slower; see fastlt doctor", reason)
            run = eager
            return run(images, labels, jitter, order)

    return call


@torch.inference_mode()
def predict(model: Network, preprocess: nn.Module, loader: Loader, device: torch.device, precision: str) -> list[int]:
    """Return the predicted class of every image of an evaluation loader, in order; leaves the model in eval mode."""
    model.eval()
    predictions = []
    for batch in loader:
        with autocast(device, precision):
            logits = model(preprocess(batch.images))
        predictions.append(logits.argmax(1))
    result: list[int] = torch.cat(predictions).tolist()
    return result
