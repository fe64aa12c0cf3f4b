"""An optimizer's step, recorded as the end of a training pass on a GPU."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from nl_layers import FlatDict
from nl_layers.optimizers import Optimizer
from nl_nodes import UserError
from nl_nodes.compiler import Update
from nl_nodes.typing import Array

CHANGING = ("lr", "steps")
"""What changes from step to step: a recording takes it from `Optimizer.now`."""


def update_key(optimizer: Optimizer, weight_decay: float) -> Hashable:
    """Return what a recorded step depends on: the optimizer's settings, and the identity of its arrays."""
    settings = repr(sorted(optimizer.settings.items()))
    return (type(optimizer), settings, weight_decay, tuple(map(id, optimizer.state[""].values())))


def recorded_update(
    optimizer: Optimizer, params: FlatDict, grads: FlatDict, weight_decay: float, finite_so_far: Array
) -> Update:
    """Return an optimizer's step with weight decay as the last part of a pass.

    Args:
        optimizer: one that has begun a step, so that its state exists.
        params: the parameters.
        grads: their gradients.
        weight_decay: coefficient of weight decay.
        finite_so_far: see `Update`.
    """
    shapes, slots = params.shapes(), tuple(optimizer.state[""])

    def step(gradient: Any, arrays: Sequence[Any], numbers: Mapping[str, Any]) -> None:
        flat, *state = arrays
        own = FlatDict(shapes, lambda size: flat)
        if weight_decay:
            gradient = gradient.copy()
            weights = FlatDict(shapes, lambda size: gradient).decayed
            weights += weight_decay * own.decayed
        _record(optimizer, own, gradient, dict(zip(slots, state, strict=True)), numbers)

    arrays = (params.flat, *optimizer.state[""].values())
    return Update(step, grads.flat, arrays, tuple(optimizer.now), finite_so_far)


def _record(
    optimizer: Optimizer, params: FlatDict, gradient: Any, state: dict[str, Any], numbers: Mapping[str, Any]
) -> None:
    """Let the optimizer change traced arrays.

    Raises:
        UserError: if its step reads `lr` or `steps` instead of `now`.
    """
    attributes = vars(optimizer).copy()
    try:
        for name in CHANGING:  # a number read from here would be recorded as it is now
            delattr(optimizer, name)
        optimizer.now = numbers
        optimizer.shrink(params.decayed)
        optimizer.update_array(params.flat, gradient, **state)
    except AttributeError as error:
        if error.name not in CHANGING:
            raise
        kind = type(optimizer).__name__
        raise UserError(f"{kind}.update_array reads self.{error.name}: on a GPU take it from self.now") from None
    finally:
        vars(optimizer).update(attributes)
