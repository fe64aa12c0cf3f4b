"""The size of rounding errors: passes with random errors in every number, scaled to the precision in question.

A gradient may be the small remainder of large terms that cancel, or exactly 0 but for rounding. No relative tolerance
fits these. Rough passes show how far rounding moves each array, whatever the cause; of several the largest counts,
since the random errors of one may happen to cancel out.

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
# As near to that as float64 allows: where errors grow by many orders, larger ones would not grow in proportion.
ROUGH = {"float32": 2.0**-26, "float64": 2.0**-46}
"""The largest relative error of each number in a rough pass, by the dtype whose rounding it shows."""
ROUGH_PASSES = 3
"""How many rough passes are made."""
MARGIN = 64
"""How many times the estimate a difference may be that still counts as rounding."""


class RoughPass(Pass):
    """A pass in which every number has a random relative error, forward and backward; zeros stay.

    Args:
        graph: the graph to run.
        feeds: arrays by name, as for `Graph.run`.
        dtype: the dtype whose rounding is shown; the pass itself is in float64.
        seed: of the random errors.

    Attributes:
        error: the largest of these errors.
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
    """Rough passes with different errors, to be called with a graph and feeds."""
    return [partial(RoughPass, dtype=dtype, seed=seed) for seed in range(ROUGH_PASSES)]


def rounding(exact: Any, *others: Any, dtype: str = "float64", error: float | None = None) -> float:
    """The largest length of a difference from an array that rounding to a dtype explains.

    Args:
        exact: the array.
        others: the same with other rounding errors, once or several times.
        dtype: the dtype.
        error: the relative error of each number in `others`; None for that of rough passes.
    """
    return MARGIN * UNIT_ROUNDOFF[dtype] / (error or ROUGH[dtype]) * max(length(other - exact) for other in others)


def length(x: Any) -> float:
    """The Euclidean length of an array of any shape."""
    return float(np.linalg.norm(np.ravel(x)))
