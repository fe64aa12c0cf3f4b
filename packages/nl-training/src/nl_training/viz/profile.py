"""Profile of a network's training step by node, as a table, a figure and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from nl_models import Network
from nl_nodes.compiler import Row, profile, profile_reference

COLORS = {"forward": "#4c72b0", "backward": "#dd8452"}
# Nodes below this share of the step are summed up in the table (TINY) or the figure (SMALL).
TINY, SMALL = 0.001, 0.01
WIDTH = 150


def profile_network(net: Network, x: Any, t: Any, repeats: int = 5) -> list[Row]:
    """Profile each node in a training step on images x (N, C, H, W) with labels t (N,), compiled or not.

    Parameters, running statistics and the pass counter do not change; the gradient buffer is overwritten.
    """
    feeds = {"x": net.device.array(x), "t": net.device.labels(t)}
    with net.device.limits():
        if net.device.compiles:
            return profile(net.plan(True, len(x)), feeds, repeats=repeats)
        return profile_reference(net.wire(len(x), train=True), feeds, repeats)


def artifacts(net: Network, x: Any, t: Any) -> dict[str, str | Figure]:
    """Profile a network for a run's artifacts; return texts and a figure by file name."""
    rows = profile_network(net, x, t)
    title = f"{net.name}, {len(x)} images, {net.device!r}, {'compiled' if net.device.compiles else 'reference'}"
    return {
        "profile/profile.txt": text(rows, title),
        "profile/profile.json": json.dumps({"title": title, "rows": [asdict(row) for row in rows]}, indent=1),
        "profile/profile.png": picture(rows, title),
    }


def table(rows: Sequence[Row], title: str) -> Table:
    """Return a table with a row per node and direction, slowest first, and totals."""
    whole = sum(row.seconds for row in rows)
    found = Table("node", "", "ms", "share", "MFLOP", "GFLOP/s", "MB", "GB/s", "calls", "algorithm", title=title)
    for row in sorted(rows, key=lambda row: -row.seconds):
        if row.seconds >= TINY * whole:
            found.add_row(row.path, row.direction, *_figures(row, whole), row.algorithm)
    if rest := [row for row in rows if row.seconds < TINY * whole]:
        found.add_row(f"{len(rest)} others", "", *_figures(_sum(rest), whole), "")
    found.add_section()
    for direction in ("forward", "backward", ""):
        chosen = [row for row in rows if row.direction == direction or not direction]
        found.add_row("all", direction, *_figures(_sum(chosen), whole), "")
    for column in found.columns[2:9]:
        column.justify = "right"
    return found


def text(rows: Sequence[Row], title: str) -> str:
    """Return the table as plain text."""
    console = Console(file=StringIO(), width=WIDTH, color_system=None)
    console.print(table(rows, title))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def picture(rows: Sequence[Row], title: str) -> Figure:
    """Plot the milliseconds of each node as stacked bars, forward and backward, in graph order."""
    whole = sum(row.seconds for row in rows)
    times: dict[str, dict[str, float]] = {}
    for row in rows:
        name = f"{row.path} ({row.algorithm})" if row.algorithm else row.path
        times.setdefault(name, dict.fromkeys(COLORS, 0.0))[row.direction] += row.seconds * 1e3
    large = {name: both for name, both in times.items() if sum(both.values()) >= SMALL * whole * 1e3}
    rest = [both for name, both in times.items() if name not in large]
    if rest:
        large[f"{len(rest)} others"] = {direction: sum(both[direction] for both in rest) for direction in COLORS}
    figure = Figure(figsize=(10, float(np.clip(0.3 * len(large) + 1.6, 3, 40))), layout="constrained")
    axis = figure.subplots()
    places, begin = np.arange(len(large)), np.zeros(len(large))
    for direction, color in COLORS.items():
        lengths = np.array([both[direction] for both in large.values()])
        axis.barh(places, lengths, left=begin, color=color, label=direction)
        begin += lengths
    for place, length in enumerate(begin.tolist()):
        axis.text(length, place, f" {length / (whole * 1e3):.0%}", va="center", fontsize=8)
    axis.set_yticks(places, list(large), fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="milliseconds of a training step")
    axis.set_title(f"{title}\n{whole * 1e3:.2f} ms a step", fontsize=10)
    axis.grid(alpha=0.3, axis="x")
    axis.set_axisbelow(True)
    axis.legend()
    return figure


def _figures(row: Row, whole: float) -> list[str]:
    """Return milliseconds, share, operations and bytes, in total and per second, and calls."""
    seconds = row.seconds or np.inf
    return [
        f"{row.seconds * 1e3:.3f}",
        f"{row.seconds / whole:.1%}",
        f"{row.flops / 1e6:,.2f}",
        f"{row.flops / 1e9 / seconds:.1f}",
        f"{row.bytes / 1e6:,.2f}",
        f"{row.bytes / 1e9 / seconds:.1f}",
        f"{row.calls:,}",
    ]


def _sum(rows: Sequence[Row]) -> Row:
    seconds = sum(row.seconds for row in rows)
    flops, moved, calls = (sum(getattr(row, name) for row in rows) for name in ("flops", "bytes", "calls"))
    return Row("all", "", "", seconds, flops, moved, calls)
