"""Shopping as a graph of nodes: the price and its derivative with respect to each input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nl_nodes import Add, Constant, Graph, Input, Leaf, Mul, Node
from nl_training.config.experiments import ApplesConfig
from nl_training.experiments.result import PALETTE, Figures, panels

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_training.config.schema import Config


def only_apples() -> Node:
    """Return the price of apples, with tax."""
    return Mul(Mul(Input("apples"), Input("apple price")), Input("tax"))


def apples_and_oranges() -> Node:
    """Return the price of apples and oranges, with tax."""
    fruit = Add(Mul(Input("apples"), Input("apple price")), Mul(Input("orange price"), Input("oranges")))
    return Mul(fruit, Input("tax"))


def run(config: Config, cfg: DictConfig) -> Figures:
    """Compute both prices and draw their graphs."""
    o = config.experiment
    assert isinstance(o, ApplesConfig)
    given = {"apples": o.apples, "apple price": o.apple_price, "tax": o.tax}
    more = {"orange price": o.orange_price, "oranges": o.oranges}
    figure, axes = panels(1, 2, width=4.9, height=4.0)
    numbers = {}
    bills = ((only_apples(), given), (apples_and_oranges(), {**given, **more}))
    for axis, (output, feeds) in zip(axes, bills, strict=True):
        arrays = {name: np.asarray(value, dtype=float) for name, value in feeds.items()}
        graph = Graph(output)
        values = dict(zip(graph.order, Graph(*graph.order).run(**arrays).results, strict=True))
        grads = {node: derivative(graph, node, values) for node in graph.order}
        kind = "with oranges" if "oranges" in feeds else "apples alone"
        numbers[f"{kind}: price"] = float(values[output])
        numbers |= {f"{kind}: d price / d {name}": grads[leaf] for name, leaf in graph.leaves.items()}
        _draw(axis, graph, values, grads)
        axis.set_title(f"{kind}: {float(values[output]):g}", fontsize=10)
    return Figures({"apples": figure}, numbers)


def derivative(graph: Graph, node: Node, values: dict[Node, Any]) -> float:
    """Return the derivative of the output with respect to a node: the gradient of an input in its place."""
    changed: dict[Node, Node] = {node: Input("node")}
    for later in graph.order:
        if any(n in changed for n in later.inputs):
            changed[later] = later.replace([changed.get(n, Constant(values[n])) for n in later.inputs])
    rest = Graph(changed[graph.outputs[0]])
    rest.forward(node=values[node])
    return float(rest.backward(np.ones(()))["node"])


def _draw(axis: Any, graph: Graph, values: dict[Node, Any], grads: dict[Node, float]) -> None:
    """Draw nodes from left to right, their values in black and the price's derivatives in red."""
    places = _places(graph)
    for node in graph.order:
        for n in node.inputs:
            arrow = {"arrowstyle": "->", "shrinkA": 15, "shrinkB": 15}
            axis.annotate("", places[node], places[n], arrowprops=arrow, zorder=1)
        leaf = isinstance(node, Leaf)
        name = node.name if isinstance(node, Leaf) else {"Mul": "×", "Add": "+"}[type(node).__name__]
        x, y = places[node]
        box = {"boxstyle": "round" if leaf else "circle", "facecolor": "white", "edgecolor": PALETTE[0]}
        axis.text(x, y, name, ha="center", va="center", fontsize=9, bbox=box)
        axis.text(x, y + 0.3, f"{float(values[node]):g}", ha="center", va="bottom", fontsize=9)
        axis.text(x, y - 0.3, f"{grads[node]:g}", ha="center", va="top", fontsize=9, color=PALETTE[3])
    xs, ys = zip(*places.values(), strict=True)
    axis.set(xlim=(min(xs) - 0.5, max(xs) + 0.4), ylim=(min(ys) - 0.9, max(ys) + 0.9))
    axis.axis("off")


def _places(graph: Graph) -> dict[Node, tuple[float, float]]:
    """Place leaves in a column on the left, and each other node right of its inputs, at their mean height."""
    places: dict[Node, tuple[float, float]] = {}
    for node in graph.order:
        if isinstance(node, Leaf):
            places[node] = (0.0, -1.3 * sum(isinstance(n, Leaf) for n in places))
        else:
            heights = [places[n][1] for n in node.inputs]
            places[node] = (1.0 + max(places[n][0] for n in node.inputs), sum(heights) / len(heights))
    return places
