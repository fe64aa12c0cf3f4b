"""Layered layout of one group's nodes: rows below their inputs, crossings reduced by a few sweeps.

Source: Sugiyama, Tagawa and Toda, Methods for Visual Understanding of Hierarchical System Structures (1981).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean

WIDTH, HEIGHT = 150.0, 46.0  # of a node
BEND = 18.0  # width reserved for an edge that passes a row
GAP_X, GAP_Y = 14.0, 30.0
SWEEPS = 8

Edge = tuple[int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Coordinates of a layout.

    Attributes:
        places: centre of each node.
        routes: points on each edge, from the bottom of its start to the top of its end.
        width: total width.
        height: total height.
    """

    places: dict[int, Point]
    routes: dict[Edge, list[Point]]
    width: float
    height: float


def lay_out(nodes: Sequence[int], edges: Sequence[Edge]) -> Layout:
    """Lay out nodes so that every edge points down.

    Args:
        nodes: numbers in topological order; a negative number is a pseudo-node without a box, alone in the first row,
            or in the last if it has no successors.
        edges: pairs (from, to).
    """
    edges = list(dict.fromkeys(edges))
    rows = Rows(nodes, edges)
    for sweep in range(SWEEPS):
        rows.order(down=sweep % 2 == 0)
    for sweep in range(SWEEPS):
        rows.align(down=sweep % 2 == 0)
    left = min(rows.x[n] - rows.width(n) / 2 for row in rows.rows for n in row)
    right = max(rows.x[n] + rows.width(n) / 2 for row in rows.rows for n in row)
    heights = [HEIGHT if any(n >= 0 for n in row) else 0.0 for row in rows.rows]
    tops = [0.0, *accumulate(height + GAP_Y for height in heights)]

    def at(n: int) -> Point:
        return rows.x[n] - left, tops[rows.rank[n]] + heights[rows.rank[n]] / 2

    def upright(n: int) -> list[Point]:
        """Return where an edge enters and leaves a row; it turns only between rows, so it crosses no node."""
        x, top = rows.x[n] - left, tops[rows.rank[n]]
        return [(x, y) for y in dict.fromkeys((top, top + heights[rows.rank[n]]))]

    def route(edge: Edge) -> list[Point]:
        start, *bends, end = rows.chains[edge]
        return [upright(start)[-1], *(point for n in bends for point in upright(n)), upright(end)[0]]

    return Layout({n: at(n) for n in nodes}, {edge: route(edge) for edge in edges}, right - left, tops[-1] - GAP_Y)


class Rows:
    """Rows of nodes and of the bends of long edges, and their x coordinates.

    Attributes:
        rank: row of each node or bend.
        rows: nodes and bends of each row, from the left.
        x: centre of each.
        chains: start, bends (new negative numbers) and end of each edge.
    """

    def __init__(self, nodes: Sequence[int], edges: Sequence[Edge]) -> None:
        self.rank = ranks(nodes, edges)
        self.chains: dict[Edge, list[int]] = {}
        self._above: dict[int, list[int]] = {n: [] for n in nodes}
        self._below: dict[int, list[int]] = {n: [] for n in nodes}
        for edge in edges:
            self._chain(edge, first=min((*self.rank, 0)) - 1)
        count = max(self.rank.values()) + 1
        self.rows = [[n for n in self.rank if self.rank[n] == row] for row in range(count)]
        self.x: dict[int, float] = {}
        for row in self.rows:
            self._spread(row, [0.0] * len(row))

    def _chain(self, edge: Edge, first: int) -> None:
        start, end = edge
        bends: list[int] = []
        for row in range(self.rank[start] + 1, self.rank[end]):
            bend = first - len(bends)
            bends.append(bend)
            self.rank[bend] = row
            self._above[bend], self._below[bend] = [], []
        self.chains[edge] = [start, *bends, end]
        for a, b in pairwise(self.chains[edge]):
            self._below[a].append(b)
            self._above[b].append(a)

    def width(self, n: int) -> float:
        """Return the width of a node or bend."""
        return WIDTH if n >= 0 else BEND

    def order(self, down: bool) -> None:
        """Sort each row by the mean position of its neighbours in the row above (or below)."""
        near = self._above if down else self._below
        for row in self.rows if down else reversed(self.rows):
            row.sort(key=lambda n: fmean([self.x[m] for m in near[n]] or [self.x[n]]))
            self._spread(row, [0.0] * len(row))

    def align(self, down: bool) -> None:
        """Move each item towards the mean of its neighbours, keeping order and minimum distances in its row."""
        for row in self.rows if down else reversed(self.rows):
            wanted = [fmean([self.x[m] for m in self._above[n] + self._below[n]] or [self.x[n]]) for n in row]
            self._spread(row, wanted)

    def _spread(self, row: Sequence[int], wanted: Sequence[float]) -> None:
        """Set x as close as possible to `wanted`, in order and with minimum distances (isotonic regression)."""
        offsets = [0.0]
        for a, b in pairwise(row):
            offsets.append(offsets[-1] + (self.width(a) + self.width(b)) / 2 + GAP_X)
        runs: list[list[float]] = []
        for place, offset in zip(wanted, offsets, strict=True):
            runs.append([place - offset])
            while len(runs) > 1 and fmean(runs[-2]) > fmean(runs[-1]):
                last = runs.pop()
                runs[-1] += last
        starts = [fmean(run) for run in runs for _ in run]
        self.x.update({n: start + offset for n, start, offset in zip(row, starts, offsets, strict=True)})


def ranks(nodes: Sequence[int], edges: Sequence[Edge]) -> dict[int, int]:
    """Return each node's row: below all its inputs, and as low as possible without a larger total edge length.

    A pseudo-node (negative number) is alone in the first row, or in the last if it has no successors.
    """
    above: dict[int, list[int]] = {n: [] for n in nodes}
    below: dict[int, list[int]] = {n: [] for n in nodes}
    for a, b in edges:
        above[b].append(a)
        below[a].append(b)
    first = any(node < 0 and below[node] for node in nodes)
    rank: dict[int, int] = {}
    for node in nodes:
        rank[node] = max((rank[a] + 1 for a in above[node]), default=int(first and node >= 0))
    for node in reversed(nodes):
        if node >= 0 and below[node] and len(above[node]) <= len(below[node]):
            rank[node] = min(rank[b] for b in below[node]) - 1
    last = max(rank[node] for node in nodes if node >= 0)
    rank.update({node: last + 1 for node in nodes if node < 0 and not below[node]})
    return rank
