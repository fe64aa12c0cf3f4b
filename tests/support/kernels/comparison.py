"""Passes through kernels beside passes through NumPy, on the same plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nl_nodes import Graph, Input, Mul
from nl_nodes.compiler import CompileSpec, Plan, compile_graph
from nl_nodes.runtime import Executor
from support.contract import Subject
from support.kernels.executor import KernelExecutor
from support.kernels.poison import poison

Arrays = dict[str, np.ndarray]


def graph_error(
    graph: Graph,
    feeds: Mapping[str, np.ndarray],
    places: Mapping[str, Any] | None,
    kernels: KernelExecutor | None = None,
) -> float:
    """Return the distance of a compiled graph's pass through kernels from one through NumPy."""
    shapes = {name: (x.shape, x.dtype) for name, x in feeds.items()}
    spec = CompileSpec(shapes, frozenset(feeds), places)
    found = []
    for executor in (kernels or KernelExecutor(), Executor()):
        for place in (places or {}).values():
            place[...] = np.nan
        found.append(outcome(compile_graph(graph, spec, executor), feeds))
    return largest_error(*found)


def case_error(s: Subject) -> float:
    """Return the distance of a case's weighted output and gradients, which all are gradients of the plan itself."""
    graph = Graph(Mul(s.graph.outputs[0], Input("dy", gradient=False)))
    feeds = {**s.feeds, "dy": s.dy}
    shapes = {name: (x.shape, x.dtype) for name, x in feeds.items()}
    plans = [Plan(graph, CompileSpec(shapes, frozenset(), {}), executor) for executor in (KernelExecutor(), Executor())]
    return largest_error(*(outcome(plan, feeds) for plan in plans))


def outcome(plan: Plan, feeds: Mapping[str, np.ndarray]) -> Arrays:
    """Return results, gradients and updates of a pass of a plan whose memory is poisoned."""
    poison(plan)
    results = plan.run(feeds, pass_index=3)
    found = {f"result {i}": result for i, result in enumerate(results)}
    found |= {f"gradient of {name}": np.array(grad) for name, grad in plan.grads.items()}
    return found | {f"update of {buffer.name}": np.array(new) for buffer, new in plan._updates.items()}


def largest_error(found: Arrays, expected: Arrays) -> float:
    """Return the largest distance of any array, in parts of its norm; infinite where a value is not finite."""
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == x.dtype and found[name].shape == x.shape for name, x in expected.items())
    return max(_error(found[name], x) for name, x in expected.items())


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    if not np.isfinite(found).all():
        return np.inf
    distance, size = float(np.linalg.norm(found - expected)), float(np.linalg.norm(expected))
    return distance / size if distance else 0.0
