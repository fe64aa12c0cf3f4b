"""Estimate rounding errors from passes with larger random errors, scaled to float64 or float32.

A gradient may be the small remainder of large terms that cancel, or 0 except for rounding. No relative tolerance fits
these cases. A pass with larger rounding errors shows how far rounding moves each array, whatever the cause; of several
passes the largest estimate counts, since the errors of one may happen to cancel.

Source: Parker, Monte Carlo Arithmetic (1997).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from nl_nodes.context import Context
from nl_nodes.graph import Graph, Pass
from nl_nodes.node import Node
from nl_nodes.nodes.leaves import Leaf

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}
"""The largest relative error of a rounded number."""
# For float64 not larger: where errors grow by many orders of magnitude, larger ones would not grow in proportion.
ROUGH = {"float32": 2.0**-26, "float64": 2.0**-46}
"""The largest relative error of each number in a rough pass, by the dtype whose rounding it estimates."""
ROUGH_PASSES = 3
"""Number of rough passes per estimate."""
MARGIN = 64
"""A difference of up to this multiple of the estimate counts as rounding."""


class RoughPass(Pass):
    """A forward and backward pass in which every number has a random relative error up to `error`; zeros stay zero.

    Args:
        graph: the graph to run.
        feeds: arrays by name, as for `Graph.run`.
        dtype: the dtype whose rounding is estimated; the pass itself is in float64.
        seed: seed of the random errors.

    Attributes:
        error: the largest relative error.
    """

    def __init__(self, graph: Graph, feeds: Mapping[str, Any], dtype: str = "float64", seed: int = 0) -> None:
        self.error, self._rng = ROUGH[dtype], np.random.default_rng(seed)
        super().__init__(graph, feeds)

    def _leaf(self, leaf: Leaf, feeds: Mapping[str, Any]) -> Any:
        return self._rough(super()._leaf(leaf, feeds))

    def _output(self, node: Node, ctx: Context, inputs: tuple[Any, ...]) -> Any:
        return self._rough(super()._output(node, ctx, inputs))

    def _backward(self, node: Node, grads: dict[Node, Any]) -> None:
        grads[node] = self._rough(grads[node])
        super()._backward(node, grads)

    def _rough(self, x: Any) -> Any:
        return x * (1 + self.error * self._rng.uniform(-1, 1, x.shape)) if x.dtype.kind == "f" else x


def rough_passes(dtype: str = "float64") -> list[Callable[[Graph, Mapping[str, Any]], RoughPass]]:
    """Return constructors of rough passes that draw different errors; each takes a graph and feeds."""
    return [partial(RoughPass, dtype=dtype, seed=seed) for seed in range(ROUGH_PASSES)]


def rounding(exact: Any, *others: Any, dtype: str = "float64", error: float | None = None) -> float:
    """Return the largest 2-norm of a difference from an array that rounding to a dtype explains.

    Args:
        exact: the array.
        others: the same array from passes with larger rounding errors.
        dtype: the dtype.
        error: the relative error of each number in `others`; None for that of rough passes.
    """
    return MARGIN * UNIT_ROUNDOFF[dtype] / (error or ROUGH[dtype]) * max(length(other - exact) for other in others)


def length(x: Any) -> float:
    """Return the 2-norm of an array of any shape."""
    return float(np.linalg.norm(np.ravel(x)))
