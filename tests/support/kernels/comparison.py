"""Passes through kernels beside passes through NumPy on the same plan, or beside exact ones."""

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

PASS = 3
"""The index of every pass."""


def graph_error(
    graph: Graph,
    feeds: Mapping[str, np.ndarray],
    places: Mapping[str, Any] | None,
    kernels: KernelExecutor | None = None,
) -> float:
    """Return the distance of a compiled graph's pass through kernels from one through NumPy."""
    return largest_error(*(_pass(graph, feeds, places, how) for how in (kernels or KernelExecutor(), Executor())))


def error_beside_exact(
    graph: Graph,
    values: Mapping[str, np.ndarray],
    feeds: Mapping[str, np.ndarray],
    places: Mapping[str, Any] | None,
    kernels: KernelExecutor | None = None,
) -> float:
    """Return the distance of a pass through kernels from one node by node in NumPy's widest precision.

    So the rounding errors of NumPy's plan do not count, which are larger than the kernels' where a sum cancels.

    Args:
        graph: the graph.
        values: the values of its leaves.
        feeds: images, and labels in training.
        places: where to put the gradients, None for a graph without any.
        kernels: the kernels' executor.
    """
    found = _pass(graph, feeds, places, kernels or KernelExecutor())
    graph.passes = PASS
    wide = {n: x.astype(np.longdouble) if x.dtype.kind == "f" else x for n, x in {**values, **feeds}.items()}
    done = graph.run(**{name: x for name, x in wide.items() if name in feeds or name in graph.leaves})
    expected = {f"result {i}": result for i, result in enumerate(done.results)}
    if places is not None:
        grads = done.backward(np.ones((), np.longdouble))
        expected |= {f"gradient of {name}": grad for name, grad in grads.items()}
        expected |= {f"update of {buffer.name}": new for buffer, new in done.updates.items()}
    return largest_error(found, {name: x.astype(feeds["x"].dtype) for name, x in expected.items()})


def _pass(
    graph: Graph, feeds: Mapping[str, np.ndarray], places: Mapping[str, Any] | None, executor: Executor
) -> Arrays:
    """Return the outcome of a compiled graph's pass; its gradients' places hold nothing before."""
    for place in (places or {}).values():
        place[...] = np.nan
    shapes = {name: (x.shape, x.dtype) for name, x in feeds.items()}
    return outcome(compile_graph(graph, CompileSpec(shapes, frozenset(feeds), places), executor), feeds)


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
    results = plan.run(feeds, pass_index=PASS)
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
