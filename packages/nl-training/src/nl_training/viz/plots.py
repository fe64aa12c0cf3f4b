"""Figures of runs, made with Matplotlib's object interface, which needs no display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_training.training.callbacks import EpochReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nl_nodes.verify import Certificate

COLORS = {"train": "#4c72b0", "val": "#dd8452", "test": "#55a868"}
FAILED = "#c44e52"
VERDICTS = {
    "verified": ("#55a868", "o"),
    "zero": ("#8c8c8c", "s"),
    "cancelled": ("#4c72b0", "^"),
    "failed": (FAILED, "X"),
}
ZERO_RESIDUAL = 1e-18  # where a residual of 0 is drawn
MAX_LABELLED = 25  # with more classes a confusion matrix shows colours only


def learning_curves(steps: Sequence[tuple[int, float, float]], history: Sequence[EpochReport], title: str) -> Figure:
    """Plot loss and accuracy over steps.

    Args:
        steps: (step, loss, accuracy) of each training step.
        history: evaluations of the epochs.
        title: title of the figure.
    """
    figure = new_figure(11, 4.2)
    axes = figure.subplots(1, 2)
    for axis, column, name in zip(axes, (1, 2), ("loss", "acc"), strict=True):
        if steps:
            numbers, values = [s[0] for s in steps], [s[column] for s in steps]
            axis.plot(numbers, values, color=COLORS["train"], alpha=0.25, linewidth=0.8)
            axis.plot(numbers, smooth(values), color=COLORS["train"], label="training batches")
        for part, label, look in (("val", "validation", "o-"), ("test", "test", "s--")):
            points = [(e.step, e.metrics[f"{part}/{name}"]) for e in history if f"{part}/{name}" in e.metrics]
            if points:
                axis.plot(*zip(*points, strict=True), look, color=COLORS[part], label=label, markersize=4)
        axis.set(xlabel="step", ylabel="accuracy" if name == "acc" else name)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    if any(np.any(np.asarray(line.get_ydata()) > 0) for line in axes[0].lines):
        axes[0].set_yscale("log")
    figure.suptitle(title)
    return figure


def smooth(values: Sequence[float], span: int | None = None) -> list[float]:
    """Return the centred moving average over `span` values, by default a twentieth of all, at most 200."""
    half = (min(len(values) // 20, 200) if span is None else span) // 2
    sums = np.cumsum([0.0, *values])
    middle = np.arange(len(values))
    low, high = np.maximum(middle - half, 0), np.minimum(middle + half + 1, len(values))
    means: list[float] = ((sums[high] - sums[low]) / (high - low)).tolist()
    return means


def confusion_matrix(t: Any, y: Any, classes: Sequence[str]) -> Figure:
    """Plot the confusion matrix of labels t (N,) and predicted classes y (N,)."""
    from sklearn import metrics  # imported late, as Matplotlib is

    count = len(classes)
    table = metrics.confusion_matrix(t, y, labels=range(count))
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.55 * count + 2, 4.5, 14))
    figure = new_figure(side, side)
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if count <= MAX_LABELLED:
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


def confident_mistakes(t: Any, probabilities: Any, count: int = 20) -> Any:
    """Return the indices of at most `count` mistakes, those with the largest wrong probabilities (N, K) first."""
    guess = np.argmax(probabilities, axis=1)
    wrong = np.flatnonzero(guess != t)
    return wrong[np.argsort(-probabilities[wrong, guess[wrong]], kind="stable")][:count]


def worst_mistakes(x: Any, t: Any, probabilities: Any, classes: Sequence[str]) -> Figure:
    """Plot the images x (N, C, H, W), labels t (N,), misclassified with the largest wrong probabilities (N, K)."""
    return mistakes(x[confident_mistakes(t, probabilities)], t, probabilities, classes)


def mistakes(images: Any, t: Any, probabilities: Any, classes: Sequence[str]) -> Figure:
    """Plot the images (M, C, H, W) of `confident_mistakes`; otherwise as `worst_mistakes`."""
    worst, guess = confident_mistakes(t, probabilities), np.argmax(probabilities, axis=1)
    columns = 5
    rows = max(1, -(-len(worst) // columns))
    figure = new_figure(9, 2.1 * rows + 0.7)
    figure.suptitle(f"{np.count_nonzero(guess != t)} mistakes on {len(t):,} test images; the most confident first")
    for place, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axis.axis("off")
        axis.set(xticks=[], yticks=[])  # Matplotlib would lay out ticks that are not drawn
        if place < len(worst):
            n = worst[place]
            axis.imshow(_picture(images[place]), cmap="gray")
            confidence = probabilities[n, guess[n]]
            axis.set_title(f"{classes[t[n]]} taken for {classes[guess[n]]} ({confidence:.0%})", fontsize=8)
    return figure


def _picture(image: Any) -> Any:
    """Convert an image (C, H, W) for Matplotlib, scaled to 0..1: its first three channels, or only the first."""
    low, high = float(image.min()), float(image.max())
    scaled = (image - low) / ((high - low) or 1.0)
    return scaled[0] if len(scaled) < 3 else scaled.transpose(1, 2, 0)[..., :3]


def residuals(certificate: Certificate, title: str) -> Figure:
    """Plot the residual of each tensor and the tolerance on a logarithmic scale."""
    verdicts = certificate.tensors
    shown = np.clip([v.residual for v in verdicts], ZERO_RESIDUAL, 1.0)
    figure = new_figure(9, float(np.clip(0.2 * len(verdicts) + 1.8, 3, 40)))
    axis = figure.subplots()
    places = np.arange(len(verdicts))
    axis.axvline(certificate.tolerance, color=FAILED, linestyle="--")
    axis.text(certificate.tolerance, -0.7, f" limit {certificate.tolerance:g}", color=FAILED, va="center", fontsize=9)
    for verdict in dict.fromkeys(v.verdict for v in verdicts):
        color, marker = VERDICTS[verdict]
        rows = np.array([v.verdict == verdict for v in verdicts])
        axis.hlines(places[rows], ZERO_RESIDUAL, shown[rows], color=color, linewidth=2)
        axis.scatter(shown[rows], places[rows], color=color, marker=marker, s=22, zorder=3, label=verdict)
    axis.set_yticks(places, [v.name for v in verdicts], fontsize=8)
    axis.set(xscale="log", xlim=(ZERO_RESIDUAL, 2.0), ylim=(len(verdicts) - 0.4, -1.3))
    missing = f"; {len(certificate.missing)} not reached" if certificate.missing else ""
    axis.set(xlabel="residual: |analytic - numerical|, in units of the gradient's size")
    figure.suptitle(f"{title}\ngradients against the complex step: {certificate.status}{missing}", fontsize=11)
    axis.grid(alpha=0.3, axis="x")
    if verdicts:
        axis.legend(loc="upper right")
    return figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches."""
    # Imported late: Matplotlib takes a second, and a rejected command or one without logging plots nothing.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
