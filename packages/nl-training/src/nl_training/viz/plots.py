"""Pictures of a run and of a sweep, drawn with Matplotlib's object interface, so that nothing needs a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_training.training.callbacks import EpochReport

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from nl_nodes.verify import Certificate
    from nl_training.tracking.seeds import Setting

COLORS = {"train": "#4c72b0", "val": "#dd8452", "test": "#55a868"}
FAILED = "#c44e52"
VERDICTS = {
    "verified": "#55a868",
    "zero": "#8c8c8c",
    "cancelled": "#4c72b0",
    "failed": FAILED,
}
EXACT = 1e-18  # where a residual of 0 is drawn
COUNTED = 25  # with more classes than this a confusion matrix shows colours alone


@dataclass(frozen=True)
class Child:
    """One run of a sweep: its name and status, its final test accuracy if it has one, and (step, accuracy) points."""

    name: str
    status: str
    accuracy: float | None
    curve: tuple[tuple[int, float], ...] = ()


def learning_curves(steps: Sequence[tuple[int, float, float]], history: Sequence[EpochReport], title: str) -> Figure:
    """Loss and accuracy over steps.

    Args:
        steps: (step, loss, accuracy) of each training step.
        history: the epochs' evaluations.
        title: what the run is.
    """
    figure = _figure(11, 4.2)
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
        if axis.lines:
            axis.legend()
    if any(np.any(np.asarray(line.get_ydata()) > 0) for line in axes[0].lines):
        axes[0].set_yscale("log")
    figure.suptitle(title)
    return figure


def smooth(values: Sequence[float], span: int | None = None) -> list[float]:
    """The mean of `span` values (a twentieth of them all) around each: centred, so that the curve does not lag."""
    half = (min(len(values) // 20, 200) if span is None else span) // 2
    sums = np.cumsum([0.0, *values])
    middle = np.arange(len(values))
    low, high = np.maximum(middle - half, 0), np.minimum(middle + half + 1, len(values))
    means: list[float] = ((sums[high] - sums[low]) / (high - low)).tolist()
    return means


def confusion_matrix(t: Any, y: Any, classes: Sequence[str]) -> Figure:
    """How often each class t (N,) was taken for each class y (N,)."""
    count = len(classes)
    table = np.zeros((count, count), dtype=int)
    np.add.at(table, (np.asarray(t), np.asarray(y)), 1)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.55 * count + 2, 4.5, 14))
    figure = _figure(side, side)
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if count <= COUNTED:
        for i, j in np.argwhere(table):
            color = "white" if share[i, j] > 0.5 else "black"
            axis.text(j, i, str(table[i, j]), ha="center", va="center", color=color, fontsize=9)
    size = float(np.clip(300 / count, 4, 10))
    rotation = 90 if max(map(len, classes)) > 3 else 0
    axis.set_xticks(range(count), classes, rotation=rotation, fontsize=size)
    axis.set_yticks(range(count), classes, fontsize=size)
    accuracy = np.trace(table) / max(table.sum(), 1)
    axis.set(xlabel="predicted", ylabel="label", title=f"test accuracy {accuracy:.4f}")
    return figure


def worst_mistakes(x: Any, t: Any, probabilities: Any, classes: Sequence[str], count: int = 20) -> Figure:
    """The mistaken test images x (N, C, H, W) with labels t (N,) whose wrong class has the most probability (N, K)."""
    guess = np.argmax(probabilities, axis=1)
    wrong = np.flatnonzero(guess != t)
    worst = wrong[np.argsort(-probabilities[wrong, guess[wrong]], kind="stable")][:count]
    columns = 5
    rows = max(1, -(-len(worst) // columns))
    figure = _figure(9, 2.1 * rows + 0.7)
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


def residuals(certificate: Certificate, title: str) -> Figure:
    """The residual of each tensor on a logarithmic scale, and the limit that it must not pass."""
    verdicts = certificate.tensors
    shown = np.clip([v.residual for v in verdicts], EXACT, 1.0)
    colors = [VERDICTS[v.verdict] for v in verdicts]
    figure = _figure(9, float(np.clip(0.2 * len(verdicts) + 1.8, 3, 40)))
    axis = figure.subplots()
    places = np.arange(len(verdicts))
    axis.hlines(places, EXACT, shown, color=colors, linewidth=2)
    axis.scatter(shown, places, color=colors, s=22, zorder=3)
    axis.axvline(certificate.tolerance, color=FAILED, linestyle="--")
    axis.text(certificate.tolerance, -0.7, f" limit {certificate.tolerance:g}", color=FAILED, va="center", fontsize=9)
    for verdict in dict.fromkeys(v.verdict for v in verdicts):
        axis.scatter([], [], color=VERDICTS[verdict], label=verdict)
    axis.set_yticks(places, [v.name for v in verdicts], fontsize=8)
    axis.set(xscale="log", xlim=(EXACT, 2.0), ylim=(len(verdicts) - 0.4, -1.3))
    missing = f"; {len(certificate.missing)} not reached" if certificate.missing else ""
    axis.set(xlabel="residual: |analytic - numerical|, in units of the gradient's size")
    figure.suptitle(f"{title}\ngradients against the complex step: {certificate.status}{missing}", fontsize=11)
    axis.grid(alpha=0.3, axis="x")
    if verdicts:
        axis.legend(loc="upper right")
    return figure


def comparison(children: Sequence[Child], title: str) -> Figure:
    """The runs of a sweep: test accuracy of each as a bar, the best on top, and over the steps as a curve."""
    ordered = sorted(children, key=lambda child: -1.0 if child.accuracy is None else child.accuracy)
    colors = _viridis()(np.linspace(0, 0.9, len(ordered)))
    figure = _figure(13, float(np.clip(0.32 * len(ordered) + 1.8, 4.2, 40)))
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


def seeds(found: Sequence[Setting], title: str) -> Figure:
    """The settings of a sweep over seeds, the best on top: mean and spread of the test accuracy, and each seed's."""
    figure = _figure(9, 0.5 * len(found) + 1.8)
    axes = figure.subplots()
    color = _viridis()(0.4)
    for place, one in enumerate(reversed(found)):
        axes.errorbar(one.mean, place, xerr=one.spread, fmt="o", color="black", capsize=4, zorder=3)
        axes.plot(list(one.shown.values()), [place] * len(one.shown), "|", markersize=14, color=color)
    axes.set_yticks(range(len(found)), [fill(one.name, 40) for one in reversed(found)])
    figure.suptitle(title)
    axes.set(xlabel="test accuracy: each seed, mean and spread", ylim=(-0.6, len(found) - 0.4))
    axes.grid(alpha=0.3, axis="x")
    return figure


def _figure(width: float, height: float) -> Figure:
    # Late: Matplotlib takes a second to import, and a command that is refused or logs nothing draws nothing.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _viridis() -> Colormap:
    from matplotlib import colormaps

    return colormaps["viridis"]
