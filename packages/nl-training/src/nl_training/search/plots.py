"""Figures of a search: its history, the effect of each key, and the importance of the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nl_training.search.space import Dimension

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

BLUE, GREY, GOLD = "#4c72b0", "#b0b7c0", "#dd8452"
COLUMNS = 3


def history(done: Sequence[FrozenTrial], pruned: Sequence[FrozenTrial]) -> Figure:
    """Plot each trial's validation accuracy and the best so far."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axis = figure.subplots()
    values = [_value(trial) for trial in done]
    last = max(t.number for t in (*done, *pruned))
    best = np.maximum.accumulate([*values, 0.0])
    axis.step([*(t.number for t in done), last], best, where="post", color=GOLD, label="best so far")
    axis.scatter([t.number for t in done], values, color=BLUE, s=26, zorder=3, label="finished")
    _crosses(axis, [t.number for t in pruned], pruned)
    axis.set(xlabel="trial", ylabel="validation accuracy")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure


def slices(space: Sequence[Dimension], done: Sequence[FrozenTrial], pruned: Sequence[FrozenTrial]) -> Figure:
    """Plot validation accuracy over the values of each searched key, later trials darker."""
    rows = -(-len(space) // COLUMNS)
    columns = min(len(space), COLUMNS)
    figure = Figure(figsize=(4.3 * columns + 0.9, 3.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    points = None
    for axis, d in zip(axes.flat, space, strict=False):
        places = _places(d, done)
        numbers = [t.number for t in done]
        points = axis.scatter(places, [_value(t) for t in done], c=numbers, cmap="Blues", vmin=-len(done) / 2, zorder=3,
                              edgecolors=BLUE, linewidths=0.6, s=34)  # fmt: skip
        _crosses(axis, _places(d, pruned), pruned)
        best = max(range(len(done)), key=lambda i: _value(done[i]))
        axis.scatter([places[best]], [_value(done[best])], s=130, facecolors="none", edgecolors=GOLD, linewidths=2)
        axis.set(xlabel=d.key, xscale="log" if d.log else "linear")
        if d.choices:
            axis.set_xticks(range(len(d.choices)), d.choices)
            axis.set_xlim(-0.5, len(d.choices) - 0.5)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(space) :]:
        axis.axis("off")
    for row in axes:
        row[0].set_ylabel("validation accuracy")
    if points is not None:
        bar = figure.colorbar(points, ax=axes, label="trial", ticks=MaxNLocator(integer=True))
        bar.ax.set_ylim(0, max(points.get_clim()[1], 1))
    figure.suptitle("effect of each key (circled: the best; grey crosses: pruned)", fontsize=11)
    return figure


def importances(shares: dict[str, float], count: int) -> Figure:
    """Plot the share of the variance of validation accuracy, over `count` finished trials, that each key explains."""
    figure = Figure(figsize=(7, 0.5 * len(shares) + 1.7), layout="constrained")
    axis = figure.subplots()
    keys = sorted(shares, key=lambda key: shares[key])
    axis.barh(keys, [shares[key] for key in keys], color=BLUE)
    for place, key in enumerate(keys):
        axis.text(shares[key], place, f" {shares[key]:.2f}", va="center")
    axis.set(xlim=(0, 1.12), xlabel="share of the variance of validation accuracy (fANOVA)")
    axis.grid(alpha=0.3, axis="x")
    axis.set_axisbelow(True)
    axis.set_title(f"importance of the keys, in {count} finished trials", fontsize=11)
    return figure


def _crosses(axis: Any, places: Sequence[float], pruned: Sequence[FrozenTrial]) -> None:
    """Plot pruned trials at their last value."""
    if pruned:
        axis.scatter(places, [_value(t) for t in pruned], color=GREY, marker="x", s=30, label="pruned")


def _places(d: Dimension, trials: Sequence[FrozenTrial]) -> list[float]:
    values = [trial.params[d.key] for trial in trials]
    return [d.choices.index(v) for v in values] if d.choices else values


def _value(trial: FrozenTrial) -> float:
    """Return a trial's value; for a pruned trial, that of its last epoch."""
    if trial.value is not None:
        return float(trial.value)
    return float(trial.intermediate_values[trial.last_step]) if trial.last_step is not None else 0.0
