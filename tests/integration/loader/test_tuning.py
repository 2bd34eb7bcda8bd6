"""How hard a loader works changes none of its images."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastlt.data.dataset import LongTailedDataset
from fastlt.data.loaders import pillow, workers
from fastlt.data.loaders.base import Tuning
from fastlt.data.loaders.loader import Loader

needs_dali = pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is None, reason="DALI is not installed")
Open = Callable[..., Loader]


@pytest.mark.parametrize("prefetch", [1, 5])
@pytest.mark.parametrize("backend", ["pillow", pytest.param("dali", marks=needs_dali)])
def test_batches_do_not_depend_on_how_many_are_under_way(
    backend: str, prefetch: int, own_dataset: LongTailedDataset, open_train: Open
) -> None:
    for index in (3, 16):  # DALI looks for broken files among the batches under way
        file: Path = own_dataset.path(index)
        file.write_bytes(file.read_bytes()[:-200])
    with open_train(own_dataset, "memory") as loader:
        expected = list(loader)
    with open_train(own_dataset, backend, prefetch=prefetch) as loader:
        batches = list(loader)
    assert [batch.ids.tolist() for batch in batches] == [batch.ids.tolist() for batch in expected]
    for one, other in zip(batches, expected, strict=True):
        assert (one.images.int() - other.images.int()).abs().float().mean() < (1e-9 if backend == "pillow" else 0.5)


def test_workers_have_as_many_batches_ready(
    dataset: LongTailedDataset, open_train: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaders: list[dict[str, Any]] = []

    def watched(*arguments: Any, **settings: Any) -> Any:
        loaders.append(settings)
        return workers.Workers(*arguments, **settings)

    monkeypatch.setattr(pillow, "Workers", watched)
    with open_train(dataset, "pillow", prefetch=3, num_threads=2, num_steps=2) as loader:
        list(loader)
    assert [(each["depth"], each["num_workers"]) for each in loaders] == [(3, 2)]


@needs_dali
def test_a_gpu_shares_the_files_with_its_hardware_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlt.data.loaders import dali_graph

    pipelines: list[dict[str, Any]] = []
    graphs: list[dict[str, Any]] = []

    class Pipeline:
        def __init__(self, **settings: Any) -> None:
            pipelines.append(settings)

        def __enter__(self) -> "Pipeline":
            return self

        def __exit__(self, *_: object) -> None: ...

        def set_outputs(self, *_: object) -> None: ...

        def build(self) -> None: ...

    def watched(decode: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **settings: Any) -> Any:
            graphs.append(settings)
            return decode(*inputs, **settings)

        return call

    for name in ("image", "image_slice"):
        monkeypatch.setattr(dali_graph.fn.decoders, name, watched(getattr(dali_graph.fn.decoders, name)))
    monkeypatch.setattr(dali_graph, "Pipeline", Pipeline)
    tuning = Tuning(num_threads=3, prefetch=4, hw_decoder_load=0.3)
    common: dict[str, Any] = {"size": 8, "interpolation": "bilinear", "batch_size": 2, "tuning": tuning}
    for boxes in (False, True):
        for device in ("cpu", "cuda:0"):
            dali_graph.ImagePipeline(lambda: None, boxes=boxes, device=torch.device(device), **common)  # type: ignore[arg-type, return-value]
    assert [graph.get("hw_decoder_load") for graph in graphs] == [None, 0.3, None, 0.3]
    assert [graph["device"] for graph in graphs] == ["cpu", "mixed", "cpu", "mixed"]
    assert {(each["num_threads"], each["prefetch_queue_depth"]) for each in pipelines} == {(3, 4)}
    assert [each["device_id"] for each in pipelines] == [None, 0, None, 0]
