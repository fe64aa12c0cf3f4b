"""Gradient descent on all images at the edge of stability: the sharpness rises to 2 over the learning rate."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from nl_layers import Loss
from nl_layers.module import Mode
from nl_layers.optimizers import SGD
from nl_models import Curvature
from nl_nodes import Mean, Node, OneHot, Sum, UserError
from nl_training.config import build
from nl_training.config.experiments import EdgeOfStabilityConfig
from nl_training.experiments.result import LINES, Figures, dress, panels
from nl_training.experiments.train import subset, verified_network

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from nl_models import Network
    from nl_training.config.schema import Config
    from nl_training.data import Split


class SquaredError(Loss, abstract=True):
    """Half the squared distance of the logits from the one-hot labels; unlike cross-entropy's, its curvature lasts."""

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """(x, t) -> Sub OneHot -> square -> Sum -> Mean."""
        return Mean(Sum((inputs[0] - OneHot(inputs[1], inputs[0])) ** 2, axis=1)) * 0.5


@dataclass(frozen=True)
class Descent:
    """Gradient descent: the loss before each step, and the sharpness before each of the steps `measured`."""

    losses: list[float]
    measured: range
    sharpness: list[float]


def run(config: Config, cfg: DictConfig) -> Figures:
    """Train at each learning rate from the same weights."""
    o = config.experiment
    assert isinstance(o, EdgeOfStabilityConfig)
    if type(build.optimizer(cfg)) is not SGD:
        raise UserError("experiment=edge_of_stability is of gradient descent: leave optimizer out, or give sgd")
    data = subset(build.dataset(config), o.images, config.seed)
    start = verified_network(config, data, SquaredError())
    descents = {rate: descend(copy(start), data.train, rate, o) for rate in o.rates}
    numbers: dict[str, float] = {}
    for rate, found in descents.items():
        last = found.sharpness[-len(found.sharpness) // 4 :]
        numbers |= {
            f"lr {rate:g}: 2 / lr": 2 / rate,
            f"lr {rate:g}: sharpness at the start": found.sharpness[0],
            f"lr {rate:g}: mean sharpness of the last quarter": float(np.mean(last)),
            f"lr {rate:g}: steps that raise the loss": float(np.sum(np.diff(found.losses) > 0)),
            f"lr {rate:g}: loss at the start": found.losses[0],
            f"lr {rate:g}: loss at the end": found.losses[-1],
        }
    return Figures({"edge_of_stability": _draw(descents)}, numbers)


def descend(net: Network, images: Split, rate: float, o: EdgeOfStabilityConfig) -> Descent:
    """Take steps on all images, and measure the sharpness, the Hessian's largest eigenvalue, before every few.

    Raises:
        UserError: if the loss becomes infinite or no number.
    """
    optimizer, losses, sharpness = SGD(rate), [], []
    for step in range(o.steps):
        with np.errstate(over="ignore", invalid="ignore"):  # a rate far too large may overflow within a step
            loss = net.loss(images.x, images.t)
            if not isfinite(loss):
                raise UserError(f"experiment.rates: the loss is {loss} after {step} steps of {rate:g}: lower this rate")
            if step % o.every == 0:
                sharpness.append(float(Curvature(net, images.x, images.t).eigenvalues(tolerance=0.01)[0]))
            out = net.step(images.x, images.t)
        losses.append(float(out.loss))
        optimizer.update(net.params, out.grads)
    return Descent(losses, range(0, o.steps, o.every), sharpness)


def _draw(descents: dict[float, Descent]) -> Figure:
    figure, (left, right) = panels(1, 2, width=5.0, height=3.6)
    for look, (rate, found) in zip(LINES, descents.items(), strict=False):
        left.plot(found.losses, label=f"learning rate {rate:g}", **{**look, "marker": ""})
        right.plot(found.measured, found.sharpness, color=look["color"], marker=look["marker"], markersize=3)
        right.axhline(2 / rate, color=look["color"], linestyle="--", linewidth=1)
    right.plot([], [], color="gray", linestyle="--", label="2 / learning rate")
    left.set_yscale("log")
    dress(left, "step", "loss of all images")
    dress(right, "step", "sharpness")
    right.set_ylim(0)
    return figure
