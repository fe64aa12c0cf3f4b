"""Location of the first infinity or NaN: a batch is replayed node by node on the graph before rewriting."""

from __future__ import annotations

from typing import Any

import numpy as np

from nl_layers import Mode
from nl_models import Network
from nl_nodes import Graph, Input, Node
from nl_nodes.graph import topological_order
from nl_nodes.nodes.leaves import Buffer, Constant, Leaf, Parameter
from nl_nodes.verify.locate import IsolatedNode

Values = dict[Node, Any]


def first_not_finite(net: Network, x: Any, t: Any) -> str:
    """Name the first node whose output has a value that is not finite; if there is none, the first gradient.

    Args:
        net: the network, whose last training pass is replayed with the current weights.
        x: the images of that pass (N, C, H, W).
        t: their labels (N,).
    """
    graph, owners = _wired(net, len(x))
    graph.passes = net.passes - 1
    feeds = {"x": net.device.array(x), "t": net.device.labels(t)}
    with net.device.limits(), np.errstate(all="ignore"):
        values: Values = {}
        for node in graph.order:
            values[node] = _value(graph, node, values, feeds)
            if not _finite(net, values[node]):
                return f"{node!r} of {owners[node]}" if node in owners else "the batch's images"
        wrong = _backward(net, graph, values)
    return f"the gradient of {wrong!r} of {owners[wrong]}" if wrong else "no node when they run one by one"


def _wired(net: Network, batch: int) -> tuple[Graph, dict[Node, str]]:
    """Return the training graph, and the layer of each node."""
    mode, owners = Mode(train=True), dict[Node, str]()
    x, t = Input("x", (batch, *net.input_shape), gradient=False), Input("t", (batch,), gradient=False)

    def owned(y: Node, name: str) -> Node:
        for node in topological_order((y, *mode.updates.values())):
            if node not in (x, t):
                owners.setdefault(node, name)
        return y

    y: Node = x
    for number, layer in enumerate(net.layers, 1):
        y = owned(layer.wire(y, mode=mode), f"layer {number} ({type(layer).__name__})")
    loss = net.loss_layer.wire(y, t, mode=mode)
    return Graph(owned(loss, f"the loss ({type(net.loss_layer).__name__})"), updates=mode.updates), owners


def _value(graph: Graph, node: Node, values: Values, feeds: dict[str, Any]) -> Any:
    if isinstance(node, Input):
        return feeds[node.name]
    if isinstance(node, Parameter | Buffer | Constant):
        return node.value
    alone = IsolatedNode(graph, node, values, [], None)
    return alone.graph.run(**alone.feeds).results[0]


def _backward(net: Network, graph: Graph, values: Values) -> Node | None:
    """Return the first node in backward order that passes a gradient that is not finite to an input."""
    loss = graph.outputs[0]
    grads: Values = {loss: net.device.xp.ones_like(values[loss])}
    for node in reversed(graph.order):
        if node not in grads or isinstance(node, Leaf):
            continue
        wanted = [i for i, n in enumerate(node.inputs) if n in graph.needs]
        alone = IsolatedNode(graph, node, values, wanted, grads.pop(node))
        found = alone.graph.run(**alone.feeds).backward(alone.dy)
        for i in wanted:
            n, dx = node.inputs[i], found[str(i)]
            if not _finite(net, dx):
                return node
            grads[n] = grads[n] + dx if n in grads else dx
    return None


def _finite(net: Network, array: Any) -> bool:
    return bool(net.device.xp.isfinite(net.device.backend.array(array)).all())
