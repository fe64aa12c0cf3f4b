"""Paths of the optimizers on `x^2 / 20 + y^2`, with gradients from a graph of nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nl_layers import optimizers
from nl_nodes import Add, Graph, Input, Mul, MulConst, UserError
from nl_nodes.arguments import near
from nl_training.config.experiments import OptimizerPathsConfig
from nl_training.config.schema import TARGETS
from nl_training.experiments.result import LINES, Figures, dress, panels

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_training.config.schema import Config


def valley() -> Graph:
    """Return the graph of `x^2 / 20 + y^2`."""
    x, y = Input("x"), Input("y")
    return Graph(Add(MulConst(Mul(x, x), 1 / 20), Mul(y, y)))


def path(optimizer: optimizers.Optimizer, start: tuple[float, float], steps: int) -> Any:
    """Return the points (steps + 1, 2) that an optimizer visits, the start first."""
    graph = valley()
    params = {name: np.asarray(value, dtype=float) for name, value in zip("xy", start, strict=True)}
    points = [start]
    for _ in range(steps):
        graph.forward(**params)
        optimizer.update(params, graph.backward(np.ones(())))
        points.append((float(params["x"]), float(params["y"])))
    return np.array(points)


def optimizer(name: str, lr: Any) -> optimizers.Optimizer:
    """Return an optimizer by class name, with default options."""
    known = [target.rpartition(".")[2] for target in TARGETS["optimizer"]]
    if name not in known:
        raise UserError(f"experiment.learning_rates: {name} is not an optimizer: {near(name, known)}")
    if not isinstance(lr, int | float) or not lr > 0:
        raise UserError(f"experiment.learning_rates.{name}={lr} must be a number above 0")
    made: optimizers.Optimizer = getattr(optimizers, name)(lr=lr)
    return made


def run(config: Config, cfg: DictConfig) -> Figures:
    """Plot the path of each optimizer, and the function values of all."""
    o = config.experiment
    assert isinstance(o, OptimizerPathsConfig)
    figure, axes = panels(2, 4, width=2.9, height=2.6)
    x, y = np.meshgrid(np.linspace(-10, 10, 101), np.linspace(-4, 4, 81))
    heights, numbers = valley().forward(x=x, y=y), {}
    for axis, look, (name, lr) in zip(axes, LINES, o.learning_rates.items(), strict=False):
        points = path(optimizer(name, lr), (o.start_x, o.start_y), o.steps)
        height = valley().forward(x=points[:, 0], y=points[:, 1])
        numbers[f"{name}: f at the end"] = float(height[-1])
        axis.contour(x, y, heights, levels=[0.1, 0.5, 1, 2, 4, 6, 9], colors="gray", linewidths=0.5)
        axis.plot(points[:, 0], points[:, 1], "o-", color=look["color"], markersize=3, linewidth=1)
        axis.plot([0], [0], "+", color="black")
        axis.set(xlim=(-8, 3), ylim=(-2.5, 2.5))
        dress(axis, "x", "y", f"{name}, lr {lr:g}")
        axes[-1].plot(height, label=name, **look)
    axes[-1].set(yscale="log", ylim=(1e-13, 20))
    dress(axes[-1], "step", "x²/20 + y²", "height", legend=False)
    axes[-1].legend(fontsize=6, loc="lower left")
    return Figures({"optimizer_paths": figure}, numbers)
