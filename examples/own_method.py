"""Compare a rebalancing method of your own with tau and crt over seeds: mean and spread of the accuracy on test.

`python examples/own_method.py` trains on the embedded data set once a seed, some minutes on a CPU; run again, it goes
on with what is there. The command line does the same for any data set and sampling, in the folder of this file:

    fastlt reproduce --dataset glyphs_lt --seeds 0 1 2 --methods tau crt own_method:blend
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from fastlt import EvaluateConfig, RebalanceConfig, TrainConfig, evaluate, rebalance, recipe, train
from fastlt.models import LinearHead
from fastlt.rebalancing import Problem, RebalancedHead, nearest_class_mean, register, tau_normalize

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def blend(problem: Problem) -> RebalancedHead:
    """Blend the unit weights of the joint head with the directions of the class means, by the share best on val."""
    unit = tau_normalize(problem.head, 1.0).weight.detach()
    means = nearest_class_mean(*problem.training_tensors(), problem.head.num_classes).weight.detach()
    heads = {share: LinearHead((1 - share) * unit + share * means) for share in SHARES}
    best = max(heads, key=lambda share: problem.accuracy(heads[share]))
    return RebalancedHead(head=heads[best], params={"share": best}, selected_on=problem.selected_on)


register("blend", blend, quick=True)


def compare(config: TrainConfig, seeds: Sequence[int], out: Path) -> dict[str, list[float]]:
    """Return the class mean on test of every classifier, one number a seed, in percent."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        folder = out / f"seed{seed}"
        run = train(dataclasses.replace(config, seed=seed, out=folder, resume=folder.exists()))
        for method in ("tau", "crt", "blend"):
            rebalance(run, RebalanceConfig(method=method, seed=seed))
        for row in evaluate(run, config=EvaluateConfig(method="all", split="test")):
            found.setdefault(row.method, []).append(row.class_mean.value)
    return found


def show(found: dict[str, list[float]]) -> None:
    """Print the mean and the standard deviation over seeds, and those of the gain over tau in the same runs."""
    for method, values in found.items():
        gains = [ours - taus for ours, taus in zip(values, found["tau"], strict=True)]
        print(
            f"{method:8} class mean {mean(values):.1f} ± {stdev(values):.1f} %, "
            f"over tau {mean(gains):+.1f} ± {stdev(gains):.1f} points"
        )


if __name__ == "__main__":
    show(compare(recipe("glyphs_lt"), seeds=(0, 1, 2), out=Path("runs/own_method")))
