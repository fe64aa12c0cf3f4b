"""Tangents, a gradient field and gradient descent, with gradients from a graph of nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nl_nodes import Add, Graph, Input, Mul, MulConst
from nl_training.config.experiments import DescentConfig
from nl_training.experiments.result import PALETTE, Figures, dress, panels

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_training.config.schema import Config

TANGENT_POINTS = (5.0, 10.0)


def parabola() -> Graph:
    """Return the graph of `0.01 x^2 + 0.1 x`."""
    x = Input("x")
    return Graph(Add(MulConst(Mul(x, x), 0.01), MulConst(x, 0.1)))


def bowl() -> Graph:
    """Return the graph of `x^2 + y^2`."""
    x, y = Input("x"), Input("y")
    return Graph(Add(Mul(x, x), Mul(y, y)))


def slopes(graph: Graph, **point: Any) -> dict[str, Any]:
    """Return the gradient at a point, or at each element of arrays of points."""
    value = graph.forward(**{name: np.asarray(v, dtype=float) for name, v in point.items()})
    return graph.backward(np.ones_like(value))


def run(config: Config, cfg: DictConfig) -> Figures:
    """Plot the three panels."""
    options = config.experiment
    assert isinstance(options, DescentConfig)
    figure, (left, middle, right) = panels(1, 3, width=3.7)
    numbers = _tangents(left)
    _field(middle)
    path = descend((options.start_x, options.start_y), options.steps, options.lr)
    _path(right, path)
    numbers |= {"x at the end": path[-1][0], "y at the end": path[-1][1]}
    return Figures({"descent": figure}, numbers)


def descend(start: tuple[float, float], steps: int, lr: float) -> list[tuple[float, float]]:
    """Return the points of gradient descent on the bowl, the start first."""
    graph, (x, y) = bowl(), start
    path = [(x, y)]
    for _ in range(steps):
        slope = slopes(graph, x=x, y=y)
        x, y = x - lr * float(slope["x"]), y - lr * float(slope["y"])
        path.append((x, y))
    return path


def _tangents(axis: Any) -> dict[str, float]:
    graph, x = parabola(), np.linspace(0.0, 20.0, 101)
    axis.plot(x, graph.forward(x=x), color="black", label="0.01 x² + 0.1 x")
    numbers = {}
    for color, at in zip(PALETTE, TANGENT_POINTS, strict=False):
        slope = float(slopes(graph, x=at)["x"])
        value = float(graph.forward(x=np.asarray(at)))
        axis.plot(x, value + slope * (x - at), color=color, linestyle="--", label=f"tangent at {at:g}: slope {slope:g}")
        axis.plot([at], [value], "o", color=color)
        numbers[f"slope at {at:g}"] = slope
    dress(axis, "x", "f(x)", "a derivative is a slope")
    return numbers


def _field(axis: Any) -> None:
    x, y = np.meshgrid(np.linspace(-2, 2, 17), np.linspace(-2, 2, 17))
    slope = slopes(bowl(), x=x, y=y)
    axis.quiver(x, y, -slope["x"], -slope["y"], color=PALETTE[0], angles="xy")
    axis.set_aspect("equal")
    dress(axis, "x", "y", "minus the gradient of x² + y²")


def _path(axis: Any, path: list[tuple[float, float]]) -> None:
    x, y = np.meshgrid(np.linspace(-4.5, 4.5, 91), np.linspace(-4.5, 4.5, 91))
    axis.contour(x, y, bowl().forward(x=x, y=y), levels=[1, 4, 9, 16, 25], colors="gray", linewidths=0.7)
    axis.plot(*zip(*path, strict=True), "o-", color=PALETTE[3], markersize=4)
    axis.set_aspect("equal")
    dress(axis, "x", "y", f"descent, {len(path) - 1} steps")
