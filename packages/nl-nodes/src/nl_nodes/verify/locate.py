"""Locate the node whose backward is wrong: check each node of a graph in isolation, on its inputs in that graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nl_nodes.graph import Graph
from nl_nodes.node import Node
from nl_nodes.nodes.leaves import Input, Leaf
from nl_nodes.shapes import size
from nl_nodes.typing import Shape
from nl_nodes.verify.check import Residual, check_graph, sample_check
from nl_nodes.verify.numeric import complex_step
from nl_nodes.verify.rounding import rough_passes, rounding
from nl_nodes.verify.sampling import upstream
from nl_nodes.verify.subgraph import node_values

TOLERANCE = 1e-10
# Inputs of at most this size are checked element by element; in larger ones a wrong element is found by bisection.
ONE_BY_ONE = 2048


@dataclass(frozen=True)
class Fault:
    """A node whose backward disagrees with its forward.

    Attributes:
        node: the node.
        place: its index in the graph's order.
        input: the index of the input whose gradient is wrong.
        residual: the element's index, both values there, and their difference.
        shapes: the shapes of all its inputs.
        dtype: the dtype of the check.
        seed: seed of the upstream gradient and the directions.
    """

    node: Node
    place: int
    input: int
    residual: Residual
    shapes: tuple[Shape, ...]
    dtype: str
    seed: int

    @property
    def ulps(self) -> float:
        """The difference in units of the last place of the larger value."""
        a, n = self.residual.analytic, self.residual.numeric
        return float(abs(a - n) / np.spacing(max(abs(a), abs(n))))

    def report(self, reproduce: str) -> str:
        """Return a description of the fault in a few lines, ending in the command that reproduces it."""
        r = self.residual
        shapes = " and ".join(map(str, self.shapes))
        return "\n".join(
            [
                f"wrong backward: {type(self.node).__name__}, node {self.place} of the graph, gradient of input "
                f"{self.input}",
                f"  inputs     {shapes}, {self.dtype}, seed {self.seed}",
                *[f"  {name:<10} {value!r}" for name, value in self.node.attributes.items()],
                f"  at         {r.where}",
                f"  analytic   {r.analytic:.17g}  (its backward)",
                f"  numerical  {r.numeric:.17g}  (complex step through its forward)",
                f"  differ by  {r.value:.2e} of the largest, {self.ulps:.3g} ulps",
                f"  reproduce  {reproduce}",
            ]
        )


def first_wrong(graph: Graph, feeds: Mapping[str, Any], seed: int = 0) -> Fault | None:
    """Return the wrong node nearest to the output, or None if every node agrees with the complex step.

    Args:
        graph: the values of its leaves are float64.
        feeds: float64 arrays for its inputs.
        seed: seed of upstream gradients and directions.
    """
    values = node_values(graph, feeds)
    for node in graph.backward_order():
        if not isinstance(node, Leaf):
            fault = _check(graph, node, graph.order.index(node), values, seed)
            if fault is not None:
                return fault
    return None


def _check(graph: Graph, node: Node, place: int, values: Mapping[Node, Any], seed: int) -> Fault | None:
    wanted = [i for i, n in enumerate(node.inputs) if n in graph.needs and i not in node.grad_included_in_first]
    rng = np.random.default_rng((seed, place))
    alone = IsolatedNode(graph, node, values, wanted, upstream(rng, values[node].shape))
    for residual in sample_check(alone.graph, alone.feeds, alone.dy, rng):
        if not residual.value <= TOLERANCE and not alone.rounds(residual):
            number = int(residual.name)
            worst = IsolatedNode(graph, node, values, [number], alone.dy).worst(residual, rng)
            shapes = tuple(tuple(values[n].shape) for n in node.inputs)
            return Fault(node, place, number, worst, shapes, str(values[node].dtype), seed)
    return None


class IsolatedNode:
    """A graph of one node, whose inputs are named by their indices.

    Args:
        graph: the graph that contains the node.
        node: the node.
        values: the output of every node of the graph.
        wanted: the indices of the inputs whose gradients are checked.
        dy: the upstream gradient.
    """

    def __init__(self, graph: Graph, node: Node, values: Mapping[Node, Any], wanted: list[int], dy: Any) -> None:
        inputs: list[Node] = [Input(str(i), gradient=i in wanted) for i in range(len(node.inputs))]
        given: dict[Node, Node] = dict(zip(node.inputs[:1], inputs, strict=False))
        for i in node.grad_included_in_first:
            inputs[i] = _upon(node.inputs[i], given)
        self.graph = Graph(node.replace(inputs))
        self.graph.passes = graph.passes
        self.feeds = {str(i): values[n] for i, n in enumerate(node.inputs) if i not in node.grad_included_in_first}
        self.dy = dy

    def rounds(self, residual: Residual) -> bool:
        """Return whether rounding explains a residual, for example with saturated activations."""
        grad = self.graph.run(**self.feeds).backward(self.dy)[residual.name]
        passes = (rough_pass(self.graph, self.feeds) for rough_pass in rough_passes())
        noise = rounding(grad, *(done.backward(self.dy)[residual.name] for done in passes))
        return abs(residual.analytic - residual.numeric) <= noise

    def worst(self, wrong: Residual, rng: np.random.Generator) -> Residual:
        """Return the residual at the worst element, or for a large input at one found by bisection."""
        if size(wrong.shape) <= ONE_BY_ONE:
            (found,) = check_graph(self.graph, self.feeds, self.dy)
            return found
        grad = self.graph.run(**self.feeds).backward(self.dy)[wrong.name]
        signs = rng.choice([-1.0, 1.0], grad.size)
        part = np.arange(grad.size)
        while len(part) > 1:
            part = max(np.array_split(part, 2), key=lambda half: self._apart(wrong.name, grad, signs, half))
        where = tuple(int(i) for i in np.unravel_index(int(part[0]), grad.shape))
        analytic, numeric = float(grad[where]), self._numeric(wrong.name, np.ones(grad.size), part)
        value = abs(analytic - numeric) / max(wrong.size, abs(numeric))
        return Residual(wrong.name, wrong.shape, value, analytic, numeric, where, wrong.size)

    def _apart(self, name: str, grad: Any, signs: Any, part: Any) -> float:
        """Return the difference from the complex step along the signs of some of the elements."""
        difference = grad.ravel()[part] @ signs[part] - self._numeric(name, signs, part)
        return float(np.nan_to_num(abs(difference), nan=np.inf))

    def _numeric(self, name: str, signs: Any, part: Any) -> float:
        direction = np.zeros(len(signs))
        direction[part] = signs[part]
        return complex_step(self.graph, self.feeds, name, direction.reshape(self.feeds[name].shape), self.dy)


def _upon(node: Node, given: dict[Node, Node]) -> Node:
    """Return a copy of the node in which the keys of `given` are replaced by its values, recursively."""
    if node not in given:
        given[node] = node.replace([_upon(n, given) for n in node.inputs])
    return given[node]
