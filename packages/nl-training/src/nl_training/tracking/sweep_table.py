"""The table of a sweep's jobs on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mlflow.entities import Run


def print_jobs(labels: Sequence[str], runs: Sequence[Run], figures: Mapping[str, str], choice: str) -> None:
    """Print the finished jobs of a sweep, the best first.

    Args:
        labels: the jobs' names.
        runs: their runs.
        figures: columns: a metric by its title.
        choice: the metric by which the best is chosen.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("job", overflow="fold")
    for title in (*figures, "seconds"):
        table.add_column(title, justify="right")
    jobs = [(label, run.data.metrics) for label, run in zip(labels, runs, strict=True) if choice in run.data.metrics]
    for label, metrics in sorted(jobs, key=lambda job: -job[1][choice]):
        cells = [f"{metrics[key]:.4f}" if key in metrics else "-" for key in figures.values()]
        table.add_row(label, *cells, f"{metrics['seconds']:.1f}" if "seconds" in metrics else "-")
    Console().print(table)
