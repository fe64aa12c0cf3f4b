"""The curvature of the loss where optimizers arrive that are stopped at the same training loss."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from nl_models import Curvature
from nl_nodes import UserError
from nl_training.config import build
from nl_training.config.experiments import OptimizerSharpnessConfig
from nl_training.config.variants import variant
from nl_training.experiments.result import PALETTE, Figures, dress, panels
from nl_training.experiments.train import subset, training_batches, verified_network

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from nl_models import Network
    from nl_training.config.schema import Config
    from nl_training.data import Dataset

CHECK = 10  # steps between evaluations of the training loss


@dataclass(frozen=True)
class Arrival:
    """Where a training ended, and the curvature of the loss on the training images there."""

    steps: int
    loss: float
    sharpness: float
    trace: float
    accuracy: float


def run(config: Config, cfg: DictConfig) -> Figures:
    """Train each variant to the same training loss, and compare sharpness, trace and test accuracy."""
    o = config.experiment
    assert isinstance(o, OptimizerSharpnessConfig)
    data = subset(build.dataset(config), o.images, config.seed)
    arrivals = {label: _arrival(label, *variant(cfg, changes), data, o) for label, changes in o.variants.items()}
    numbers: dict[str, float] = {}
    for label, found in arrivals.items():
        numbers |= {
            f"{label}: steps": found.steps,
            f"{label}: largest eigenvalue": found.sharpness,
            f"{label}: trace": found.trace,
            f"{label}: test accuracy": found.accuracy,
        }
    return Figures({"sharpness_of_optimizers": _draw(arrivals)}, numbers)


def _arrival(label: str, config: Config, cfg: DictConfig, data: Dataset, o: OptimizerSharpnessConfig) -> Arrival:
    net = verified_network(config, data)
    steps, loss = descend(net, config, cfg, data, o)
    hessian = Curvature(net, data.train.x, data.train.t)
    sharpness, trace = float(hessian.eigenvalues(tolerance=0.01)[0]), hessian.trace()
    accuracy = net.accuracy(data.test.x, data.test.t)
    print(f"{label}: loss {loss:.4f} after {steps:,} steps, sharpness {sharpness:.3g}, trace {trace.value:.3g}")
    return Arrival(steps, loss, sharpness, trace.value, accuracy)


def descend(
    net: Network, config: Config, cfg: DictConfig, data: Dataset, o: OptimizerSharpnessConfig
) -> tuple[int, float]:
    """Train until the loss on all training images is small enough, and return the number of steps and the loss.

    Raises:
        UserError: if the loss is still larger after `o.steps`.
    """
    optimizer = build.optimizer(cfg)
    for step, (x, t) in enumerate(islice(training_batches(data, config), o.steps)):
        if step % CHECK == 0:
            loss = net.loss(data.train.x, data.train.t)
            if loss <= o.loss:
                return step, loss
        out = net.step(x, t)
        optimizer.update(net.params, out.grads)
    raise UserError(f"the training loss is {loss:.3g} after experiment.steps={o.steps}, above experiment.loss={o.loss}")


def _draw(arrivals: dict[str, Arrival]) -> Figure:
    figure, (left, middle, right) = panels(1, 3, width=3.4, height=3.2, sharey=True)
    labels, found = list(arrivals), list(arrivals.values())
    left.barh(labels, [a.sharpness for a in found], color=PALETTE[0])
    middle.barh(labels, [a.trace for a in found], color=PALETTE[1])
    right.plot([a.accuracy for a in found], labels, "o", color=PALETTE[2])
    left.invert_yaxis()
    dress(left, "largest eigenvalue", "")
    dress(middle, "trace", "")
    dress(right, "accuracy on the test set", "")
    return figure
