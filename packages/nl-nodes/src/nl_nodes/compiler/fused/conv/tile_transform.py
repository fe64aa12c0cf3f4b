"""A small linear transform of maps, tile by tile along both axes, and back."""

from __future__ import annotations

from dataclasses import dataclass

from nl_nodes.compiler.fused.workspace import Workspace
from nl_nodes.typing import Array, Namespace, Shape


@dataclass(frozen=True)
class Band:
    """Tiles along one axis that see the same part of their windows: at the edges there is less to see.

    Attributes:
        tiles: which.
        part: which part of the window.
        at: where in the maps that begins, for the first of these tiles.
    """

    tiles: slice
    part: slice
    at: int


def bands(count: int, step: int, start: int, window: int, size: int) -> list[Band]:
    """Tiles whose windows begin at `start`, a step from each other, over so many values; who sees none is in none."""
    found: list[Band] = []
    for tile in range(count):
        begin = start + tile * step
        part = slice(max(-begin, 0), min(size - begin, window))
        if found and found[-1].part == part:
            found[-1] = Band(slice(found[-1].tiles.start, tile + 1), part, found[-1].at)
        elif part.start < part.stop:
            found.append(Band(slice(tile, tile + 1), part, begin + part.start))
    return found


class Transform:
    """Windows of maps times a matrix, along rows and along columns; what lies outside of the maps counts as zero.

    Args:
        xp: the device's array functions.
        matrix: (P, T), for a window of T values.
        counts: how many tiles there are along each axis.
        step: from one tile's window to the next one's.
        pad: how far the first begins before the maps.
        size: (H, W) of the maps.
        scratch: memory for what is transformed along one axis.
    """

    def __init__(
        self, xp: Namespace, matrix: Array, counts: Shape, step: int, pad: int, size: Shape, workspace: Workspace
    ) -> None:
        self.xp, self.matrix, self.counts, self.step, self.workspace = xp, matrix, counts, step, workspace
        self.p, window = matrix.shape
        axes = tuple(zip(counts, size, strict=True))
        self.input = [bands(count, step, -pad, window, n) for count, n in axes]
        # Back, each tile writes where no other begins, and adds to where the next one does: none reaches further.
        self.own = [bands(count, step, -pad, step, n) for count, n in axes]
        self.over = [bands(count, step, step - pad, window - step, n) for count, n in axes]
        self.ends = [count * step - pad for count in counts]  # from there on no tile writes

    def gather(self, maps: Array, grid: Array) -> None:
        """Of maps (H, W, run) the tiles' transforms (P, P, tiles down, tiles across, run)."""
        half = self.workspace.array("half", (self.counts[0], maps.shape[1], self.p, maps.shape[2]))
        self._forth(maps, half, 0)
        self._forth(half.transpose((1, 0, 2, 3)), grid.transpose((3, 2, 0, 1, 4)), 1)

    def scatter(self, grid: Array, maps: Array) -> None:
        """The same backward: each tile's transform times the matrix, transposed, added up in maps (H, W, run)."""
        half = self.workspace.array("half", (self.p, self.counts[0], *maps.shape[1:]))
        self._back(grid.transpose((3, 0, 2, 1, 4)), half.transpose((2, 0, 1, 3)), 1)
        self._back(half.transpose((1, 2, 0, 3)), maps, 0)

    def _forth(self, maps: Array, tiles: Array, axis: int) -> None:
        """From (N, ..., run) to (tiles, ..., P, run)."""
        for band in self.input[axis]:
            self.xp.matmul(self.matrix[:, band.part], self._windows(maps, band), tiles[band.tiles])

    def _back(self, tiles: Array, maps: Array, axis: int) -> None:
        """From (tiles, ..., P, run) to (N, ..., run)."""
        own, over = self.matrix.T, self.matrix.T[self.step :]
        for band in self.own[axis]:
            self.xp.matmul(own[band.part], tiles[band.tiles], self._windows(maps, band))
        maps[self.ends[axis] :] = 0
        for band in self.over[axis]:
            windows = self._windows(maps, band)
            rest = self.workspace.array("rest", windows.shape)
            self.xp.matmul(over[band.part], tiles[band.tiles], rest)
            self.xp.add(windows, rest, windows)

    def _windows(self, maps: Array, band: Band) -> Array:
        """Of (N, ..., run) the view (tiles, ..., part of the window, run)."""
        first, *others, last = maps.strides
        count, length = band.tiles.stop - band.tiles.start, band.part.stop - band.part.start
        shape = (count, *maps.shape[1:-1], length, maps.shape[-1])
        strides = (first * self.step, *others, first, last)
        return self.xp.lib.stride_tricks.as_strided(maps[band.at :], shape, strides)
