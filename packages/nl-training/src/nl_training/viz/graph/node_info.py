"""What there is to say of one node: its formula, and the numbers that went through it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nl_nodes import Add, Graph, Input, Leaf, Node

BINS = 24
FORMULA = re.compile(r"Forward: (.*?)\.?\s+Backward: (.*?)\.?\s+(?:Shapes|Keeps):", re.DOTALL)


@dataclass(frozen=True)
class Formula:
    """What a node's docstring says: its first line, and its formula forward and backward (empty where it has none)."""

    summary: str
    forward: str
    backward: str


def formula(kind: type[Node]) -> Formula:
    """The formula of a kind of node.

    >>> from nl_nodes import Exp
    >>> formula(Exp)
    Formula(summary='y = e^x.', forward='y = exp(x)', backward='dx = dy * y')
    """
    found = FORMULA.search(" ".join((kind.__doc__ or "").split()))
    forward, backward = found.groups() if found else ("", "")
    return Formula(summary(kind), forward, backward)


def summary(kind: type) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((kind.__doc__ or kind.__name__).replace("`", "").strip().partition("\n\n")[0].split())


@dataclass(frozen=True)
class Statistics:
    """Of one array: its smallest, mean and largest finite value, their spread, and how they lie between.

    Attributes:
        zeros: the share that is exactly 0.
        infinite: how many are no finite number.
        counts: how many lie in each of `BINS` equal steps from low to high.
    """

    low: float
    mean: float
    high: float
    std: float
    zeros: float
    infinite: int
    counts: tuple[int, ...]


def statistics(array: Any) -> Statistics | None:
    """The statistics of a host array; None where no number in it is finite."""
    numbers = np.asarray(array, dtype=np.float64).ravel()
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    # Equal numbers have no steps between them: they all lie in the middle one.
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
    """The value of every node in one pass, and the gradient of every node through which one flows.

    A graph hands out gradients of leaves alone. So each node gets a leaf of its own here: a zero that is added to it,
    whose gradient is the node's.

    Args:
        graph: its first output is differentiated; nothing of it is changed.
        feeds: arrays for its inputs.
        dy: the upstream gradient.
    """
    shapes = graph.shapes({name: array.shape for name, array in feeds.items()})
    dtype = np.asarray(dy).dtype
    on_path = reached(graph)
    tapped: dict[Node, Node] = {}
    zeros: dict[str, Any] = {}
    for number, node in enumerate(graph.order):
        tapped[node] = node
        if not isinstance(node, Leaf):
            tapped[node] = again = node.replace([tapped[n] for n in node.inputs])
            if node in on_path:
                zeros[f"tap {number}"] = np.broadcast_to(np.zeros((), dtype), shapes[node])
                tapped[node] = Add(again, Input(f"tap {number}"))
    seen = Graph(tapped[graph.outputs[0]], *tapped.values())
    seen.passes = graph.passes
    done = seen.run(**feeds, **zeros)
    values = dict(zip(graph.order, done.results[1:], strict=True))
    found = done.backward(dy)
    names = {node: node.name if isinstance(node, Leaf) else f"tap {i}" for i, node in enumerate(graph.order)}
    return values, {node: found[names[node]] for node in graph.order if node in on_path}


def reached(graph: Graph) -> set[Node]:
    """The nodes through which a gradient flows from the first output, on its own and not in another's."""
    found = {graph.outputs[0]} & graph.needs
    for node in reversed(graph.order):
        if node in found:
            found.update(
                n for i, n in enumerate(node.inputs) if i not in node.grad_included_in_first and n in graph.needs
            )
    return found


def carried(graph: Graph) -> set[Node]:
    """The nodes whose gradient is part of another's."""
    return {node.inputs[i] for node in graph.order for i in node.grad_included_in_first} - reached(graph)
