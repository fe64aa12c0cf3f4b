"""Numerical derivatives: the complex step, exact to rounding, and central differences beside it.

All are of <dy, output>, from forward passes alone, along one direction. A parameter that is not fed stands at its own
value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nl_nodes.context import Context
from nl_nodes.graph import Graph, Pass
from nl_nodes.node import Node

# No step is too small for the complex step, since nothing is subtracted; but where derivatives are large, as through
# many batch norms of constant maps, a larger one would not stay small.
COMPLEX_H = 1e-100
# Near the cube root of float64's rounding, and a power of two, so that x + h is exact.
CENTRAL_H = 2.0**-17


class ComplexPass(Pass):
    """A forward pass with complex numbers that takes every branch that the pass with real numbers takes.

    A sum of complex numbers is rounded otherwise than that of their real parts, which would let the two part at a tie
    or a kink. So each node's real part is what the node gives for real parts alone. There is no backward.
    """

    def _output(self, node: Node, ctx: Context, inputs: tuple[Any, ...]) -> Any:
        output = np.asarray(super()._output(node, ctx, inputs))
        if np.iscomplexobj(output) and not any(np.may_share_memory(output, x) for x in inputs):
            real = tuple(x.real for x in inputs)
            output.real = node.forward(self._new_kept(node, real), *real)
        return output


def derivative(graph: Graph, feeds: Mapping[str, Any], direction: Mapping[str, Any], dy: Any) -> float:
    """d/dh <dy, output(leaves + h direction)> at h = 0, as the imaginary part of one pass at `COMPLEX_H` i.

    The direction has an array for each leaf that moves.

    Source: Squire and Trapp, Using Complex Variables to Estimate Derivatives (1998).
    """
    moved = {name: _value(graph, feeds, name) + 1j * COMPLEX_H * u for name, u in direction.items()}
    output = ComplexPass(graph, {**feeds, **moved}).results[0]
    return float(np.sum(dy * output.imag)) / COMPLEX_H


def complex_step(graph: Graph, feeds: Mapping[str, Any], name: str, direction: Any, dy: Any) -> float:
    """The `derivative` along one leaf."""
    return derivative(graph, feeds, {name: direction}, dy)


def central(graph: Graph, feeds: Mapping[str, Any], name: str, direction: Any, dy: Any) -> float:
    """(<dy, output(leaf + h direction)> - <dy, output(leaf - h direction)>) / 2h."""
    value = _value(graph, feeds, name)

    def at(h: float) -> Any:
        return graph.run(**{**feeds, name: value + h * direction}).results[0]

    return float(np.sum(dy * (at(CENTRAL_H) - at(-CENTRAL_H)))) / (2 * CENTRAL_H)


def units(array: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
    """For each element of an array, its index and the direction that moves it alone."""
    for index in np.ndindex(array.shape):
        direction = np.zeros(array.shape)
        direction[index] = 1.0
        yield index, direction


def _value(graph: Graph, feeds: Mapping[str, Any], name: str) -> Any:
    return feeds[name] if name in feeds else graph.leaves[name].value
