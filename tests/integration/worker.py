"""One process of a training in float64, for test_distributed: started alone or by torchrun.

Arguments: a JSON object of settings, the folder for records of what was trained on, and a step at which the last
process sends itself SIGTERM (0: never).
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce

from fastlt import TrainConfig, train
from fastlt.data.loaders.base import Batch
from fastlt.training import network
from fastlt.training.signals import InterruptedTrainingError
from fastlt.training.step import StepInput
from fastlt.training.trainer import Trainer


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the images of all processes; torch's own refuses the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        sums = torch.stack([x.sum((0, 2, 3)), (x * x).sum((0, 2, 3))])
        count = x.numel() // x.shape[1]
        if distributed.is_initialized():
            sums, count = all_reduce(sums), count * distributed.get_world_size()
        mean, variance = sums[0] / count, sums[1] / count - (sums[0] / count) ** 2
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        normalised = (x - mean[:, None, None]) * (variance + self.eps).rsqrt()[:, None, None]
        return normalised * self.weight[:, None, None] + self.bias[:, None, None]


def share_batch_norm(model: nn.Module) -> None:
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(model, name, SharedBatchNorm2d(child.num_features))
        else:
            share_batch_norm(child)


def main() -> None:
    settings, records, stop = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(1)
    create, take = network.create_model, Trainer.step_input

    def create_in_float64(*args: object) -> nn.Module:
        model = create(*args)
        if settings.get("bn_group") is None:
            share_batch_norm(model)
        model.conv1.register_forward_pre_hook(lambda _module, args: tuple(x.double() for x in args))
        return model.double()

    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def take_and_record(self: Trainer, batch: Batch) -> StepInput:
        seen.append((batch.ids, batch.images.numpy().copy(), batch.jitter.numpy().copy()))
        if len(seen) == stop and rank == size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, batch)

    network.create_model, Trainer.step_input = create_in_float64, take_and_record
    try:
        train(TrainConfig.from_json(settings, source="test"))
    except InterruptedTrainingError as stopped:
        print(stopped)
    ids, images, jitter = (np.stack(each) for each in zip(*seen, strict=True))
    np.savez(records / f"rank{rank}.npz", ids=ids, images=images, jitter=jitter)


if __name__ == "__main__":
    main()
