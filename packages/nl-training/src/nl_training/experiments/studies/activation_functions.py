"""Step, sigmoid, tanh and ReLU, with derivatives from the nodes' backward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nl_layers import Layer, Relu, Sigmoid, Tanh
from nl_training.experiments.result import LINES, PALETTE, Figures, dress, panels

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_training.config.schema import Config

LAYERS: dict[str, type[Layer]] = {"sigmoid": Sigmoid, "tanh": Tanh, "ReLU": Relu}


def run(config: Config, cfg: DictConfig) -> Figures:
    """Plot the functions and their derivatives."""
    x = np.linspace(-5.0, 5.0, 401)
    figure, (left, right) = panels(1, 2)
    left.plot(x, np.where(x > 0, 1.0, 0.0), color=PALETTE[-1], linestyle="--", label="step")
    numbers: dict[str, float] = {}
    for look, (name, kind) in zip(LINES, LAYERS.items(), strict=False):
        layer = kind()
        y = layer.forward(x)
        slope = layer.backward(np.ones_like(x))
        left.plot(x, y, label=name, **look)
        right.plot(x, slope, label=name, **look)
        numbers |= {f"{name} at 0": float(y[200]), f"{name} steepest slope": float(slope.max())}
    left.set_ylim(-1.2, 2.5)
    dress(left, "x", "f(x)", "activation functions")
    dress(right, "x", "f'(x)", "their slopes, by backward")
    return Figures({"activation_functions": figure}, numbers)
