"""Stage 2 on live images: heads are trained on new augmented views, batch by batch, through the backbone."""

from __future__ import annotations

import contextlib
import dataclasses

import torch
from torch import Tensor, nn

from ...config import RebalanceConfig
from ...data.transforms.preprocess import Preprocess
from ...features.store import FeatureStore
from ...models import Network
from ...runtime.device import autocast, resolve_precision
from ...runtime.log import log
from ...schedule import cosine
from ..problem import Problem, RebalancedHead
from .batch_norm import batch_norms, fresh_model, training_images
from .grids import HeadGrid
from .selection import or_joint, select_head
from .sgd import MOMENTUM, GridSGD, HeadTraining, Retraining


def retrain_live(
    store: FeatureStore, method: Retraining, config: RebalanceConfig
) -> tuple[RebalancedHead, FeatureStore]:
    """Train a method's heads on images that go through the backbone again each epoch, in class-balanced order.

    Under the paper's protocol BatchNorm stays in eval mode. Under the released code's protocol its running statistics
    drift to class-balanced images, with its weights fixed; the drifted network is then the one that is scored and
    written. With `fine_tune` the last stage, or all of the network, is trained as well (the paper's ablation), with
    BatchNorm there in train mode.

    Args:
        store: The run's features.
        method: The method to train.
        config: Its settings; several learning rates or weight decays are trained side by side.

    Returns:
        (the best head, the store of the network that it belongs to).

    Raises:
        ValueError: Settings exclude each other, or training diverged.
    """
    needs_features = method.default_lr is not None and not config.lr
    problem = Problem.of_run(store, config, num_views=int(needs_features))
    training = HeadTraining.of(method, problem, config)
    model = fresh_model(store)
    grid = method.start(model.fc, config, len(training.settings))
    parts = trained_parts(model, config.fine_tune)
    set_modes(model, parts, drift=config.protocol == "released")
    train_live(grid, training, model, store)
    moved = store.with_backbone(model.state_dict(), config.method)
    problem = dataclasses.replace(problem, selection=moved.split(config.selection_split))
    chosen = select_head(grid, training, problem, config)
    still = not parts and config.protocol == "paper"  # else the joint head belongs to another backbone
    return or_joint(config.method, chosen, problem, config.select_by) if still else chosen, moved


def train_live(grid: HeadGrid, training: HeadTraining, model: Network, store: FeatureStore) -> None:
    """Train heads, and the parameters of the backbone that require gradients, on augmented training images.

    Raises:
        ValueError: The loss of every head is no longer finite.
    """
    run = store.run.config
    train = store.splits["train"]
    class_counts = torch.from_numpy(train.class_counts).to(store.device)
    sampler = training.sampler(train.labels, train.num_classes)
    optimizer = GridSGD(grid, training, class_counts, exact=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    lr, weight_decay = training.settings[0]  # a backbone is trained under one setting only
    fine_tuning = torch.optim.SGD(trained, lr, MOMENTUM, weight_decay=weight_decay) if trained else None
    preprocess = Preprocess(run.mean, run.std).to(store.device)
    precision = resolve_precision(run.precision, store.device)
    images = training_images(store, sampler, num_steps=training.epochs * len(sampler))
    log.info("live images: %d epochs of %d steps of %d", training.epochs, len(sampler), training.batch_size)
    with contextlib.closing(images):
        for step, batch in enumerate(images):
            epoch = step // len(sampler)
            with torch.set_grad_enabled(bool(trained)), autocast(store.device, precision):
                features = model.features(preprocess(batch.images, batch.jitter, batch.order))
            if step % len(sampler) == 0:
                optimizer.begin(epoch)
            inputs = grid.inputs(features.float())
            losses = training.losses(grid, inputs, batch.labels, class_counts, optimizer.done)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step([leaf.grad for leaf in grid.leaves() if leaf.grad is not None])
            for leaf in grid.leaves():
                leaf.grad = None
            if fine_tuning is not None:
                fine_tuning.param_groups[0]["lr"] = lr * cosine(epoch, training.epochs, training.protocol)
                fine_tuning.step()
                fine_tuning.zero_grad(set_to_none=True)
            if (step + 1) % len(sampler) == 0:
                report(epoch + 1, training, losses.detach())
    model.eval()


def report(epoch: int, training: HeadTraining, losses: Tensor) -> None:
    """Log every head's last loss [K] of an epoch; raise a ValueError if training diverged."""
    training.check_losses(losses)
    for loss, setting in zip(losses.tolist(), training.settings, strict=True):
        log.info("epoch %d/%d: loss %.3f at learning rate %g", epoch, training.epochs, loss, setting.lr)


def trained_parts(model: Network, fine_tune: str) -> list[nn.Module]:
    """Return the modules of the backbone that are trained: none, the last stage and what follows it, or all."""
    if fine_tune == "classifier":
        return []
    stages = model.stages()
    if fine_tune == "all":
        return stages
    if len(stages) == 1:
        raise ValueError(
            "--fine-tune: got last_block with a network that names no stages; expected one with layer4, stages, blocks "
            "or layers; choose all or classifier"
        )
    return stages[-1:]


def set_modes(model: Network, parts: list[nn.Module], *, drift: bool) -> None:
    """Put a network in eval mode, except the parts that are trained and, with `drift`, its BatchNorm layers."""
    model.eval()
    model.requires_grad_(False)
    for part in parts:
        part.train()
        part.requires_grad_(True)
    for layer in batch_norms(model) if drift else ():
        layer.train()
