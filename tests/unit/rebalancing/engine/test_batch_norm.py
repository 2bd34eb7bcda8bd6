"""BatchNorm's statistics of class-balanced images, kept in the run."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fastlt.config import RebalanceConfig, TrainConfig
from fastlt.features.store import FeatureStore
from fastlt.rebalancing.engine import batch_norm


def test_statistics_do_not_depend_on_how_a_gpu_computes_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimates: list[str] = []

    def estimate(store: FeatureStore, seed: int, batch_size: int) -> dict[str, Tensor]:
        estimates.append(store.precision)
        return {"bn1.running_mean": torch.ones(2)}

    monkeypatch.setattr(batch_norm, "estimate", estimate)
    for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "tf32"), ("cuda", "bf16"), ("cpu", "bf16")):
        store = object.__new__(FeatureStore)
        data = {"splits": {"train": {"fingerprint": "d"}}}
        store.run = SimpleNamespace(config=TrainConfig(), data=data, path=tmp_path)
        store.device, store.precision, store.backbone_hash = torch.device(device), precision, "w"
        store.tensors, store.folder = {"bn1.running_mean": torch.zeros(2)}, tmp_path / "features"
        batch_norm.reestimate(store, RebalanceConfig(method="crt"))
    assert estimates == ["fp32", "bf16"]  # bf16 names other files, the same ones on every device
