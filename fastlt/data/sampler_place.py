"""Where a sampler stands: its rank among the processes that share each batch, and the step of a saved state."""

from __future__ import annotations

import os
import sys
from typing import Any

from ..runtime.process import under_torchrun
from .sampler_arguments import check_whole


def check_place(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """Return (rank, world size) as given, or None if neither is.

    Raises:
        ValueError: One of the two is missing or out of range.
    """
    if rank is None and world_size is None:
        return None
    if world_size is None:
        raise ValueError(f"world_size: got None with rank {rank}; expected the number of processes; give both or none")
    world_size = check_whole("world_size", world_size, least=1)
    if rank is None and world_size > 1:
        raise ValueError(
            f"rank: got None with world_size {world_size}; expected 0 to {world_size - 1}, this process's own; give "
            "both or none"
        )
    return check_whole("rank", rank or 0, least=0, most=world_size - 1), world_size


def check_shares(world_size: int, batch_size: int) -> None:
    """Raise a ValueError unless the processes can share a batch evenly."""
    if batch_size % world_size:
        raise ValueError(
            f"world_size: got {world_size}; expected a divisor of batch_size {batch_size}; give a batch size that "
            "is a multiple of the number of processes"
        )


def group_place() -> tuple[int, int] | None:
    """Return this process's (rank, world size) in torch.distributed, or None where that is not initialised."""
    distributed = sys.modules.get("torch.distributed")  # what is not imported is not initialised
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.get_rank(), distributed.get_world_size()


def current_place(pickled: tuple[int, int] | None) -> tuple[int, int]:
    """Return this process's (rank, world size).

    Args:
        pickled: That of the process which pickled the sampler, the next best where this one is in no process group.

    Raises:
        ValueError: torchrun started several processes, which have not joined yet: all would draw the same batches.
    """
    place = group_place() or pickled
    if place is None and under_torchrun() and os.environ["WORLD_SIZE"] != "1":
        raise ValueError(
            f"world_size: got None, WORLD_SIZE={os.environ['WORLD_SIZE']} in the environment and no process group; "
            "expected one before the first batch; call torch.distributed.init_process_group() first, or give rank and "
            "world_size"
        )
    return place or (0, 1)


def step_of_state(state: dict[str, Any], *, settings: dict[str, Any], fingerprint: str) -> int:
    """Return the step of a saved state.

    Args:
        state: What `state_dict` returned.
        settings: The sampler's own settings.
        fingerprint: Its own fingerprint.

    Raises:
        ValueError: The state comes from labels or settings that give other batches, or was altered.
    """
    try:
        step, saved, hashed = state["step"], dict(state["settings"]), state["fingerprint"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"state: got {state!r:.80}; expected step, settings and fingerprint; give what state_dict() returned"
        ) from None
    changed = [name for name in settings if saved.get(name) != settings[name]]
    if changed:
        changes = ", ".join(f"{name} {saved.get(name)!r} (here {settings[name]!r})" for name in changed)
        raise ValueError(
            f"state: got {changes}; expected the same settings and labels, else the order changes; create the "
            "sampler with those it was saved with"
        )
    if hashed != fingerprint:
        raise ValueError(
            f"state: got fingerprint {hashed!r}; expected {fingerprint!r}; give a state that was not altered"
        )
    return check_whole("step", step, least=0)
