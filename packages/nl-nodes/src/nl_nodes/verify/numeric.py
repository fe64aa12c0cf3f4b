"""Numerical derivatives: the complex step, exact up to rounding, and central differences.

All differentiate `<dy, output>` along one direction, using forward passes only. A parameter that is not fed has its
own value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nl_nodes.context import Context
from nl_nodes.graph import Graph, Pass
from nl_nodes.node import Node

# The complex step subtracts nothing, so a tiny step loses no digits. A larger one may not stay small where derivatives
# are large, such as through many batch norms of constant feature maps.
COMPLEX_H = 1e-100
# Near the cube root of float64's machine epsilon, and a power of two, so that x + h is exact.
CENTRAL_H = 2.0**-17


class ComplexPass(Pass):
    """A forward pass with complex numbers that takes the same branches as the pass with real numbers.

    Sums of complex numbers round differently from sums of their real parts, so at a tie or a kink the two passes could
    take different branches. Therefore the real part of each node's output is computed from the real parts of its
    inputs. There is no backward.
    """

    def _output(self, node: Node, ctx: Context, inputs: tuple[Any, ...]) -> Any:
        output = np.asarray(super()._output(node, ctx, inputs))
        if np.iscomplexobj(output) and not any(np.may_share_memory(output, x) for x in inputs):
            real = tuple(x.real for x in inputs)
            output.real = node.forward(self._new_kept(node, real), *real)
        return output


def derivative(graph: Graph, feeds: Mapping[str, Any], direction: Mapping[str, Any], dy: Any) -> float:
    """Return `d/dh <dy, output(leaves + h direction)>` at `h = 0`: the imaginary part of one pass at `COMPLEX_H` i.

    The direction has one array for each leaf that it moves.

    Source: Squire and Trapp, Using Complex Variables to Estimate Derivatives (1998).
    """
    moved = {name: _value(graph, feeds, name) + 1j * COMPLEX_H * u for name, u in direction.items()}
    output = ComplexPass(graph, {**feeds, **moved}).results[0]
    return float(np.sum(dy * output.imag)) / COMPLEX_H


def complex_step(graph: Graph, feeds: Mapping[str, Any], name: str, direction: Any, dy: Any) -> float:
    """Return the `derivative` along a direction of one leaf."""
    return derivative(graph, feeds, {name: direction}, dy)


def central(graph: Graph, feeds: Mapping[str, Any], name: str, direction: Any, dy: Any) -> float:
    """Return `(<dy, output(leaf + h direction)> - <dy, output(leaf - h direction)>) / 2h`."""
    value = _value(graph, feeds, name)

    def at(h: float) -> Any:
        return graph.run(**{**feeds, name: value + h * direction}).results[0]

    return float(np.sum(dy * (at(CENTRAL_H) - at(-CENTRAL_H)))) / (2 * CENTRAL_H)


def units(array: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yield each element's index and the unit direction along it."""
    for index in np.ndindex(array.shape):
        direction = np.zeros(array.shape)
        direction[index] = 1.0
        yield index, direction


def _value(graph: Graph, feeds: Mapping[str, Any], name: str) -> Any:
    return feeds[name] if name in feeds else graph.leaves[name].value
