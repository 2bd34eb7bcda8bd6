"""Rebalance a checkpoint: adopt it, rebalance the run, write it back."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints.import_run import adopt, check_above_chance
from ..checkpoints.writing import check_output, default_output, write_back
from ..config import METHODS, RebalanceConfig
from ..config.adopt import AdoptConfig
from ..rebalancing import rebalance
from ..run import Run


def rebalance_checkpoint(
    path: Path, asked: AdoptConfig, config: RebalanceConfig | None = None
) -> tuple[Run, dict[str, Path]]:
    """Rebalance a checkpoint and write it back in its own format.

    Args:
        path: A .pth or .safetensors file, or a folder with config.json and model.safetensors.
        asked: How it is to be read, and where the result goes.
        config: Method and settings.

    Returns:
        The adopted run, with its results; and what was written, by method.

    Raises:
        FileNotFoundError, ValueError: Something does not exist, cannot be read, or does not fit.
    """
    config = config or RebalanceConfig()
    methods = METHODS if config.method == "all" else (config.method,)
    if asked.out is not None and len(methods) > 1:
        raise ValueError(
            f"--out: got {asked.out} with --method all, which writes {len(methods)} checkpoints; drop it: they are "
            "named <stem>.<method><suffix>"
        )
    outputs = {method: asked.out or default_output(path, method) for method in methods}
    for out in outputs.values():
        check_output(path, out)
    adopted = adopt(path, asked, force=config.force)
    check_above_chance(adopted, config)
    rebalance(adopted.run, config)
    for method, out in outputs.items():
        write_back(adopted, adopted.run.method(method) / "model.safetensors", out)
    return adopted.run, outputs
