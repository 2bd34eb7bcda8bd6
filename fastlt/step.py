"""The training step: its learning rate, its loss, and when it is compiled."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from .compiling import compiled
from .config import TrainConfig
from .data.loader import Loader
from .data.mixing import neighbours
from .hardware import autocast
from .loggers import first_line, log
from .losses import loss_terms
from .models import Network

T = TypeVar("T")

# Shapes: B batch, H, W image size.

MIN_STEPS_TO_COMPILE_ON_CPU = 5000  # below this a CPU's faster step does not earn the half minute of compiling back

LossFunction = Callable[..., tuple[Tensor, Tensor]]
"""(images as a ``Batch`` has them, labels [B], jitter [B, 3], order [B], and the rest of ``TrainingLoss.forward``) ->
(mean loss, number classified right)."""


def cosine(epoch: int, epochs: int) -> float:
    """Return the share of the base learning rate at ``epoch`` of ``epochs``: (1 + cos(pi t / T)) / 2."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def learning_rate(config: TrainConfig, epoch: int, done: float = 0.0) -> float:
    """Return the learning rate in epoch ``epoch`` (from 0): base (1 + cos(pi t / T)) / 2 with T epochs.

    The paper's intent is t = epoch; the released code steps its scheduler first, so that t = epoch + 1 and the last
    epoch runs at rate 0. During the warm-up it is the share of the warm-up's steps done, this one included, of that.

    Args:
        config: Has the base rate, the schedule and the warm-up.
        epoch: From 0.
        done: Share of the epoch's steps done, the one that asks included.
    """
    t = epoch + ((config.schedule or config.protocol) == "released")
    rate = config.lr * cosine(t, config.epochs)
    return rate * (epoch + done) / config.warmup_epochs if epoch < config.warmup_epochs else rate


class TrainingLoss(nn.Module):
    """From a uint8 batch to its loss: what is compiled, and what is differentiated.

    LDAM's logits are cosines, as in its authors' code: features and rows of the head are normalised, without a bias.

    Args:
        model: The network.
        preprocess: Colour operations and normalisation.
        config: Has the loss, its options and the precision.
        device: Where it runs.
        class_counts: Training images of each class, [C]; only cross entropy does without.
    """

    class_counts: Tensor | None

    def __init__(
        self,
        model: Network,
        preprocess: nn.Module,
        config: TrainConfig,
        device: torch.device,
        class_counts: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model, self.preprocess, self.config, self.device = model, preprocess, config, device
        counts = None if class_counts is None else class_counts.to(device)
        self.register_buffer("class_counts", counts, persistent=False)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        jitter: Tensor | None = None,
        order: Tensor | None = None,
        operations: Tensor | None = None,
        share: Tensor | None = None,
        epoch_share: Tensor | None = None,
        mean_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (mean loss, number of images classified as the larger part of their blend).

        Args:
            images: uint8 [B, H, W, 3], or finished floating-point ones (``data.batch.Finish``).
            labels: [B].
            jitter: Colour factors, [B, 3].
            order: Their order, [B].
            operations: RandAugment's, [B, n].
            share: Mixup's, []; B is even.
            epoch_share: Share of the training's epochs done, []: a loss may change with it.
            mean_weight: Mean weight of all images of the batch that these are a part of, [], for ldam.
        """
        with autocast(self.device, self.config.precision):
            if operations is None:
                x = self.preprocess(images, jitter, order)
            else:
                x = self.preprocess(images, jitter, order, operations)
            if share is not None:
                x = share * x + (1 - share) * neighbours(x)
            logits = self.logits(x)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = self.loss(logits, labels, epoch_share, mean_weight)
        if share is not None:
            loss = share * loss + (1 - share) * self.loss(logits, neighbours(labels), epoch_share, mean_weight)
        return loss, (logits.detach().argmax(1) == labels).sum()

    def logits(self, x: Tensor) -> Tensor:
        """Map the network's input [B, 3, H, W] to logits [B, C]."""
        if self.config.loss != "ldam":
            logits: Tensor = self.model(x)
            return logits
        features = self.model.features(x)
        return F.linear(F.normalize(features, dim=1), F.normalize(self.model.fc.weight, dim=1))

    def loss(self, logits: Tensor, labels: Tensor, epoch_share: Tensor | None, mean_weight: Tensor | None) -> Tensor:
        """Return the mean loss of logits [B, C] for labels [B]."""
        if self.config.loss == "cross_entropy":
            return F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        return loss_terms(
            self.config.loss,
            logits,
            labels,
            self.class_counts,
            epoch_fraction=epoch_share,
            label_smoothing=self.config.label_smoothing,
            mean_weight=mean_weight,
        )


def worth_compiling(config: TrainConfig, device: torch.device, num_steps: int) -> bool:
    """Say whether compiling pays over ``num_steps`` steps: on a GPU always, on a CPU in a long run."""
    return config.compile and (device.type == "cuda" or num_steps >= MIN_STEPS_TO_COMPILE_ON_CPU)


def loss_function(
    model: Network,
    preprocess: nn.Module,
    config: TrainConfig,
    device: torch.device,
    compiler: Compiler,
    class_counts: Tensor | None = None,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
) -> LossFunction:
    """Return the loss of a batch under the model.

    Args:
        model: The network.
        preprocess: Colour operations and normalisation.
        config: Settings of the run.
        device: Where it runs.
        compiler: Compiles it.
        class_counts: Training images of each class, [C].
        wrap: What the compiled module is wrapped into: data parallelism.
    """
    module = TrainingLoss(model, preprocess, config, device, class_counts)
    # Inside the wrapper: data parallelism's own code does not compile
    module.forward = compiler(module.forward)  # type: ignore[method-assign]
    return module if wrap is None else wrap(module)


class Compiler:
    """Compiles functions; where torch.compile does not work, says so once and goes on without it.

    What Inductor made is kept on disk (TORCHINDUCTOR_CACHE_DIR), so that the next run with the same shapes starts fast.

    Args:
        wanted: Whether to compile at all.
        channels_last: Whether convolutions are to have their images in channels_last memory, grouped ones too, which
            Inductor would except.
        cuda_graphs: Whether to replay what was compiled as CUDA graphs; gradients must be gone by the next call.

    Attributes:
        works: Whether functions are compiled.
    """

    def __init__(self, wanted: bool = True, *, channels_last: bool = True, cuda_graphs: bool = False) -> None:
        self.works, self.cuda_graphs = wanted, cuda_graphs
        self.options: dict[str, str | int | bool | Callable[..., Any]] = {
            "layout_optimization": channels_last,
            "force_layout_optimization": channels_last,
            "triton.cudagraphs": cuda_graphs,
        }
        # Inductor would have fp32 products rounded, and says so in a bf16 run as well
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")

    def __call__(self, eager: Callable[..., T]) -> Callable[..., T]:
        """Return the function, compiled anew for every shape of its arguments."""
        works = compiled(eager, dynamic=False, options=self.options)

        def call(*arguments: Tensor | None) -> T:
            if self.works:
                if self.cuda_graphs:
                    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                try:
                    return self.kept(works(*arguments))
                except TorchDynamoException as error:
                    log.warning(
                        "torch.compile does not work here (%s): steps run slower; see fastlt doctor", first_line(error)
                    )
                    self.works = False
            return eager(*arguments)

        return call

    def kept(self, results: T) -> T:
        """Return results that last: a CUDA graph writes its next ones where these are."""
        if not self.cuda_graphs:
            return results
        copied: T = tree_map_only(Tensor, torch.clone, results)
        return copied


class Predictor:
    """Predicts the classes of batches of one size; a smaller one is filled up, so that nothing is compiled for it.

    Args:
        model: The network.
        preprocess: Normalisation.
        config: Has the precision.
        device: Where it runs.
        compiler: Compiles it.
    """

    def __init__(
        self,
        model: Network,
        preprocess: nn.Module,
        config: TrainConfig,
        device: torch.device,
        compiler: Compiler,
    ) -> None:
        self.model, self.compiler = model, compiler

        def predicted(images: Tensor) -> Tensor:
            with autocast(device, config.precision):
                logits: Tensor = model(preprocess(images))
            return logits.argmax(1)

        self.predicted = compiler(predicted)

    @torch.no_grad()  # in inference_mode a loader thread's batches and those filled up here would be compiled for apart
    def predict(self, loader: Loader) -> list[int]:
        """Return the predicted class of every image, in order; leaves the model in eval mode.

        Args:
            loader: Its batches are as large as the first, but for the last.
        """
        self.model.eval()
        predictions = []
        size = 0
        for batch in loader:
            count = len(batch.images)
            size = size or count
            images = batch.images
            if self.compiler.works and count < size:
                images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, size - count))
            predictions.append(self.predicted(images)[:count])
        result: list[int] = torch.cat(predictions).tolist()
        return result
