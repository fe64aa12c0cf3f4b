"""The learning-rate range test: the loss of a short training whose learning rate grows, beside constant rates."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_training.config import build
from nl_training.config.experiments import LearningRateRangeConfig
from nl_training.config.variants import variant
from nl_training.experiments.result import LINES, Figures, dress, panels
from nl_training.experiments.train import training_batches, verified_network
from nl_training.viz.plots import smooth

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from nl_models import Network
    from nl_training.config.schema import Config
    from nl_training.data import Dataset

CEILING = 4.0  # the largest loss drawn: ten equally probable classes have 2.3


@dataclass(frozen=True)
class RangeTest:
    """A range test and trainings at constant learning rates.

    Attributes:
        rates: the learning rate of each step, rising.
        losses: the smoothed loss of each step.
        ends: the loss at the end of a training, by its constant learning rate.
    """

    rates: Any
    losses: Any
    ends: dict[float, float]

    @property
    def steepest(self) -> int:
        """The middle of the tenth of all steps, before the lowest loss, in which the loss falls most."""
        low, span = int(np.argmin(self.losses)), max(len(self.losses) // 10, 1)
        falls = self.losses[:-span] - self.losses[span:]
        return int(np.argmax(falls[: max(low - span, 0) + 1])) + span // 2

    @property
    def divergence(self) -> int | None:
        """The first step after the lowest loss at which half of the fall is lost again, None if there is none."""
        low = int(np.argmin(self.losses))
        risen = np.flatnonzero(self.losses[low:] > (self.losses[0] + self.losses[low]) / 2)
        return low + int(risen[0]) if len(risen) else None


def run(config: Config, cfg: DictConfig) -> Figures:
    """Test each variant, and train it at each constant learning rate."""
    o = config.experiment
    assert isinstance(o, LearningRateRangeConfig)
    data = build.dataset(config)
    tests = {label: _test(o, *variant(cfg, changes), data) for label, changes in o.variants.items()}
    numbers = {}
    for label, test in tests.items():
        numbers[f"{label}: steepest descent"] = float(test.rates[test.steepest])
        if test.divergence is not None:
            numbers[f"{label}: divergence"] = float(test.rates[test.divergence])
        numbers[f"{label}: best constant rate"] = min(test.ends, key=test.ends.__getitem__)
        numbers |= {f"{label}: last losses at {rate:g}": end for rate, end in test.ends.items()}
    return Figures({o.name: _draw(tests)}, numbers)


def _test(o: LearningRateRangeConfig, config: Config, cfg: DictConfig, data: Dataset) -> RangeTest:
    net = verified_network(config, data)
    rates = np.geomspace(o.low, o.high, o.steps)
    losses = smooth(descend(copy(net), config, cfg, data, rates))
    ends = {rate: smooth(descend(copy(net), config, cfg, data, [rate] * o.steps))[-1] for rate in o.constant}
    return RangeTest(rates[: len(losses)], np.array(losses), ends)


def descend(net: Network, config: Config, cfg: DictConfig, data: Dataset, rates: Iterable[float]) -> list[float]:
    """Take a step at each learning rate, and return the losses; end at ten times the first, or one not finite."""
    optimizer = build.optimizer(cfg)
    losses: list[float] = []
    for rate, (x, t) in zip(rates, training_batches(data, config), strict=False):
        with np.errstate(over="ignore", invalid="ignore"):  # a rate far too large may overflow within a step
            out = net.step(x, t)
        worst = 10 * (losses[0] if losses else float(out.loss))
        if not out.loss < worst:  # true for one not finite too
            return [*losses, worst]
        losses.append(float(out.loss))
        optimizer.lr = rate
        optimizer.update(net.params, out.grads)
    return losses


def _draw(tests: dict[str, RangeTest]) -> Figure:
    figure, (left, right) = panels(1, 2, width=5.0, height=3.6, sharex=True)
    for look, (label, test) in zip(LINES, tests.items(), strict=False):
        color = look["color"]
        left.plot(test.rates, test.losses, label=label, **{**look, "marker": ""})
        left.plot(test.rates[test.steepest], test.losses[test.steepest], "o", color=color)
        if test.divergence is not None:
            left.plot(test.rates[test.divergence], test.losses[test.divergence], "X", color=color, markersize=8)
        right.plot(*zip(*test.ends.items(), strict=True), **{**look, "markevery": 1})
        right.axvspan(test.rates[test.steepest], test.rates[test.divergence or -1], color=color, alpha=0.12)
    left.plot([], [], "o", color="gray", label="steepest descent")
    left.plot([], [], "X", color="gray", markersize=8, label="divergence")
    right.fill_between([], [], color="gray", alpha=0.2, label="between the two marks")
    left.set(xscale="log", ylim=(0, CEILING))
    right.set(yscale="log", ylim=(None, CEILING))
    dress(left, "learning rate, growing from step to step", "loss of the batch (smoothed)", "range test")
    dress(right, "learning rate, constant", "loss at the end", "trainings of as many steps")
    return figure
