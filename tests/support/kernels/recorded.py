"""Array maths that a plan of nothing else runs as its update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nl_layers import FlatDict
from nl_layers.optimizers import Optimizer
from nl_models.recorded_update import recorded_update, update_key
from nl_nodes import Graph, Input, MulConst
from nl_nodes.compiler import CompileSpec, Plan, Update
from support.kernels.executor import KernelExecutor


def plan_of(update: Update, kernels: KernelExecutor) -> Plan:
    """Return a plan of which a pass is an update; its one other input is "zero"."""
    kernels.checks = True
    spec = CompileSpec({"zero": ((1,), update.gradient.dtype)}, update=update)
    return Plan(Graph(MulConst(Input("zero", (1,), gradient=False), 1.0)), spec, kernels)


def run_recorded(
    function: Callable[[Sequence[Any], Mapping[str, Any]], None],
    arrays: Sequence[np.ndarray],
    numbers: Mapping[str, float],
    kernels: KernelExecutor,
) -> None:
    """Let a function change arrays, given traced ones and the numbers as arrays without axes."""
    finite = np.zeros((), arrays[0].dtype)
    update = Update(lambda _, *given: function(*given), arrays[0], arrays, tuple(numbers), finite)
    plan_of(update, kernels).run({"zero": np.zeros(1), **numbers}, 0)


class RecordedSteps:
    """The steps of one optimizer, each recorded step a plan."""

    def __init__(self) -> None:
        self._plans: dict[Any, Plan] = {}

    def run(self, optimizer: Optimizer, params: FlatDict, grads: FlatDict) -> None:
        """Let the optimizer take a step."""
        optimizer.begin(params, grads)
        key = (update_key(optimizer, 0.0), id(params.flat), id(grads.flat))
        if key not in self._plans:
            finite = np.zeros((), params.flat.dtype)
            self._plans[key] = plan_of(recorded_update(optimizer, params, grads, 0.0, finite), KernelExecutor())
        self._plans[key].run({"zero": np.zeros(1), **optimizer.now}, 0)
