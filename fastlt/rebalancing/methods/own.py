"""Methods of the user's own: a function from a problem to a head, and the checks of what it returns."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...config import RebalanceConfig
from ...config.plugins import OwnMethod, add_method, what_happened
from ...evaluation.classifier import JOINT
from ...models import LinearHead
from ..problem import Problem, RebalancedHead

RESERVED = (JOINT, "temperature", "target")  # params by which we know the joint head, and what follows the fit


def register(
    name: str,
    make: Callable[[Problem], LinearHead | RebalancedHead],
    *,
    needs_training: bool = True,
    quick: bool = False,
) -> None:
    """Make a rebalancing method of your own known by a name, for `rebalance`, `rebalance_model` and every command.

    The commands of another process find it as `--method module:function`, or by an entry point of the group
    `fastlt.methods` of an installed package. What it made is a linear head like any other: `fastlt evaluate`,
    `predict`, `export` and `report` need no code of yours.

    Args:
        name: The name, that of its folder in `RUN/rebalanced/` too.
        make: The method: from a `Problem` to a `LinearHead`, weight [C, D] and bias [C] or none. A plain head counts as
            chosen on `problem.selection` (without val the training images), so that folds fit it anew; return a
            `RebalancedHead` with `selected_on=None` if it was not, and with `params` to have its settings recorded.
            PyTorch's generator is seeded with the settings' seed, which is `problem.seed` too.
        needs_training: Whether it looks at `problem.train`, which is empty otherwise.
        quick: Whether it takes no more than seconds, so that plain `fastlt rebalance` tries it too.

    Raises:
        ValueError: The name cannot be that of a folder, or another method has it; or `make` is no function.

    Example:
        >>> import torch
        >>> from fastlt import rebalance_model
        >>> from fastlt.models import LinearHead
        >>> from fastlt.rebalancing import register
        >>> def unit_norm(problem):
        ...     return LinearHead(problem.head.weight.detach() / problem.head.norms()[:, None])
        >>> register("unit_norm", unit_norm, needs_training=False)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> batches = [(torch.tensor([[1.0, 0.2], [0.5, 1.0]]), torch.tensor([0, 1]))]
        >>> rebalance_model(model, batches, batches, method="unit_norm", temperature=False)[1].weight.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    add_method(OwnMethod(name=name, make=make, needs_training=needs_training, quick=quick))


def fit(method: OwnMethod, problem: Problem, config: RebalanceConfig) -> RebalancedHead:
    """Return the head that the user's function makes of a problem of its own, which it may change.

    Raises:
        ValueError: It raises, or what it returns is no head of this problem.
    """
    who = f"{method.name} ({method.source})"
    with seeded(config.seed, problem.device):
        try:
            made = method.make(problem.copy())
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ValueError(
                f"--method: got {who}, which raised {what_happened(error)}; expected a LinearHead; correct it "
                "(FASTLT_TRACEBACK=1 prints where)"
            ) from error
    return checked(made, problem, who)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators inside a block; they go on afterwards as if it had not been."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def checked(made: Any, problem: Problem, who: str) -> RebalancedHead:
    """Return what the user's function returned as a head of the problem's own kind; `who` names the function.

    Raises:
        ValueError: It is none.
    """
    result = RebalancedHead(head=made, selected_on=problem.selected_on) if isinstance(made, LinearHead) else made
    if not isinstance(result, RebalancedHead) or not isinstance(result.head, LinearHead):
        raise ValueError(
            f"--method: got {who}, which returned a {type(made).__name__}; expected a LinearHead or RebalancedHead; "
            "return one"
        )
    joint, head = problem.head, result.head
    if head.weight.shape != joint.weight.shape:
        raise ValueError(
            f"--method: got {who}, which returned a weight of shape {list(head.weight.shape)}; expected "
            f"{list(joint.weight.shape)}, [classes, feature width]; return a row a class"
        )
    weight = head.weight.detach().to(joint.weight)
    bias = None if head.bias is None else head.bias.detach().to(joint.weight)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.isfinite().all():
            num_bad = int((~tensor.isfinite()).sum())
            raise ValueError(
                f"--method: got {who}, which returned a {name} with {num_bad} of {tensor.numel()} numbers NaN or "
                "infinite; expected finite ones; correct it"
            )
    if result.selected_on not in (None, problem.selected_on):
        raise ValueError(
            f"--method: got {who}, which returned selected_on={result.selected_on!r}; expected None or "
            f"problem.selected_on, here {problem.selected_on!r}; return one of them"
        )
    params = json_params(result.params, who)
    return RebalancedHead(head=LinearHead(weight, bias), params=params, selected_on=result.selected_on)


def json_params(params: Any, who: str) -> dict[str, Any]:
    """Return a method's settings as JSON has them; numbers of NumPy and PyTorch become Python's.

    Raises:
        ValueError: They are no JSON, or one has a name that fastlt itself uses.
    """

    def plain(value: Any) -> Any:
        return value.item() if hasattr(value, "item") else repr(value)

    try:
        values = json.loads(json.dumps(params, allow_nan=False, default=plain))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"--method: got {who}, which returned params that are no JSON ({error}); expected names with numbers or "
            "texts; return such"
        ) from error
    if not isinstance(values, dict) or not values.keys().isdisjoint(RESERVED):
        raise ValueError(
            f"--method: got {who}, which returned params={values}; expected names with values, other than "
            f"{', '.join(RESERVED)}; return such"
        )
    return values
