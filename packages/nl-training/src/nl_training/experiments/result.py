"""The result of an experiment, and helpers for its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from nl_training.experiments.train import TrainedNetwork

PALETTE = (
    "#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd",
)  # fmt: skip
_DASHES = (
    "-", "--", "-.", ":", (0, (7, 2)), (0, (6, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (3, 2)), (0, (5, 1, 1, 1)),
    (0, (9, 2, 2, 2)),
)  # fmt: skip
COLUMN = 7  # entries of a legend in one column, at most
# Options of `plot` for lines in one panel: each has its own colour, dashes and marker.
LINES: tuple[dict[str, Any], ...] = tuple(
    {"color": color, "linestyle": dashes, "marker": marker, "markersize": 4, "markevery": 0.15, "linewidth": 1.2}
    for color, dashes, marker in zip(PALETTE, _DASHES, "os^DvP*Xph", strict=True)
)


@dataclass(frozen=True)
class Figures:
    """An experiment's result.

    Attributes:
        figures: figures by file name, without suffix.
        numbers: values by metric name.
        trained: trainings whose curves and certificates are logged too.
    """

    figures: dict[str, Figure]
    numbers: dict[str, float]
    trained: tuple[TrainedNetwork, ...] = ()

    @property
    def summary(self) -> str:
        """The numbers of figures and values in one line."""
        return f"{len(self.figures)} figures, {len(self.numbers)} numbers"


def panels(
    rows: int, columns: int, width: float = 4.2, height: float = 3.2, **options: Any
) -> tuple[Figure, list[Any]]:
    """Create a figure of `rows` x `columns` panels of this size in inches; return it and its axes row by row."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def dress(axis: Any, x: str, y: str, title: str = "", legend: bool = True) -> None:
    """Add labels, grid and legend to a panel."""
    axis.set(xlabel=x, ylabel=y)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)
    entries = len(axis.get_legend_handles_labels()[1])
    if legend and entries:
        axis.legend(fontsize=8, ncols=1 if entries <= COLUMN else 2)


def images(pictures: Sequence[Any], titles: Sequence[str], columns: int, title: str) -> Figure:
    """Plot images (H, W) in a grid, each scaled to its own range, with a title above each."""
    rows = -(-len(pictures) // columns)
    figure, axes = panels(rows, columns, width=0.95, height=1.05)
    figure.suptitle(title, fontsize=10)
    for axis in axes:
        axis.axis("off")
    for axis, picture, text in zip(axes, pictures, titles, strict=False):
        axis.imshow(picture, cmap="gray")
        axis.set_title(text, fontsize=7)
    return figure
