"""Differences between layers as graphs of nodes and in closed form, in float32 units in the last place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_layers import Affine, BatchNormalization, Relu, Sigmoid, Softmax, SoftmaxWithLoss, Tanh
from nl_training.experiments.result import PALETTE, Figures, dress, panels

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_training.config.schema import Config

SHAPE = (100, 50)
Pair = tuple[Any, Any]


def sigmoid(x: Any, dy: Any) -> Pair:
    """Return `y = 1 / (1 + e^-x)` and `dy y (1 - y)`."""
    y = 1 / (1 + np.exp(-x))
    return y, dy * y * (1 - y)


def tanh(x: Any, dy: Any) -> Pair:
    """Return `y = tanh x` and `dy (1 - y^2)`."""
    y = np.tanh(x)
    return y, dy * (1 - y * y)


def relu(x: Any, dy: Any) -> Pair:
    """Return `max(x, 0)`, and `dy` where `x > 0`."""
    return np.maximum(x, 0), dy * (x > 0)


def softmax(x: Any, dy: Any) -> Pair:
    """Return the probabilities `y` and `y (dy - sum y dy)`."""
    e = np.exp(x - x.max(axis=1, keepdims=True))
    y = e / e.sum(axis=1, keepdims=True)
    return y, y * (dy - (y * dy).sum(axis=1, keepdims=True))


def batch_norm(x: Any, dy: Any) -> Pair:
    """Return the normalized columns `z` and `(dy - mean dy - z mean(z dy)) / std`."""
    scale = 1 / np.sqrt(x.var(axis=0) + np.float32(1e-5))
    z = (x - x.mean(axis=0)) * scale
    return z, scale * (dy - dy.mean(axis=0) - z * (z * dy).mean(axis=0))


def run(config: Config, cfg: DictConfig) -> Figures:
    """Plot the largest difference of each layer, forward and backward."""
    rng = np.random.default_rng(config.seed)
    x, dy = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    w = rng.standard_normal((SHAPE[1], 20)).astype(np.float32)
    ones, zeros = np.ones(SHAPE[1], np.float32), np.zeros(SHAPE[1], np.float32)
    elementwise: dict[str, tuple[Any, Callable[[Any, Any], Pair]]] = {
        "ReLU": (Relu(), relu),
        "tanh": (Tanh(), tanh),
        "sigmoid": (Sigmoid(), sigmoid),
        "softmax": (Softmax(), softmax),
        "batch norm": (BatchNormalization(ones, zeros), batch_norm),
    }
    results = {name: differences(layer, x, dy, closed(x, dy)) for name, (layer, closed) in elementwise.items()}
    up = dy[:, :20]
    results["affine"] = differences(Affine(w), x, up, (x @ w, up @ w.T))
    results["softmax and loss"] = _loss(x, rng.integers(0, SHAPE[1], SHAPE[0]))
    numbers: dict[str, float] = {}
    for name, (forward, backward) in results.items():
        numbers |= {f"{name}: ulp forward": forward, f"{name}: ulp backward": backward}
    figure, (axis,) = panels(1, 1, width=6.4, height=3.4)
    places = np.arange(len(results))
    for k, label in enumerate(("forward", "backward")):
        sizes = [pair[k] for pair in results.values()]
        bars = axis.barh(places + 0.2 - 0.4 * k, sizes, 0.38, color=PALETTE[k], label=label)
        axis.bar_label(bars, fmt="%g", padding=3, fontsize=8)
    axis.set_yticks(places, list(results))
    dress(axis, "largest difference in ulp of the largest value (float32)", "", "graph of nodes against closed form")
    return Figures({"rounding": figure}, numbers)


def differences(layer: Any, x: Any, dy: Any, closed: Pair) -> Pair:
    """Return the largest difference forward and backward."""
    y = layer.forward(x)
    return ulp(y, closed[0]), ulp(layer.backward(dy), closed[1])


def _loss(x: Any, t: Any) -> Pair:
    loss = SoftmaxWithLoss()
    value = loss.forward(x, t)
    y, _ = softmax(x, x)
    rows = np.arange(len(t))
    closed_dx = y.copy()
    closed_dx[rows, t] -= 1
    return ulp(value, -np.log(y[rows, t]).mean()), ulp(loss.backward(), closed_dx / np.float32(len(t)))


def ulp(a: Any, b: Any) -> float:
    """Return the largest difference in units in the last place of the largest value of `b`."""
    a, b = np.asarray(a), np.asarray(b)
    return float(np.abs(a - b).max() / np.spacing(np.abs(b).max()))
