"""Compare a graph's analytic gradients with numerical gradients, leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nl_nodes.graph import Graph
from nl_nodes.typing import Shape
from nl_nodes.verify.directional import DirectionalCheck, worst
from nl_nodes.verify.numeric import complex_step, units
from nl_nodes.verify.sampling import directions

Oracle = Callable[[Graph, Mapping[str, Any], str, Any, Any], float]


@dataclass(frozen=True)
class Residual:
    """Difference between one leaf's analytic and numerical gradient.

    Attributes:
        name: name of the leaf.
        shape: shape of the leaf.
        value: the largest difference, in units of the gradient's size; 0 if both gradients are 0.
        analytic: the analytic value at the largest difference.
        numeric: the numerical value there.
        where: the index of that element, or the number of the random direction.
        size: the gradient's largest absolute value; if it is 0, the check proves nothing.
    """

    name: str
    shape: Shape
    value: float
    analytic: float
    numeric: float
    where: tuple[int, ...]
    size: float


def check_graph(graph: Graph, feeds: Mapping[str, Any], dy: Any, oracle: Oracle = complex_step) -> list[Residual]:
    """Return the residual of each trainable leaf, checked element by element.

    Args:
        graph: its first output is differentiated.
        feeds: float64 arrays for its inputs; a parameter that is not fed has its own value.
        dy: the upstream gradient.
        oracle: the numerical method.
    """
    grads = graph.run(**feeds).backward(dy)
    return [_elementwise(graph, feeds, name, grad, dy, oracle) for name, grad in grads.items()]


def sample_check(
    graph: Graph, feeds: Mapping[str, Any], dy: Any, rng: np.random.Generator, draws: int = 2
) -> list[Residual]:
    """Return the residual of each trainable leaf along random directions; see `check_gradients`."""
    return check_gradients(graph, feeds, dy, graph.run(**feeds).backward(dy), rng, draws)


def check_gradients(
    graph: Graph, feeds: Mapping[str, Any], dy: Any, grads: Mapping[str, Any], rng: np.random.Generator, draws: int = 2
) -> list[Residual]:
    """Return the residual of each given gradient along `draws` random directions of its own.

    All directions but the last have components of +1 and -1, so that no single wrong element is missed; the last is
    Gaussian, so that the errors of several elements cannot cancel.
    """
    check, found = DirectionalCheck([(graph, feeds, dy)]), []
    for name, grad in grads.items():
        number, product = worst(check.along_each(name, grad, directions(rng, grad.shape, draws)))
        size = float(np.abs(grad).max(initial=0.0))
        found.append(Residual(name, grad.shape, product.residual, product.analytic, product.numeric, (number,), size))
    return found


def _elementwise(graph: Graph, feeds: Mapping[str, Any], name: str, grad: Any, dy: Any, oracle: Oracle) -> Residual:
    numeric = np.zeros(grad.shape)
    for index, direction in units(grad):
        numeric[index] = oracle(graph, feeds, name, direction, dy)
    size = float(max(np.abs(grad).max(initial=0.0), np.abs(numeric).max(initial=0.0)))
    if not grad.size:
        return Residual(name, grad.shape, 0.0, 0.0, 0.0, (), 0.0)
    error = np.abs(grad - numeric)
    where = tuple(int(i) for i in np.unravel_index(int(error.argmax()), grad.shape))
    value = float(error[where]) / size if size else 0.0
    return Residual(name, grad.shape, value, float(grad[where]), float(numeric[where]), where, size)
