"""Location of the first infinity or NaN: a batch is replayed node by node on the graph before rewriting."""

from __future__ import annotations

from typing import Any

import numpy as np

from nl_models import Network
from nl_nodes import Graph, Input, Leaf, Node, Pass
from nl_nodes.context import Context


def first_not_finite(net: Network, x: Any, t: Any) -> str:
    """Name the first node whose output has a value that is not finite; if there is none, the first gradient.

    Args:
        net: the network, whose last training pass is replayed with the current weights.
        x: the images of that pass (N, C, H, W).
        t: their labels (N,) or (N, classes).
    """
    graph = net.wire(len(x), train=True, rows=t.ndim == 2)
    graph.passes = net.passes - 1
    try:
        with net.device.limits(), np.errstate(all="ignore"):
            run = _FinitePass(graph, {"x": net.device.array(x), "t": net.device.labels(t)})
            run.backward(net.device.xp.ones((), dtype=net.device.dtype))
    except _NotFinite as found:
        return str(found)
    return "no node when they run one by one"


class _NotFinite(Exception):
    """Raised at the first value that is not finite; the message names its node."""


class _FinitePass(Pass):
    """A pass that ends at the first node whose output, or whose gradient of an input, is not finite."""

    def _leaf(self, leaf: Leaf, feeds: Any) -> Any:
        return self._checked(leaf, super()._leaf(leaf, feeds))

    def _output(self, node: Node, ctx: Context, inputs: Any) -> Any:
        return self._checked(node, super()._output(node, ctx, inputs))

    def _backward(self, node: Node, grads: dict[Node, Any]) -> None:
        super()._backward(node, grads)
        if not all(self._finite(grads[n]) for n in node.inputs if n in grads):
            raise _NotFinite(f"the gradient of {_described(self.graph, node)}")

    def _checked(self, node: Node, value: Any) -> Any:
        if not self._finite(value):
            raise _NotFinite("the batch's images" if isinstance(node, Input) else _described(self.graph, node))
        return value

    def _finite(self, array: Any) -> bool:
        return bool(self.backend.xp.isfinite(array).all())


def _described(graph: Graph, node: Node) -> str:
    """Return the node with its layer; a leaf has none of its own, but that of the node that takes it."""
    owner = next(n for n in graph.order if node in n.inputs) if isinstance(node, Leaf) else node
    return f"{node!r} of {owner.path}"
