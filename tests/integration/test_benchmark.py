"""`fastlt benchmark step` and `fastlt benchmark loader`: what they print is what they measured."""

import dataclasses
import functools
import importlib.machinery
import json
import sys
import types
import unittest.mock
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastlt import cli
from fastlt.config import LOADERS
from fastlt.data.loaders.loader import train_loader
from fastlt.data.sampler import LongTailSampler
from fastlt.data.transforms.augmentation import Augmentation
from fastlt.models import create_model
from fastlt.timing import end_to_end, peers, step, tune
from fastlt.timing import loader as timed_loader
from fastlt.timing.end_to_end import OurLoader, PlainLoader, rate, train_on
from fastlt.timing.loader import photographs
from fastlt.timing.traffic import training_bytes
from fastlt.training.step import StepInput

CPU = torch.device("cpu")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fastlt", "benchmark", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_step_times_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "step.json"
    options = ["--batch-size", "8", "--repeats", "2", "--device", "cpu", "--json", str(out)]
    assert run(monkeypatch, "step", *options, "--variants", "plain", "fastlt eager", "torchvision compiled") == 0
    record = json.loads(out.read_text())
    plain, ours, peer = record["results"]
    assert plain["images_per_s"] > 0
    assert ours["images_per_s"] > 0
    assert ours["bandwidth_share"] > 0
    assert peer["backbone"] == "resnet8"
    assert "torchvision" in peer["error"]  # torchvision has no resnet8
    assert record["machine"]["torch"] == torch.__version__


class Peers(types.ModuleType):
    """Stands in for torchvision.models and for timm."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.resnet8 = functools.partial(create_model, "resnet8")
        self.create_model = create_model

    def is_model(self, name: str) -> bool:
        return name == "resnet8"


def test_other_libraries_networks_are_fed_floats_and_set_against_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("torchvision", "torchvision.models", "timm"):
        monkeypatch.setitem(sys.modules, name, Peers(name))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    libraries = ["torchvision compiled", "timm compiled"]
    out = tmp_path / "step.json"
    options = ["--batch-size", "4", "--repeats", "1", "--device", "cpu", "--json", str(out)]
    assert run(monkeypatch, "step", *options, "--variants", "fastlt", *libraries) == 0
    ours, *theirs = json.loads(out.read_text())["results"]
    assert [row["variant"] for row in theirs] == libraries
    printed = capsys.readouterr().out
    for row in theirs:
        ratio = ours["images_per_s"] / row["images_per_s"]
        assert f"resnet8: fastlt makes {ratio:.2f} x the images of {row['variant']}" in printed
    train_step, _ = step.build("resnet8", "timm compiled", device=CPU, batch_size=2, image_size=32)
    assert train_step(StepInput(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))).isfinite()
    with pytest.raises(ImportError, match=r"\bresnet9\b"):
        peers.network_of("timm", "resnet9")


def test_deterministic_is_timed_with_deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def clock(*_: object, **__: object) -> tuple[float, None]:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))
        return 1.0, None

    monkeypatch.setattr(step, "clock", clock)
    variants = ("plain", "fastlt eager", "fastlt deterministic", "fastlt")
    measured = step.measure(["resnet8"], variants=variants, device=CPU, batch_size=2, image_size=32)
    assert [result.variant for result in measured] == list(variants)
    assert seen == [(False, False), (False, True), (True, False), (False, True)]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_variant_is_the_trainers_step_with_one_setting_turned() -> None:
    assert set(step.OURS) | set(peers.PEERS) == set(step.VARIANTS)
    ours = dataclasses.asdict(step.settings("fastlt"))
    for name in step.OURS:
        changed = dataclasses.asdict(step.settings(name)).items() - ours.items()
        assert len(changed) == (name != "fastlt"), name


@pytest.mark.parametrize("channels_last", [False, True])
def test_activations_lie_as_the_switch_says(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(step.OURS, "tried", {"channels_last": channels_last, "compile": False})
    layouts = []

    def note(network: torch.nn.Module) -> None:
        network.layer1[0].conv2.register_forward_hook(lambda *seen: layouts.append(seen[2].stride(1) == 1))

    train, _ = step.build("resnet10", "tried", device=CPU, batch_size=2, image_size=64, change=note)
    train()
    assert layouts == [channels_last]


def test_colours_are_jittered_where_that_is_asked_for() -> None:
    losses = []
    for color_jitter in (False, True):
        torch.manual_seed(0)
        train, _ = step.build(
            "resnet8",
            "fastlt eager",
            device=CPU,
            batch_size=4,
            image_size=32,
            color_jitter=color_jitter,
        )
        losses.append(train().item())
    assert losses[0] != losses[1]


def test_a_step_that_did_not_compile_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    (result,) = step.measure(["resnet8"], variants=["fastlt"], device=CPU, batch_size=2, image_size=32)
    assert result.images_per_s is None
    assert "torch.compile does not work here" in str(result.error)


def test_a_cpu_is_spared_what_only_a_gpu_has() -> None:
    on_cpu, on_gpu = (step.worth_timing(torch.device(name)) for name in ("cpu", "cuda"))
    assert set(on_gpu) - set(on_cpu) == set(step.CUDA_ONLY)
    assert set(step.CUDA_ONLY) < set(step.VARIANTS)


def test_loader_times_every_stage_and_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "loader.json"
    options = ["--images", "16", "--batch-size", "8", "--image-size", "32", "--device", "cpu", "--json", str(out)]
    assert run(monkeypatch, "loader", *options, "--num-threads", "1") == 0
    rows = {row["name"]: row for row in json.loads(out.read_text())["results"]}
    stages = {"read", "decode", "augment", "hand-over"}
    assert set(rows) == stages | {*LOADERS, "plain DataLoader"} - {"auto"}
    assert {name for name, row in rows.items() if row["is_stage"]} == stages
    assert all(row["images_per_s"] > 0 for name, row in rows.items() if name != "dali")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step", "--variants", "fastest"], "--variants: got 'fastest'"),
        (["step", "--backbones", "resnet8", "resnet9"], "--backbones: got 'resnet9'"),
        (["step", "--repeats", "0"], "--repeats: got 0"),
        (["loader", "--tune", "--loader", "memory"], "--loader: got 'memory'"),
        (["loader", "--images", "4"], "--images: got 4"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments, "--device", "cpu") == 2
    assert message in capsys.readouterr().err


def test_the_traffic_model_is_that_of_the_fused_network() -> None:
    # 4.3 TB/s over about 10.1 thousand images a second: the ceiling of ResNeXt-50 with norm, ReLU and sum fused
    needed = training_bytes(create_model("resnext50_32x4d", 1000), 224, "bf16")
    assert 4.3e12 / needed == pytest.approx(10_100, rel=0.15)
    assert training_bytes(create_model("resnet8", 10), 32, "fp32") == 2 * training_bytes(
        create_model("resnet8", 10), 32, "bf16"
    )


def test_tuning_names_the_flags_of_the_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned.json"
    options = ["--images", "16", "--batch-size", "8", "--image-size", "32", "--device", "cpu", "--json", str(out)]
    assert run(monkeypatch, "loader", *options, "--tune", "--loader", "pillow", "--num-threads", "2") == 0
    record = json.loads(out.read_text())
    tried = [(row["num_threads"], row["prefetch"]) for row in record["results"]]
    assert tried[:2] == [(1, 2), (2, 2)]
    assert sorted(depth for _, depth in tried[2:]) == [1, 4]
    best = record["best"]
    assert best["images_per_s"] * tune.NOTABLE >= max(row["images_per_s"] for row in record["results"])
    flags = f"best: --loader pillow --num-threads {best['num_threads']} --prefetch {best['prefetch']} "
    assert flags in capsys.readouterr().out


@pytest.mark.parametrize(("device", "shares"), [("cpu", {0.65}), ("cuda", {0.65, 0.0, 0.35, 0.9})])
def test_tuning_changes_what_pays(device: str, shares: set[float]) -> None:
    def rate(trial: tune.Trial) -> float:  # no faster beyond four threads; depth 4 and a third of the files pay
        gain = 1.5 if trial.prefetch == 4 else 1.0
        return min(trial.num_threads, 4) * gain * (1.2 if trial.hw_decoder_load == 0.35 else 1.0)

    tried = list(tune.tune(rate, loader="dali", most_threads=12, device=torch.device(device)))
    best, reached = tried.pop()
    assert [trial.num_threads for trial, _ in tried[:5]] == [1, 2, 4, 8, 12]
    assert {trial.hw_decoder_load for trial, _ in tried} == shares
    assert (best.num_threads, best.prefetch) == (4, 4)
    assert reached == max(rate for _, rate in tried)
    assert ("--hw-decoder-load 0.35" in best.flags(torch.device(device))) == (device == "cuda")
    assert len({trial for trial, _ in tried}) == len(tried)


def test_the_plain_trainer_and_ours_train_on_the_same_files(tmp_path: Path) -> None:
    dataset = photographs(tmp_path / "train", 20, picture=(40, 40))
    plain = PlainLoader(dataset, device=CPU, batch_size=8, image_size=32, num_workers=1)
    sampler = LongTailSampler(dataset.labels, batch_size=8)
    with train_loader(dataset, sampler, Augmentation(size=32), num_steps=2, backend="pillow", num_threads=1) as loader:
        for variant, batches, shape, dtype in (
            ("plain", plain, (8, 3, 32, 32), torch.float32),
            ("fastlt eager", OurLoader(loader), (8, 32, 32, 3), torch.uint8),
        ):
            train, _ = step.build("resnet8", variant, device=CPU, batch_size=8, image_size=32)
            assert {(images.shape, images.dtype) for images, *_ in batches} == {(shape, dtype)}
            steps = unittest.mock.Mock(side_effect=train)
            assert train_on(steps, batches) == 16
            assert rate(steps, batches, CPU, num_steps=2) > 0
            assert steps.call_count == 6  # two of a pass; two to warm up and two timed, a pass each


def test_a_pass_is_long_and_timed_from_when_each_worker_has_made_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    now, num_workers = [0.0], 16
    monkeypatch.setattr(timed_loader, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def batches() -> Iterator[int]:
        for number in range(timed_loader.PASS + num_workers):
            if number % num_workers == 0:  # the workers keep step
                now[0] += 32 if number else 1000  # they start
            yield number

    assert timed_loader.PASS >= 64
    assert timed_loader.pass_rate(batches(), 8, CPU, num_workers=num_workers) == 4


def test_batches_that_workers_make_in_step_are_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    now, num_workers = [0.0], 4
    monkeypatch.setattr(end_to_end, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    batch = StepInput(torch.zeros(8, 1, 1, 3, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))

    def batches() -> Iterator[StepInput]:
        for number in range(4 * num_workers):
            now[0] += 4 * (number % num_workers == 0)
            yield batch

    assert rate(lambda _: torch.zeros(()), batches(), CPU, num_steps=2 * num_workers) == 8


def test_a_plain_loaders_pass_may_be_longer_than_its_images(tmp_path: Path) -> None:
    dataset = photographs(tmp_path / "train", 10, picture=(8, 8))
    loader = PlainLoader(dataset, device=CPU, batch_size=8, image_size=8, num_workers=0, num_batches=3)
    assert [len(images) for images, *_ in loader] == [8, 8, 8]


def test_peak_memory_is_that_of_the_timed_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    for name in ("empty_cache", "synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: events.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 2**30)
    assert step.clock(lambda: events.append("step"), torch.device("cuda"), repeats=2)[1] == 1.0  # type: ignore[arg-type]
    reset = events.index("reset_peak_memory_stats")
    assert events[:reset].count("step") == step.WARMUP * step.STEPS_A_ROUND["cuda"]
    assert events[reset:].count("step") == 2 * step.STEPS_A_ROUND["cuda"]


def test_a_pass_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^batches: got none\b"):
        rate(lambda *_: torch.zeros(()), [], CPU, num_steps=1)
