"""Pictures of a run and of a sweep, drawn with Matplotlib's object interface, so that nothing needs a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nl_training.observer import EpochReport

COLORS = {"train": "#4c72b0", "val": "#dd8452", "test": "#55a868"}


def learning_curves(steps: Sequence[tuple[int, float, float]], history: Sequence[EpochReport], title: str) -> Figure:
    """Loss and accuracy over steps.

    Args:
        steps: (step, loss, accuracy) of each training step.
        history: the epochs' evaluations.
        title: what the run is.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, column, name in zip(axes, (1, 2), ("loss", "acc"), strict=True):
        if steps:
            numbers, values = [s[0] for s in steps], [s[column] for s in steps]
            axis.plot(numbers, values, color=COLORS["train"], alpha=0.25, linewidth=0.8)
            axis.plot(numbers, smooth(values), color=COLORS["train"], label="training batches")
        for part, label in (("val", "validation"), ("test", "test")):
            points = [(e.step, e.metrics[f"{part}/{name}"]) for e in history if f"{part}/{name}" in e.metrics]
            if points:
                axis.plot(*zip(*points, strict=True), "o-", color=COLORS[part], label=label, markersize=4)
        axis.set(xlabel="step", ylabel="accuracy" if name == "acc" else name)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_yscale("log")
    figure.suptitle(title)
    return figure


def smooth(values: Sequence[float], span: int = 25) -> list[float]:
    """The running mean of the last `span` values."""
    sums = np.cumsum([0.0, *values])
    return [float(sums[i + 1] - sums[max(0, i + 1 - span)]) / min(span, i + 1) for i in range(len(values))]


def confusion_matrix(t: Any, y: Any, classes: Sequence[str]) -> Figure:
    """How often each class t (N,) was taken for each class y (N,)."""
    count = len(classes)
    table = np.zeros((count, count), dtype=int)
    np.add.at(table, (np.asarray(t), np.asarray(y)), 1)
    side = max(4.5, 0.55 * count + 2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(count, count):
        if table[i, j]:
            color = "white" if share[i, j] > 0.5 else "black"
            axis.text(j, i, str(table[i, j]), ha="center", va="center", color=color, fontsize=9)
    rotation = 45 if max(map(len, classes)) > 3 else 0
    axis.set_xticks(range(count), classes, rotation=rotation)
    axis.set_yticks(range(count), classes)
    axis.set(xlabel="predicted", ylabel="label", title=f"test accuracy {np.trace(table) / max(table.sum(), 1):.4f}")
    return figure


def worst_mistakes(x: Any, t: Any, probabilities: Any, classes: Sequence[str], count: int = 20) -> Figure:
    """The test images x (N, C, H, W) whose label t (N,) got the least probability (N, K) and that were mistaken."""
    guess = np.argmax(probabilities, axis=1)
    given = probabilities[np.arange(len(t)), t]
    wrong = np.flatnonzero(guess != t)
    worst = wrong[np.argsort(given[wrong])][:count]
    columns = 5
    rows = max(1, -(-len(worst) // columns))
    figure = Figure(figsize=(9, 2.1 * rows + 0.7), layout="constrained")
    figure.suptitle(f"{len(wrong)} mistakes on {len(t):,} test images; the most certain first")
    for place, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axis.axis("off")
        if place < len(worst):
            n = worst[place]
            axis.imshow(_picture(x[n]), cmap="gray")
            sure = probabilities[n, guess[n]]
            axis.set_title(f"{classes[t[n]]} taken for {classes[guess[n]]} ({sure:.0%})", fontsize=8)
    return figure


def _picture(image: Any) -> Any:
    """An image (C, H, W) as Matplotlib has it, stretched to 0 to 1: the first three channels, or else the first."""
    low, high = float(image.min()), float(image.max())
    scaled = (image - low) / ((high - low) or 1.0)
    return scaled[0] if len(scaled) < 3 else scaled.transpose(1, 2, 0)[..., :3]


def comparison(runs: Mapping[str, float | None], title: str) -> Figure:
    """A bar for each run's test accuracy, the best on top; a run without one is shown as failed."""
    ordered = sorted(runs.items(), key=lambda item: -1.0 if item[1] is None else item[1])
    figure = Figure(figsize=(9, 0.45 * len(ordered) + 1.6), layout="constrained")
    axis = figure.subplots()
    values = [0.0 if value is None else value for _, value in ordered]
    bars = axis.barh([name for name, _ in ordered], values, color=COLORS["test"])
    axis.bar_label(bars, ["no result" if v is None else f"{v:.4f}" for _, v in ordered], padding=4)
    axis.set(xlabel="test accuracy", xlim=(0, 1.12), title=title)
    axis.grid(axis="x", alpha=0.3)
    return figure
