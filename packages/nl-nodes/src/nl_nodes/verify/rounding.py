"""The size of rounding errors: a pass that rounds every number to half of the digits, scaled to float64.

A gradient may be the small remainder of large terms that cancel, or exactly 0 but for rounding. No relative tolerance
fits these. Rough passes show how far rounding moves each array, whatever the cause; of several the largest counts,
since the random errors of one may happen to cancel out.

Source: Parker, Monte Carlo Arithmetic (1997).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from nl_nodes.context import Context
from nl_nodes.graph import Graph, Pass
from nl_nodes.node import Node
from nl_nodes.nodes.leaves import Leaf

ROUGH = 2.0**-26
"""The largest relative error of each number in a rough pass."""
SINGLE, DOUBLE = 2.0**-24, 2.0**-53
"""The same in float32 and float64."""
MARGIN = 64
"""How many times the estimate a difference may be that still counts as rounding."""


class RoughPass(Pass):
    """A pass in which every number has a random relative error up to `ROUGH`, forward and backward; zeros stay.

    Args:
        graph: the graph to run.
        feeds: arrays by name, as for `Graph.run`.
        seed: of the random errors.
    """

    def __init__(self, graph: Graph, feeds: Mapping[str, Any], seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        super().__init__(graph, feeds)

    def _leaf(self, leaf: Leaf, feeds: Mapping[str, Any]) -> Any:
        return self._rough(super()._leaf(leaf, feeds))

    def _output(self, node: Node, ctx: Context, inputs: tuple[Any, ...]) -> Any:
        return self._rough(super()._output(node, ctx, inputs))

    def _backward(self, node: Node, grads: dict[Node, Any]) -> None:
        grads[node] = self._rough(grads[node])
        super()._backward(node, grads)

    def _rough(self, x: Any) -> Any:
        return x * (1 + ROUGH * self._rng.uniform(-1, 1, x.shape)) if x.dtype.kind == "f" else x


ROUGH_PASSES = tuple(partial(RoughPass, seed=seed) for seed in range(3))
"""Rough passes with different errors, to be called with a graph and feeds."""


def rounding(exact: Any, *others: Any, unit: float = ROUGH) -> float:
    """The largest length of a difference from an array that rounding to float64 explains.

    Args:
        exact: the array.
        others: the same with larger rounding errors, once or several times.
        unit: the relative error of each number in these.
    """
    return MARGIN * DOUBLE / unit * max(length(other - exact) for other in others)


def length(x: Any) -> float:
    """The Euclidean length of an array of any shape."""
    return float(np.linalg.norm(np.ravel(x)))
