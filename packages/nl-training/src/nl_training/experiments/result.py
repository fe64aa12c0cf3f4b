"""What an experiment gives, and how its figures look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from nl_training.experiments.train import Trained

PALETTE = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")


@dataclass(frozen=True)
class Figures:
    """An experiment's result.

    Attributes:
        figures: by the name of the file.
        numbers: by the name of the metric.
        trained: the trainings behind them, whose curves and certificates are logged too.
    """

    figures: dict[str, Figure]
    numbers: dict[str, float]
    trained: tuple[Trained, ...] = ()


def panels(
    rows: int, columns: int, width: float = 4.2, height: float = 3.2, **options: Any
) -> tuple[Figure, list[Any]]:
    """A figure of so many panels, each of that size in inches, and its axes row by row."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def dress(axis: Any, x: str, y: str, title: str = "", legend: bool = True) -> None:
    """Labels, grid and legend of a panel."""
    axis.set(xlabel=x, ylabel=y)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)
    if legend and axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=8)


def images(pictures: Sequence[Any], titles: Sequence[str], columns: int, title: str) -> Figure:
    """Pictures (H, W) in a grid, each scaled to its own range, with a small title above each."""
    rows = -(-len(pictures) // columns)
    figure, axes = panels(rows, columns, width=0.95, height=1.05)
    figure.suptitle(title, fontsize=10)
    for axis in axes:
        axis.axis("off")
    for axis, picture, text in zip(axes, pictures, titles, strict=False):
        axis.imshow(picture, cmap="gray")
        axis.set_title(text, fontsize=7)
    return figure
