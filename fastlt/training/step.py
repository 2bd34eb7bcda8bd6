"""The training step: its input, its loss, when it is compiled, and predictions on val."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import TrainConfig
from ..data.loaders.loader import Loader
from ..data.transforms.mixup import neighbours
from ..losses import batch_loss, mean_of_own, own_loss
from ..models import Network
from ..runtime.compiling import Compiler, filled_up
from ..runtime.device import autocast

# Shapes: B batch, H, W image size.

MIN_STEPS_TO_COMPILE_ON_CPU = 5000  # with fewer steps, compiling takes longer than it saves


class StepInput(NamedTuple):
    """Input of a training step: the images of a batch, or of a piece of one, and what was drawn for them.

    Attributes:
        images: uint8 [B, H, W, 3].
        labels: int64 [B].
        jitter: Colour factors, [B, 3].
        order: Order of the colour operations, [B].
        operations: RandAugment's operations, [B, n].
        mixup_share: Mixup's share, []; B is even.
        epoch_share: Share of the training's epochs done, [], with which a loss may change.
        mean_weight: Mean weight of all images in the whole batch, [], for ldam.
    """

    images: Tensor
    labels: Tensor
    jitter: Tensor | None = None
    order: Tensor | None = None
    operations: Tensor | None = None
    mixup_share: Tensor | None = None
    epoch_share: Tensor | None = None
    mean_weight: Tensor | None = None

    def pieces(self, number: int) -> Iterator[StepInput]:
        """Yield the batch in `number` pieces of equal size; values that hold for the whole batch are in each piece."""
        columns = [
            tensor.chunk(number) if tensor is not None and tensor.dim() > 0 else (tensor,) * number for tensor in self
        ]
        for piece in zip(*columns, strict=True):
            yield StepInput(*piece)


LossFunction = Callable[[StepInput], tuple[Tensor, Tensor]]
"""Input of a step -> (mean loss [], number of images classified correctly [])."""


class TrainingLoss(nn.Module):
    """The part of a step that is compiled and differentiated: from a batch to its loss.

    LDAM's logits are cosines, as in its authors' code: features and rows of the head are normalised, without a bias.

    Args:
        model: The network.
        preprocess: Colour operations and normalisation.
        config: Has the loss, its options and the precision.
        device: The device it runs on.
        class_counts: Training images of each class, [C]; cross entropy needs none.
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
        self.own_loss = own_loss(config.loss)  # here, since compiled code cannot import it
        counts = None if class_counts is None else class_counts.to(device)
        self.register_buffer("class_counts", counts, persistent=False)

    def forward(self, batch: StepInput) -> tuple[Tensor, Tensor]:
        """Return (mean loss, number of images classified as the larger part of their blend)."""
        share = batch.mixup_share
        with autocast(self.device, self.config.precision):
            # As the network's first product takes it, unless mixup has to blend it before
            dtype = torch.bfloat16 if self.config.precision == "bf16" and share is None else torch.float32
            x = self.preprocess(batch.images, batch.jitter, batch.order, batch.operations, dtype)
            if share is not None:
                x = share * x + (1 - share) * neighbours(x)
            logits = self.logits(x)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = self.loss(logits, batch.labels, batch)
        if share is not None:
            loss = share * loss + (1 - share) * self.loss(logits, neighbours(batch.labels), batch)
        return loss, (logits.detach().argmax(1) == batch.labels).sum()

    def logits(self, x: Tensor) -> Tensor:
        """Map the network's input [B, 3, H, W] to logits [B, C]."""
        if self.config.loss != "ldam":
            logits: Tensor = self.model(x)
            return logits
        features = self.model.features(x)
        return F.linear(F.normalize(features, dim=1), F.normalize(self.model.fc.weight, dim=1))

    def loss(self, logits: Tensor, labels: Tensor, batch: StepInput) -> Tensor:
        """Return the mean loss of logits [B, C] for labels [B], the batch's own or its neighbours'."""
        if self.config.loss == "cross_entropy":
            return F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        if self.own_loss is not None:
            assert self.class_counts is not None
            return mean_of_own(self.own_loss, logits, labels, self.class_counts)
        return batch_loss(
            self.config.loss,
            logits,
            labels,
            self.class_counts,
            epoch_fraction=batch.epoch_share,
            label_smoothing=self.config.label_smoothing,
            mean_weight=batch.mean_weight,
        )


def worth_compiling(config: TrainConfig, device: torch.device, num_steps: int) -> bool:
    """Return whether compiling pays off over `num_steps` steps: always on a GPU, in a long run on a CPU."""
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
    """Return the function from a step's input to the loss under the model.

    Args:
        model: The network.
        preprocess: Colour operations and normalisation.
        config: Settings of the run.
        device: The device it runs on.
        compiler: Compiles it.
        class_counts: Training images of each class, [C].
        wrap: Wraps the compiled module, for data parallelism.
    """
    module = TrainingLoss(model, preprocess, config, device, class_counts)
    # Compiled inside the wrapper, since the code of data parallelism does not compile
    module.forward = compiler(module.forward)  # type: ignore[method-assign]
    return module if wrap is None else wrap(module)


def copy_gradients(model: nn.Module) -> None:
    """Replace every gradient by a copy in memory of its own, all of them in a few launches."""
    gradients = {parameter: parameter.grad for parameter in model.parameters() if parameter.grad is not None}
    copies = torch._foreach_mul(list(gradients.values()), 1.0)
    for parameter, copy in zip(gradients, copies, strict=True):
        parameter.grad = copy


class ValidationPredictor:
    """A predictor of classes; it pads a smaller last batch, so that only one batch size is compiled.

    Args:
        model: The network.
        preprocess: Normalisation.
        config: Has the precision.
        device: The device it runs on.
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

        def predict_batch(images: Tensor) -> Tensor:
            with autocast(device, config.precision):
                logits: Tensor = model(preprocess(images))
            return logits.argmax(1)

        self.predict_batch = compiler(predict_batch)

    # Not inference_mode, which would compile separately for a loader thread's batches and those padded here
    @torch.no_grad()
    def predict(self, loader: Loader) -> Tensor:
        """Return the predicted class of every image, int64 [N] on the CPU; leaves the model in eval mode.

        Args:
            loader: Batches of one size; the last may be smaller.
        """
        self.model.eval()
        predictions = []
        size = 0
        for batch in loader:
            count = len(batch.images)
            size = size or count
            images = batch.images
            if self.compiler.works and count < size:
                images = filled_up(images, size)
            predictions.append(self.predict_batch(images)[:count])
        return torch.cat(predictions).cpu()
