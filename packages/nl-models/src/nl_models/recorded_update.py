"""An optimizer's step on a GPU, recorded once as one CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nl_layers import FlatDict
from nl_layers.optimizers import Optimizer
from nl_nodes import UserError
from nl_nodes.compiler import Recorded
from nl_nodes.runtime import Executor

CHANGING = ("lr", "steps")
"""What changes from step to step: the recording takes it from `Optimizer.now`."""


class RecordedUpdate:
    """Records the steps of one optimizer at a time, and replays them.

    Args:
        executor: runs the recording.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._key: Any = None
        self._recorded: Recorded | None = None  # keeps the arrays alive whose ids are in the key

    def run(self, optimizer: Optimizer, params: FlatDict, grads: FlatDict) -> None:
        """Let the optimizer take a step on the parameters.

        Raises:
            UserError: if its step reads `lr` or `steps` instead of `now`.
        """
        optimizer.begin(params, grads)
        arrays = (params.flat, grads.flat, *optimizer.state[""].values())
        key = (optimizer.settings, tuple(map(id, arrays)))
        if self._recorded is None or self._key != key:
            self._recorded, self._key = self._record(optimizer, params.shapes(), arrays), key
        self._recorded.run(optimizer.now)

    def _record(self, optimizer: Optimizer, shapes: Mapping[str, Any], arrays: Sequence[Any]) -> Recorded:
        slots, attributes = tuple(optimizer.state[""]), vars(optimizer).copy()

        def step(traced: Sequence[Any], numbers: Mapping[str, Any]) -> None:
            flat, grad, *state = traced
            optimizer.now = numbers
            optimizer.shrink(FlatDict(shapes, lambda size: flat).decayed)
            optimizer.step(flat, grad, **dict(zip(slots, state, strict=True)))

        try:
            for name in CHANGING:  # a number read from here would be recorded as it is now
                delattr(optimizer, name)
            return Recorded(step, arrays, tuple(optimizer.now), self._executor)
        except AttributeError as error:
            if error.name not in CHANGING:
                raise
            kind = type(optimizer).__name__
            raise UserError(f"{kind}.step reads self.{error.name}: on a GPU take it from self.now") from None
        finally:
            vars(optimizer).update(attributes)
