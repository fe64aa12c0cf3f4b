"""Figures of a sweep: its runs side by side, and its settings over several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from nl_training.tracking.seeds import Setting
from nl_training.viz.plots import FAILED, new_figure

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Child:
    """A run of a sweep: name, status, final test accuracy if there is one, and (step, accuracy) points."""

    name: str
    status: str
    accuracy: float | None
    curve: tuple[tuple[int, float], ...] = ()


def comparison(children: Sequence[Child], title: str) -> Figure:
    """Plot the test accuracy of a sweep's runs: final values as bars, the best on top, and curves over the steps."""
    ordered = sorted(children, key=lambda child: -1.0 if child.accuracy is None else child.accuracy)
    colors = _viridis()(np.linspace(0, 0.9, len(ordered)))
    figure = new_figure(13, float(np.clip(0.32 * len(ordered) + 1.8, 4.2, 40)))
    bars, curves = figure.subplots(1, 2)
    figure.suptitle(title)
    for place, (child, color) in enumerate(zip(ordered, colors, strict=True)):
        if child.accuracy is None:
            bars.text(0, place, f" {child.status.lower()}: no result", va="center", color=FAILED)
        else:
            bars.barh(place, child.accuracy, color=color)
            bars.text(child.accuracy, place, f" {child.accuracy:.4f}", va="center")
        if child.curve:
            curves.plot(*zip(*child.curve, strict=True), "o-", color=color, markersize=3)
    bars.set_yticks(range(len(ordered)), [child.name for child in ordered])
    bars.set(xlabel="test accuracy of the best weights", xlim=(0, 1.15), xticks=np.linspace(0, 1, 6))
    curves.set(xlabel="step", ylabel="test accuracy")
    bars.grid(alpha=0.3, axis="x")
    curves.grid(alpha=0.3)
    bars.set_axisbelow(True)
    return figure


def seeds(settings: Sequence[Setting], title: str) -> Figure:
    """Plot the test accuracy of each setting: mean and standard deviation over its seeds, the best on top."""
    figure = new_figure(9, 0.5 * len(settings) + 1.8)
    axes = figure.subplots()
    color = _viridis()(0.4)
    for place, setting in enumerate(reversed(settings)):
        axes.errorbar(setting.mean, place, xerr=setting.spread, fmt="o", color="black", capsize=4, zorder=3)
        axes.plot(list(setting.test.values()), [place] * len(setting.test), "|", markersize=14, color=color)
    axes.set_yticks(range(len(settings)), [fill(setting.name, 40) for setting in reversed(settings)])
    figure.suptitle(title)
    axes.set(xlabel="test accuracy: each seed, mean and spread", ylim=(-0.6, len(settings) - 0.4))
    axes.grid(alpha=0.3, axis="x")
    return figure


def _viridis() -> Colormap:
    from matplotlib import colormaps

    return colormaps["viridis"]
