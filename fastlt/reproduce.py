"""Train and rebalance under every sampling and seed, for the paper's table; what is finished is reused."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from .config import METHODS, RebalanceConfig, TrainConfig
from .config.plugins import method_names
from .evaluation.classifier import MODEL, RESULTS
from .evaluation.results import Result, Results
from .files import naming, owned, read_json, replacing_set, write_json
from .rebalancing import rebalance
from .rebalancing.run import read_results
from .recipes import recipe
from .report.reproduction import RETRAINED, Reproduction, finding, tabulate
from .run import Run, is_run
from .runtime import distributed
from .runtime.launch import check_gpus, flags, launch
from .runtime.log import log
from .runtime.output import quoted
from .runtime.process import under_torchrun
from .training.setup import check_shares
from .training.trainer import train


def reproduce(
    base: TrainConfig,
    stage2: RebalanceConfig,
    *,
    samplings: Sequence[str],
    seeds: Sequence[int],
    methods: Sequence[str] | None = None,
    out: Path,
    console: Console | None = None,
) -> Reproduction:
    """Train under every sampling and seed, fit every classifier on each run, and write table.md, .csv and results.json.

    Each run is a folder `out/<sampling>-seed<seed>`. Finished runs and classifiers are reused, and an interrupted run
    continues where it stopped. With `base.gpus` each is trained in that many processes; stage 2 runs in this one.

    Args:
        base: Settings of stage 1 except sampling, seed and run folder.
        stage2: Settings of stage 2; its method is all.
        samplings: Samplings of stage 1.
        seeds: Seeds; with two or more, intervals are over them.
        methods: Rebalancing methods, the user's own among them; by default all that have a name.
        out: The folder of all runs and tables.
        console: Where progress is shown.

    Returns:
        The table.

    Raises:
        ValueError, FileNotFoundError: Data or settings cannot be used, `out` was begun with other settings, or another
            process works in it.
        InterruptedTrainingError: A signal arrived; the same command continues.
        SystemExit: One of several processes ended early; its own message says why.
    """
    if under_torchrun():
        raise ValueError(
            "reproduce: got a start by torchrun; expected one process, which starts the others; give --gpus N, or on "
            f"several machines train each run with `torchrun ... -m fastlt train --out "
            f"{quoted(out)}/<sampling>-seed<seed>`, which is then reused"
        )
    base = dataclasses.replace(base, init=base.init and base.init.resolve())  # as a resumed run has it
    if has_processes(base):
        check_gpus(base)
        check_shares(base, distributed.World(size=base.gpus or 1))
    wanted = {name: method for method in methods or method_names("all") for name in method_names(method)}
    with owned(out):
        rows: list[Result] = []
        jobs = [(seed, sampling) for seed in seeds for sampling in samplings]
        for number, (seed, sampling) in enumerate(jobs, 1):
            log.info("reproduce %d of %d: %s sampling, seed %d", number, len(jobs), sampling.replace("_", "-"), seed)
            run = trained_run(of_sampling(base, sampling, seed), out, console)
            rows += rebalanced_results(run, dataclasses.replace(stage2, method="all", seed=seed), wanted)
        results = Results(tuple(rows))
        reproduction = Reproduction(
            base=base,
            seeds=tuple(seeds),
            rows=tuple(tabulate(results, samplings, base)),
            finding=finding(results, samplings),
            results=results,
        )
        with replacing_set(out / "results.json") as folder:
            for name, text in (("table.md", reproduction.markdown()), ("table.csv", reproduction.csv())):
                with naming(folder / name):
                    (folder / name).write_text(text, encoding="utf-8")
            write_json(folder / "results.json", reproduction.to_json())
    return reproduction


def of_sampling(base: TrainConfig, sampling: str, seed: int) -> TrainConfig:
    """Return the settings of a run; consecutive draws of a class are for class-balanced sampling only."""
    draws = base.samples_per_class if sampling == "class_balanced" else None
    return dataclasses.replace(base, sampling=sampling, seed=seed, samples_per_class=draws)


def trained_run(config: TrainConfig, out: Path, console: Console | None) -> Run:
    """Train a run, or finish or reuse the one on disk; in several processes if the settings say so."""
    folder = out / f"{config.sampling}-seed{config.seed}"
    exists = is_run(folder)
    config = dataclasses.replace(config, out=folder, resume=exists)
    free_gpu_memory()
    if not has_processes(config):
        return train(config, console=console)
    base = Run.open(folder).config if exists else recipe(config.dataset)
    status = launch(["train", *flags(config, dataclasses.replace(base, out=None, resume=False))], config.gpus or 1)
    if status:
        raise SystemExit(status)
    return Run.open(folder)


def free_gpu_memory() -> None:
    """Give back the GPU memory of the last stage: other processes, and DALI, share no pool with PyTorch."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def has_processes(config: TrainConfig) -> bool:
    """Return whether training takes several processes."""
    return config.gpus is not None and config.gpus > 1


def rebalanced_results(run: Run, config: RebalanceConfig, methods: Mapping[str, str]) -> list[Result]:
    """Return the results of classifiers of a run; those of these settings on disk are reused.

    Args:
        run: The run.
        config: The settings of every method.
        methods: Name of each method -> how its setting calls it.
    """
    free_gpu_memory()
    stale = [settings for settings in settings_by_method(config, methods.values()) if not is_current(run, settings)]
    if config.features == "cached" and len(stale) == len(methods) and tuple(methods) == config.methods:
        stale = [config]  # all at once: they share features
    for settings in stale:
        rebalance(run, settings)
    return list(read_results(run, methods))


def settings_by_method(config: RebalanceConfig, methods: Iterable[str]) -> Iterable[RebalanceConfig]:
    """Yield the settings of every method; with live features only those that the released code retrains see images."""
    for method in methods:
        if config.features == "live" and method not in RETRAINED:
            yield dataclasses.replace(config, method=method, features="cached", protocol="paper")
        else:
            yield dataclasses.replace(config, method=method)


def is_current(run: Run, config: RebalanceConfig) -> bool:
    """Return whether the run has a classifier with these settings, whole and made from its current weights.

    One of the user's own is made again each time, since its code may have changed.
    """
    if config.method not in METHODS:
        return False
    folder, weights = run.method(config.method), run.checkpoint("best")
    files = (folder / "config.json", folder / RESULTS, folder / MODEL)
    if not all(path.is_file() and path.stat().st_mtime >= weights.stat().st_mtime for path in files):
        return False
    try:
        stored = read_json(files[0])
        Results.read(files[1])
    except ValueError as error:
        log.warning("%s: the classifier is made again", error)
        return False
    ignored = {"device", "loader", "num_threads", "force"}
    return all(stored.get(key) == json_value(value) for key, value in config.to_json().items() if key not in ignored)


def json_value(value: Any) -> Any:
    """Return a value as it comes back from JSON."""
    return list(value) if isinstance(value, tuple) else value
