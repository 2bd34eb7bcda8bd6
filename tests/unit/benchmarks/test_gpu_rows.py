"""The rows of a GPU run: which there are, and how calls are timed."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from fastlt.models import create_model
from fastlt.timing.step import VARIANTS


@pytest.fixture(scope="module")
def modules(script: Callable[[str], Any]) -> dict[str, Any]:
    names = ("rows", "worker", "operations", "layers", "steps", "inputs")
    return {name: script(f"gpu.{name}") for name in names}


def shape_of(conv: nn.Conv2d, images: torch.Tensor) -> tuple[int, ...]:
    return conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.groups, conv.stride[0], images.shape[2]


def test_layers_are_those_of_the_network(modules: dict[str, Any]) -> None:
    convs, norms = modules["layers"].layers_of(224, (3, 4, 6, 3))
    model = create_model("resnext50_32x4d", 10).to("meta")
    seen: list[tuple[int, ...]] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda conv, given, _: seen.append(shape_of(conv, given[0])))
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert Counter(tuple(conv) for conv in convs.elements()) == Counter(seen)
    assert norms.total() == 1 + 3 * 16  # a shortcut's is not rectified
    assert sum(norm.residual for norm in norms.elements()) == 16


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_names_of_rows_are_their_own_and_what_they_rest_on_is_checked(modules: dict[str, Any], device: str) -> None:
    target = modules["rows"].Target(torch.device(device))
    for call in "abc":
        rows = [row for name in list(modules)[2:] for row in modules[name].rows(call, target)]
        assert len({row.name for row in rows}) == len(rows)
        checked = {row.name.removeprefix("checks: ") for row in rows if row.name.startswith("checks: ")}
        assert {operation for row in rows for operation in row.operations} <= checked


def test_every_variant_exists(modules: dict[str, Any]) -> None:
    steps = modules["steps"]
    groups = (steps.PAIR, steps.RIVALS, steps.EAGER, steps.BATCHES, steps.OTHERS, steps.SWITCHES, steps.CHANGES)
    assert {step.variant for group in groups for step in group} <= {*VARIANTS}
    theirs = {step.backbone for group in groups for step in group if step.variant.startswith("torchvision")}
    assert theirs <= {"resnet50", "resnet152", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"}


def test_a_modules_failure_is_a_row(modules: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ending_module.py").write_text("raise SystemExit('planted')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    target = modules["rows"].Target(torch.device("cpu"))
    for name, why in (("no_such_module", "ModuleNotFoundError: No module"), ("ending_module", "SystemExit: planted")):
        [row] = modules["worker"].rows_of([name], "a", target)
        with pytest.raises(RuntimeError, match=why):
            row.figures()


def test_inputs_rotate(modules: dict[str, Any]) -> None:
    rows, seen = modules["rows"], []
    figure = rows.timed(rows.Target(torch.device("cpu")), seen.append, 3)
    assert seen[:6] == [0, 1, 2, 0, 1, 2]
    assert figure["ms"] > 0
    assert rows.rates({"ms": 2.0}, 4e9, 6e9) == {"ms": 2.0, "tb_per_s": 2.0, "tflops": 3.0}


def test_what_a_cache_could_hold_rotates(modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(_: object, call: Callable[[int], object], sets: int = 1) -> dict[str, Any]:
        call(sets - 1)
        return {"ms": 1.0, "sets": sets}

    operations, target = modules["operations"], modules["rows"].Target(torch.device("cpu"))
    monkeypatch.setattr(operations, "timed", timed)
    monkeypatch.setattr(type(target), "sets", lambda *_: 5)
    weight, batch = torch.randn(7, 3), (torch.randn(4, 3), torch.arange(4))
    figures = [*operations.images(target), *operations.cached_products(target, weight, [batch, batch])]
    assert {figure["sets"] for figure in figures} == {5}


def test_a_step_without_the_graphs_it_should_have_says_so(
    modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, target = modules["steps"], modules["rows"].Target(torch.device("cpu"))

    def clock(*_: object, **__: object) -> tuple[float, None]:
        counters["inductor"]["cudagraph_skips"] += 2
        return 1.0, None

    monkeypatch.setattr(steps, "clock", clock)
    counters["inductor"]["cudagraph_skips"] = 1  # an earlier row's
    figures = [next(steps.one(target, steps.Step(variant))) for variant in ("fastlt CUDA graphs", "fastlt")]
    assert [figure.get("graphs_skipped") for figure in figures] == [2, None]


def test_a_plain_loader_that_would_hang_is_not_started(
    modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, target = modules["steps"], modules["rows"].Target(torch.device("cpu"))
    monkeypatch.setattr(steps, "files", lambda _: None)
    monkeypatch.setattr(steps, "lacking_memory", lambda *_: "too little of /dev/shm")
    [figure] = steps.plain_end_to_end(target, steps.EAGER[0])
    assert figure["error"] == "too little of /dev/shm"


def test_a_step_that_lacks_memory_beside_others_is_compiled_alone(
    modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, target, seen = modules["steps"], modules["rows"].Target(torch.device("cpu")), []

    def compile_one(_: object, step: Any) -> float:
        seen.append(step.batch)
        if step.batch == 512 and len(seen) < 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        if step.batch == 64:
            raise ValueError("no such step")
        return float(step.batch)

    monkeypatch.setattr(steps, "compile_one", compile_one)
    with ThreadPoolExecutor(1) as pool:
        found = steps.compile_in(pool, target, tuple(steps.Step(batch=batch) for batch in (512, 64, 128)))
        figures = {figure["name"]: figure.get("seconds", figure.get("error")) for figure in found}
    assert figures == {"fastlt, batch 512": 512.0, "fastlt, batch 64": "no such step", "fastlt, batch 128": 128.0}


def test_a_step_of_stage_2_is_told_without_what_is_done_once(
    modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    operations, now = modules["operations"], [0.0]

    def train_grid(_: object, training: Any, __: object) -> None:
        now[0] += 100 + 0.5 * training.epochs * 4  # of four steps each

    monkeypatch.setattr(operations, "train_grid", train_grid)
    monkeypatch.setattr(operations, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    target = modules["rows"].Target(torch.device("cpu"))
    figures = {figure["name"]: figure for figure in operations.stage2(target, "lws", (32, 50, 16))}
    assert figures["second training"]["seconds"] == 108
    assert figures["a step"]["ms"] == 500


def test_an_error_is_a_figure_unless_the_device_is_broken(
    modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = modules["rows"]

    def fail() -> dict[str, Any]:
        raise RuntimeError("illegal access\nof memory")

    assert list(rows.attempt("one", fail)) == [{"name": "one", "error": "illegal access"}]
    monkeypatch.setattr(rows, "is_broken", lambda: True)
    with pytest.raises(RuntimeError):
        list(rows.attempt("one", fail))


def test_a_process_without_random_numbers_measures_no_more(
    modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rand(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name in ("zeros", "rand"):
        monkeypatch.setattr(torch, name, lambda *_, **__: torch.ones(1))
    assert not modules["rows"].is_broken()
    monkeypatch.setattr(torch, "rand", rand)
    assert modules["rows"].is_broken()


def test_launches_are_the_gpus_own(modules: dict[str, Any]) -> None:
    times = {"kernel": 3000.0, "slow kernel": 9000.0, "cudaLaunchKernel": 0.0, "range": 12000.0}
    events = [
        SimpleNamespace(key=key, count=4, self_device_time_total=time, is_user_annotation=key == "range")
        for key, time in times.items()
    ]
    assert modules["steps"].kernels_of(events, 2, True) == [("slow kernel", 4.5, 2.0), ("kernel", 1.5, 2.0)]


def test_a_row_tells_what_it_had_before_its_error(modules: dict[str, Any]) -> None:
    def figures() -> Iterator[dict[str, Any]]:
        yield {"name": "first", "ms": 1.0}
        raise ValueError("no more")

    told: list[dict[str, Any]] = []
    assert modules["worker"].measure(modules["rows"].Row("t: row", figures), told.append) == "ValueError: no more"
    assert told == [{"row": "t: row", "name": "first", "ms": 1.0}]


def test_ratios_are_those_to_the_product_of_the_same_group(modules: dict[str, Any]) -> None:
    @modules["operations"].beside_product
    def figures() -> Iterator[dict[str, Any]]:
        for name, ms in (("a: product", 2.0), ("a: ours", 3.0), ("b: product", 4.0), ("b: ours", 3.0)):
            yield {"name": name, "ms": ms}
        yield {"name": "b: theirs", "error": "out of memory"}

    assert [figure.get("times_product") for figure in figures()] == [1.0, 1.5, 1.0, 0.75, None]
