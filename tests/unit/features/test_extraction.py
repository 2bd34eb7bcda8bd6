"""Images through a backbone: one size for a compiled network, and rows on the host."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastlt.config import TrainConfig
from fastlt.features.extraction import Extractor, on_host
from fastlt.models import create_model

CPU = torch.device("cpu")


def batches(*sizes: int) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [
        SimpleNamespace(
            images=torch.randint(0, 256, (size, 32, 32, 3), dtype=torch.uint8, generator=generator),
            jitter=0.6 + 0.8 * torch.rand(size, 3, generator=generator),
            order=torch.randint(0, 6, (size,), dtype=torch.uint8, generator=generator),
        )
        for size in sizes
    ]


def new_extractor() -> Extractor:
    torch.manual_seed(0)
    return Extractor(create_model("resnet8", 5), TrainConfig(lr=0.1, image_size=32), CPU)


def extracted(extractor: Extractor, *sizes: int, precision: str = "fp32") -> list[Tensor]:
    loader: Any = batches(*sizes)
    with extractor.computing(precision):
        return list(extractor.features(loader, sum(sizes), precision))


def test_where_batches_are_filled_up_the_network_sees_one_size_and_features_are_the_same() -> None:
    extractor = new_extractor()
    plain = extracted(extractor, 4, 4, 1)
    assert [len(part) for part in plain] == [4, 4, 1]
    function = extractor.function(1, "fp32")
    seen = []

    def of_one_size(*inputs: Tensor | None) -> Tensor:
        seen.append([len(part) for part in inputs if part is not None])
        return function(*inputs)  # type: ignore[arg-type]

    extractor.pads, extractor.compiled["fp32"] = True, of_one_size
    for one, other in zip(extracted(extractor, 4, 4, 1), plain, strict=True):
        torch.testing.assert_close(one, other)
    assert seen == [[4, 4, 4]] * 3


def test_a_cpu_computes_in_full_precision_whatever_is_asked_for() -> None:
    exact, low = (torch.cat(extracted(new_extractor(), 3, precision=each)) for each in ("fp32", "bf16"))
    assert torch.equal(low, exact)


def test_rows_on_the_host_keep_their_order() -> None:
    rows = [torch.full((2,), float(at)) for at in range(3)]
    assert [int(row[0]) for row in on_host(rows)] == [0, 1, 2]


def test_a_gpu_computes_the_next_rows_while_those_before_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    copied = []

    def computed() -> Iterator[Any]:
        for at in range(3):
            done.append(f"compute {at}")
            yield SimpleNamespace(at=at, device=torch.device("cuda"), shape=(2,), dtype=torch.float32)

    def copy(rows: SimpleNamespace, *, non_blocking: bool) -> int:
        assert non_blocking
        copied.append(rows.at)
        return copied[-1]

    def record_event() -> SimpleNamespace:
        at = copied[-1]
        return SimpleNamespace(synchronize=lambda: done.append(f"wait {at}"))

    monkeypatch.setattr(torch, "empty", lambda *_, pin_memory, **__: SimpleNamespace(copy_=copy))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(record_event=record_event))
    for rows in on_host(computed()):
        done.append(f"write {rows}")
    first = ["compute 0", "compute 1", "wait 0", "write 0"]
    assert done == [*first, "compute 2", "wait 1", "write 1", "wait 2", "write 2"]
