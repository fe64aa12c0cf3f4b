"""Data on single nodes: formulas from docstrings, statistics of values and gradients."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nl_nodes import Add, Graph, Input, Leaf, Node

BINS = 24
FORMULA = re.compile(r"Forward: (.*?)\.?\s+Backward: (.*?)\.?\s+(?:Shapes|Saves):", re.DOTALL)


@dataclass(frozen=True)
class Formula:
    """Summary and formulas from a node's docstring; a formula is empty if the docstring has none."""

    summary: str
    forward: str
    backward: str


def formula(kind: type[Node]) -> Formula:
    """Return the formulas of a node class.

    >>> from nl_nodes import Exp
    >>> formula(Exp)
    Formula(summary='y = exp(x).', forward='y = exp(x)', backward='dx = dy * y')
    """
    found = FORMULA.search(" ".join((kind.__doc__ or "").split()))
    forward, backward = found.groups() if found else ("", "")
    return Formula(summary(kind), forward, backward)


def summary(kind: type) -> str:
    """Return the first paragraph of a docstring in one line."""
    return " ".join((kind.__doc__ or kind.__name__).replace("`", "").strip().partition("\n\n")[0].split())


@dataclass(frozen=True)
class Statistics:
    """Statistics of the finite values of an array.

    Attributes:
        low: minimum.
        mean: mean.
        high: maximum.
        std: standard deviation.
        zeros: share of all values that are exactly 0.
        infinite: number of values that are not finite.
        counts: histogram of `BINS` equal bins from low to high.
    """

    low: float
    mean: float
    high: float
    std: float
    zeros: float
    infinite: int
    counts: tuple[int, ...]


def statistics(array: Any) -> Statistics | None:
    """Return the statistics of a host array, None if no value is finite."""
    numbers = np.asarray(array, dtype=np.float64).ravel()
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    # If all values are equal they go to the middle bin.
    share = (finite - low) / (high - low) if low < high else np.full(finite.shape, 0.5)
    counts = np.bincount(np.minimum(share * BINS, BINS - 1).astype(int), minlength=BINS)
    return Statistics(
        low=low,
        mean=float(finite.mean()),
        high=high,
        std=float(finite.std()),
        zeros=float(np.mean(numbers == 0)),
        infinite=int(numbers.size - finite.size),
        counts=tuple(counts.tolist()),
    )


def observe(graph: Graph, feeds: Mapping[str, Any], dy: Any) -> tuple[dict[Node, Any], dict[Node, Any]]:
    """Run one pass and return the value of every node, and the gradient of every node that has one.

    A graph returns gradients of leaves only, so a zero leaf is added to each node here; its gradient is the node's.

    Args:
        graph: the graph, not modified; its first output is differentiated.
        feeds: arrays for its inputs.
        dy: upstream gradient.
    """
    shapes = graph.shapes({name: array.shape for name, array in feeds.items()})
    dtype = np.asarray(dy).dtype
    on_path = gradient_path(graph)
    tapped: dict[Node, Node] = {}
    zeros: dict[str, Any] = {}
    for number, node in enumerate(graph.order):
        tapped[node] = node
        if not isinstance(node, Leaf):
            tapped[node] = copy = node.replace([tapped[n] for n in node.inputs])
            if node in on_path:
                zeros[f"tap {number}"] = np.broadcast_to(np.zeros((), dtype), shapes[node])
                tapped[node] = Add(copy, Input(f"tap {number}"))
    tapped_graph = Graph(tapped[graph.outputs[0]], *tapped.values())
    tapped_graph.passes = graph.passes
    run = tapped_graph.run(**feeds, **zeros)
    values = dict(zip(graph.order, run.results[1:], strict=True))
    found = run.backward(dy)
    names = {node: node.name if isinstance(node, Leaf) else f"tap {i}" for i, node in enumerate(graph.order)}
    return values, {node: found[names[node]] for node in graph.order if node in on_path}


def gradient_path(graph: Graph) -> set[Node]:
    """Return the nodes with a gradient of their own, one that is not included in another node's."""
    found = {graph.outputs[0]} & graph.needs
    for node in graph.backward_order():
        if node in found:
            inputs = (n for i, n in enumerate(node.inputs) if i not in node.grad_included_in_first)
            found.update(graph.needs.intersection(inputs))
    return found


def included_gradients(graph: Graph) -> set[Node]:
    """Return the nodes whose gradient is only included in another node's."""
    return {node.inputs[i] for node in graph.order for i in node.grad_included_in_first} - gradient_path(graph)
