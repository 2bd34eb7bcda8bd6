"""The training step: alternately with torchvision's, its losses, its kernels, its settings, and with a loader."""

from __future__ import annotations

import atexit
import functools
import gc
import logging
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import compile_fx, metrics
from torch.profiler import ProfilerActivity, profile

from fastlt.data.dataset import LongTailedDataset
from fastlt.data.loaders.loader import train_loader
from fastlt.data.sampler import LongTailSampler
from fastlt.data.transforms.augmentation import Augmentation
from fastlt.models import create_model
from fastlt.runtime.log import first_line
from fastlt.runtime.machine import has_dali, resolve_threads
from fastlt.timing.batches import NUM_CLASSES, random_batch
from fastlt.timing.end_to_end import OurLoader, PlainLoader, rate
from fastlt.timing.loader import MADE_UP_SIZE, lacking_memory, photographs
from fastlt.timing.peers import PEERS
from fastlt.timing.step import STEPS_A_ROUND, algorithms_of, build, clock
from fastlt.timing.traffic import bandwidth, training_bytes
from fastlt.training.step import StepInput

from .candidates import ALL, change_of, settings_of
from .machine import forget_block_sizes
from .rows import Figures, Row, Target, attempt, elapsed_ms

HEADLINE, TOY = "resnext50_32x4d", "resnet8"
NETWORKS = {"resnet50": "torchvision", "resnext101_32x4d": "timm", "resnet152": "torchvision"}  # who else has them
BATCH, SIZE = 256, 224
GIB_A_STEP = 24  # of GPU memory, for 256 images of 224 pixels
ROUNDS = 5  # of ten steps of each, alternately
LOSSES = 30
TURNS = 2  # batches that each worker of a DataLoader makes before the timed steps, and as many within them
LOADERS = ("device", "memory", "pillow", "dali")
USES = ("crops",)  # the modules of kernels in the default step


@dataclass(frozen=True)
class Step:
    """A training step to time: a network, a variant of `fastlt.timing.step`, and what is changed in them."""

    variant: str = "fastlt"
    backbone: str = HEADLINE
    batch: int = BATCH
    jitter: bool = True
    candidate: str = ""

    def on(self, target: Target) -> Step:
        """Return the step itself, or a toy: small, and eager, since compiling takes longer than everything else."""
        if not target.toy:
            return self
        variant = "plain" if self.variant in PEERS else "fastlt eager"
        return Step(variant, HEADLINE if self.candidate else TOY, 2, self.jitter, self.candidate)

    def build(self, target: Target) -> Callable[..., Tensor]:
        """Return the step's function."""
        step, _ = build(
            self.backbone,
            self.variant,
            device=target.device,
            batch_size=self.batch,
            image_size=target.pick(32, SIZE),
            color_jitter=self.jitter,
            change=change_of(self.candidate),
        )
        return step

    def __str__(self) -> str:
        parts = [self.variant, "" if self.jitter else "no jitter", self.candidate]
        parts += [f"batch {self.batch}" * (self.batch != BATCH), self.backbone * (self.backbone != HEADLINE)]
        return ", ".join(filter(None, parts))


PAIR = (Step(), Step("torchvision compiled"))
RIVALS = (Step("torchvision compiled channels_last"), Step(jitter=False))
EAGER = (Step("channels_last bf16"), Step("plain"))
BATCHES = tuple(
    Step(variant, batch=batch)
    for batch in (128, 64, 512, 256)
    for variant in ("fastlt", "fastlt CUDA graphs")
    if (variant, batch) != ("fastlt", BATCH)
)
OTHERS = tuple(Step(name, network) for network, peer in NETWORKS.items() for name in ("fastlt", f"{peer} compiled"))
CHANGES = tuple(Step(candidate=name) for name in ALL)
SWITCHES = (Step("fastlt deterministic"), Step("fastlt NCHW"))


def rows(call: str, target: Target) -> Iterator[Row]:
    """Yield the headline in call b, other networks and settings in call c."""
    if call == "b":
        yield Row("compile: the headline", functools.partial(compile_all, target, PAIR), 200)
        yield Row("step: alternately", functools.partial(alternately, target, PAIR), 240, USES)
        yield Row("step: losses", functools.partial(losses, target), 90, USES)
        yield Row("profile: of a step", functools.partial(profiled, target), 90, USES)
        for backend in LOADERS if has_dali() else LOADERS[:-1]:
            yield Row(f"end to end: {backend}", functools.partial(end_to_end, target, backend), 90, USES)
        for step in EAGER:
            yield Row(f"step: {step}", functools.partial(one, target, step), 90, USES)
            yield Row(f"end to end: {step}", functools.partial(plain_end_to_end, target, step), 90, USES)
        yield Row("compile: rivals", functools.partial(compile_all, target, RIVALS), 200)
        yield Row("rivals: alternately", functools.partial(alternately, target, (*PAIR, *RIVALS)), 200, USES)
        yield from compiled_first("batches", target, BATCHES)
    elif call == "c":
        for half, words in ((CHANGES[:6], "candidates"), (CHANGES[6:], "more candidates")):
            yield from compiled_first(words, target, half, (*USES, "batch_norm"))
        yield from compiled_first("networks", target, OTHERS)
        yield from compiled_first("switches", target, SWITCHES)
        for network in target.pick((HEADLINE,), (HEADLINE, *NETWORKS)):
            yield Row(f"loss curve: {network}", functools.partial(loss_curve, target, network), 90)


def compiled_first(
    name: str, target: Target, steps: tuple[Step, ...], operations: tuple[str, ...] = USES
) -> Iterator[Row]:
    """Yield a row that compiles some steps side by side, and one that times each of them alone."""
    yield Row(f"compile: {name}", functools.partial(compile_all, target, steps), 240)
    for step in target.pick(steps[:2], steps):
        yield Row(f"{name}: {step}", functools.partial(one, target, step), 120, operations)


def compile_all(target: Target, steps: tuple[Step, ...]) -> Iterator[Figures]:
    """Yield how long each step's compilation took; the compiler's cache has them when they are timed.

    Each has a process of its own, since an interpreter compiles one step at a time.
    """
    release()
    if target.toy:
        yield {"name": str(steps[0]), "seconds": compile_one(target, steps[0])}
        return
    threads, (free, _) = resolve_threads(None), torch.cuda.mem_get_info()
    at_once = max(1, min(len(steps), threads // 2, free // (GIB_A_STEP << 30)))
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(max(1, threads // at_once))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(at_once, mp_context=context, max_tasks_per_child=1) as pool:
            yield from compile_in(pool, target, steps)
    finally:
        del os.environ["TORCHINDUCTOR_COMPILE_THREADS"]
        forget_block_sizes(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]))


def compile_in(pool: Executor, target: Target, steps: tuple[Step, ...]) -> Iterator[Figures]:
    """Yield how long each step's compilation took; one that lacked memory beside the others is compiled again alone."""
    tasks, alone = {pool.submit(compile_one, target, step): step for step in steps}, []
    for task in as_completed(tasks):
        if "out of memory" in str(task.exception()):
            alone.append(tasks[task])
        else:
            yield from attempt(str(tasks[task]), lambda task=task: {"seconds": task.result()})
    for step in alone:
        task = pool.submit(compile_one, target, step)
        yield from attempt(str(step), lambda task=task: {"seconds": task.result()})


def compile_one(target: Target, step: Step) -> float:
    """Run a step once, which compiles it; return the seconds that it took."""
    began = time.perf_counter()
    count_bytes()
    with algorithms_of(step.variant), settings_of(step.candidate):
        torch.backends.cudnn.benchmark = False  # cuDNN times its algorithms later, when nothing else runs
        step.on(target).build(target)().item()
    return time.perf_counter() - began


def count_bytes() -> None:
    """Let Inductor count the bytes of its plans, which the entries of its cache keep; it prints nothing."""
    if (log := getattr(compile_fx, "inductor_metrics_log", None)) is not None:  # others count in any case
        log.setLevel(logging.INFO)
        log.propagate = False
    metrics.reset()


HELD: dict[Step, Callable[..., Tensor]] = {}


def hold(target: Target, step: Step) -> Callable[..., Tensor]:
    """Return a step, which is kept until another one is wanted: rows that follow each other use the same."""
    if step not in HELD:
        release()
        with algorithms_of(step.variant):
            HELD[step] = step.build(target)
    return HELD[step]


def release() -> None:
    """Forget the step that is kept."""
    HELD.clear()
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def alternately(target: Target, steps: tuple[Step, ...]) -> Iterator[Figures]:
    """Yield the rates of steps that take turns in one process, and how much faster the first is than each."""
    release()
    runs: dict[Step, Callable[..., Tensor]] = {}
    for step in steps:
        small = step.on(target)
        try:
            with algorithms_of(small.variant):
                runs[step] = small.build(target)
                several(target, runs[step], small.variant, 3)  # compiles, and chooses algorithms
        except (ImportError, RuntimeError) as error:
            runs.pop(step, None)
            yield {"name": str(step), "error": first_line(error)}
    times: dict[Step, list[float]] = {step: [] for step in runs}
    for _ in range(target.pick(1, ROUNDS)):
        for step, run in runs.items():
            times[step].append(several(target, run, step.on(target).variant, STEPS_A_ROUND[target.device.type]))
    medians = {step: statistics.median(found) for step, found in times.items()}
    for step, found in times.items():
        rate = 1000 * step.on(target).batch / medians[step]
        figure = {"name": str(step), "images_per_s": rate, "ms": medians[step]}
        figure |= {"least_ms": min(found), "most_ms": max(found)}
        yield figure | ({"first_is_faster_by": medians[step] / medians[steps[0]]} if steps[0] in medians else {})
    runs.clear()
    release()


def several(target: Target, run: Callable[..., Tensor], variant: str, repeats: int) -> float:
    """Return the milliseconds of a step, over several."""
    with algorithms_of(variant):
        return elapsed_ms(target, run, repeats)


def one(target: Target, wanted: Step) -> Iterator[Figures]:
    """Yield the rate of one step and its peak memory."""
    step = wanted.on(target)
    release()
    count_bytes()
    counters.clear()
    with algorithms_of(step.variant), settings_of(step.candidate):
        run = step.build(target)
        seconds, peak = clock(run, target.device, repeats=target.pick(1, 5))
    figure = {"name": str(wanted), "images_per_s": step.batch / seconds, "ms": 1000 * seconds, "peak_gib": peak}
    wants_graphs, skipped = "CUDA graphs" in wanted.variant, counters["inductor"]["cudagraph_skips"]  # without a word
    yield figure | plan_bytes(step) | ({"graphs_skipped": skipped} if wants_graphs else {})


def plan_bytes(step: Step) -> Figures:
    """Return the megabytes an image that Inductor's plan moves, by its own count, if it has made one."""
    moved = metrics.num_bytes_accessed / step.batch / 1e6
    return {"plan_mb_an_image": moved, "plan_kernels": metrics.generated_kernel_count} if moved else {}


def losses(target: Target) -> Iterator[Figures]:
    """Yield how far the losses of compiled steps stray from eager ones, with the same start and batches."""
    found = {}
    for name, variant in (("compiled", "fastlt"), ("eager", "fastlt eager"), ("eager again", "fastlt eager")):
        release()
        step = Step(variant).on(target)
        with algorithms_of(step.variant):
            run = step.build(target)
            torch.manual_seed(1)
            batches = [random_batch(step.batch, target.pick(32, SIZE), target.device) for _ in range(2)]
            steps = target.pick(3, LOSSES)
            found[name] = torch.stack([run(batches[number % 2]).float() for number in range(steps)]).cpu()
    for name in ("compiled", "eager again"):
        gaps = (found[name] - found["eager"]).abs() / found["eager"]
        last = found[name][-1].item()
        yield {"name": name, "first_gap": gaps[0].item(), "largest_gap": gaps.max().item(), "last_loss": last}
    release()


def profiled(target: Target) -> Iterator[Figures]:
    """Yield a step's kernels, the slowest first, with what its bytes would take at the speed of copying."""
    wanted = Step()
    step = wanted.on(target)
    count_bytes()
    run = hold(target, step)
    repeats, on_gpu = target.pick(1, 5), not target.toy
    with algorithms_of(step.variant):
        for _ in range(target.pick(1, 5)):
            run()
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as trace:
            for _ in range(repeats):
                run()
            target.wait()
    events = kernels_of(trace.key_averages(), repeats, on_gpu)
    total = sum(ms for _, ms, _ in events)
    size, copied = target.pick(32, SIZE), bandwidth(target.device)
    needed = step.batch * training_bytes(create_model(step.backbone, NUM_CLASSES), size, "bf16")
    yield {
        "name": "all kernels",
        "ms": total,
        "launches": sum(count for _, _, count in events),
        "gb_needed_by_model": needed / 1e9,
        "copied_gb_per_s": copied / 1e9,
    } | plan_bytes(step)
    for name, ms, count in events[: target.pick(3, 40)]:
        yield {"name": name[:160], "ms": ms, "launches": count}


def kernels_of(events: Iterable[Any], repeats: int, on_gpu: bool) -> list[tuple[str, float, float]]:
    """Return (name, ms, launches) a step of the profiler's averages, the slowest first.

    A GPU's profile has the host's calls that launch its kernels too, which take none of its time, and may have ranges
    that hold several kernels.
    """
    measured = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = [
        (event.key, getattr(event, measured) / repeats / 1000, event.count / repeats)
        for event in events
        if getattr(event, measured) > 0 and not (on_gpu and event.is_user_annotation)
    ]
    return sorted(found, key=lambda kernel: -kernel[1])


@functools.cache
def files(target: Target) -> LongTailedDataset:
    """Return made-up photographs, which stay until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="fastlt-photographs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return photographs(folder / "train", target.pick(16, 4096), picture=target.pick((48, 48), MADE_UP_SIZE))


def end_to_end(target: Target, backend: str) -> Iterator[Figures]:
    """Yield the rate of steps fed by a loader, beside that of the step alone."""
    step = Step().on(target)
    run, dataset = hold(target, step), files(target)
    steps, size = target.pick(2, 64), target.pick(32, SIZE)
    with algorithms_of(step.variant):
        several(target, run, step.variant, 3)
        alone = 1000 * step.batch / several(target, run, step.variant, target.pick(1, 20))
        yield {"name": "the step alone", "images_per_s": alone}
        sampler = LongTailSampler(dataset.labels, sampling="class_balanced", batch_size=step.batch)
        with train_loader(
            dataset,
            sampler,
            Augmentation(size=size),
            num_steps=2 * steps,
            device=target.device,
            backend=backend,
        ) as loader:
            reached = rate(run, OurLoader(loader), target.device, num_steps=steps)
    yield {"name": backend, "images_per_s": reached, "share_of_step": reached / alone}


def plain_end_to_end(target: Target, wanted: Step) -> Iterator[Figures]:
    """Yield the rate of a first script's step, fed by a DataLoader with Pillow."""
    step, dataset = wanted.on(target), files(target)
    workers, size = target.pick(1, resolve_threads(None)), target.pick(32, SIZE)
    if reason := lacking_memory(workers, step.batch, size):
        yield {"name": str(wanted), "error": reason}
        return
    run, steps = hold(target, step), TURNS * workers
    batches = PlainLoader(
        dataset,
        device=target.device,
        batch_size=step.batch,
        image_size=size,
        num_workers=workers,
        num_batches=2 * steps,
    )
    with algorithms_of(step.variant):
        yield {"name": str(wanted), "images_per_s": rate(run, batches, target.device, num_steps=steps)}


def loss_curve(target: Target, network: str) -> Iterator[Figures]:
    """Yield the smoothed losses of some hundred eager steps on learnable batches, in bf16 and in fp32."""
    batch, size, steps = target.pick((4, 32, 4), (64, 128, 200))
    smooth = min(20, steps)
    curves: list[Any] = []
    for variant in ("fastlt eager", "fastlt fp32"):
        release()
        backbone = target.pick(TOY, network)
        run, precision = build(backbone, variant, device=target.device, batch_size=batch, image_size=size)
        generator = torch.Generator(target.device).manual_seed(0)
        found = []
        with algorithms_of(variant), torch.compiler.set_stance("force_eager"):
            for _ in range(steps):
                labels = torch.randint(0, 10, (batch,), device=target.device, generator=generator)
                noise = torch.randint(0, 156, (batch, size, size, 3), device=target.device, generator=generator)
                images = (noise + 10 * labels[:, None, None, None]).to(torch.uint8)
                found.append(run(StepInput(images, labels)))
        curves.append(torch.stack(found).double().unfold(0, smooth, smooth).mean(1))
        yield {"name": precision if variant == "fastlt eager" else "fp32, of the pair", "losses": curves[-1].tolist()}
    gap = (curves[0] - curves[1]).abs() / curves[1]
    yield {"name": "gap", "largest_gap": gap.max().item()}
    release()
