"""Numerical gradients: the complex step, exact to rounding, and central differences beside it.

Both give the gradient of <dy, output> for one leaf, or its product with one direction, from forward passes alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nl_nodes.graph import Graph

# No step is too small for the complex step, since nothing is subtracted.
COMPLEX_H = 1e-30
# Near the cube root of float64's rounding, and a power of two, so that x + h is exact.
CENTRAL_H = 2.0**-17


def complex_step(graph: Graph, feeds: Mapping[str, Any], name: str, direction: Any, dy: Any) -> float:
    """d/dh <dy, output(leaf + h direction)> at h = 0, as the imaginary part of one pass at h = 1e-30 i.

    Source: Squire and Trapp, Using Complex Variables to Estimate Derivatives (1998).
    """
    point = feeds[name] + 1j * COMPLEX_H * direction
    output = graph.run(**{**feeds, name: point}).results[0]
    return float(np.sum(dy * output.imag)) / COMPLEX_H


def central(graph: Graph, feeds: Mapping[str, Any], name: str, direction: Any, dy: Any) -> float:
    """(<dy, output(leaf + h direction)> - <dy, output(leaf - h direction)>) / 2h."""

    def at(h: float) -> Any:
        return graph.run(**{**feeds, name: feeds[name] + h * direction}).results[0]

    return float(np.sum(dy * (at(CENTRAL_H) - at(-CENTRAL_H)))) / (2 * CENTRAL_H)


def units(array: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
    """For each element of an array, its index and the direction that moves it alone."""
    for index in np.ndindex(array.shape):
        direction = np.zeros(array.shape)
        direction[index] = 1.0
        yield index, direction
