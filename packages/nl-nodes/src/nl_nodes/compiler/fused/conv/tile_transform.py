"""The linear transform of Winograd tiles along both axes of maps, and its transpose."""

from __future__ import annotations

from dataclasses import dataclass

from nl_nodes.compiler.fused.workspace import Workspace
from nl_nodes.typing import Array, Namespace, Shape


@dataclass(frozen=True)
class Band:
    """Adjacent tiles along one axis whose windows are clipped alike: those at the edges extend into the padding.

    Attributes:
        tiles: slice of the tiles.
        taps: slice of the window that lies inside the maps.
        start: index in the maps where that slice of the first tile's window begins.
    """

    tiles: slice
    taps: slice
    start: int


def bands(count: int, stride: int, first: int, window: int, size: int) -> list[Band]:
    """Return the bands of `count` tiles over `size` values; tiles that lie wholly in the padding are skipped.

    The first tile's window begins at `first`, each other one `stride` further on.
    """
    found: list[Band] = []
    for tile in range(count):
        begin = first + tile * stride
        taps = slice(max(-begin, 0), min(size - begin, window))
        if found and found[-1].taps == taps:
            found[-1] = Band(slice(found[-1].tiles.start, tile + 1), taps, found[-1].start)
        elif taps.start < taps.stop:
            found.append(Band(slice(tile, tile + 1), taps, begin + taps.start))
    return found


class Transform:
    """The product of windows of maps with a matrix, along rows and columns; values outside the maps count as zero.

    The last axis of maps and tiles holds images and channels, flattened: it is transformed element by element.

    Args:
        xp: the device's array functions.
        matrix: (P, T), for a window of T values.
        counts: tiles along each axis.
        stride: distance between the windows of adjacent tiles.
        pads: how far the first window begins before the maps, along each axis.
        size: (H, W) of the maps.
        workspace: memory for maps transformed along one axis.
        last: whether the transpose has the last rows to itself, which it then sets to zero before it adds to them.
    """

    def __init__(
        self,
        xp: Namespace,
        matrix: Array,
        counts: Shape,
        stride: int,
        pads: Shape,
        size: Shape,
        workspace: Workspace,
        last: bool = True,
    ) -> None:
        self.xp, self.matrix, self.counts, self.stride, self.workspace = xp, matrix, counts, stride, workspace
        self.p, window = matrix.shape
        axes = tuple(zip(counts, pads, size, strict=True))
        self.read_bands = [bands(count, stride, -pad, window, n) for count, pad, n in axes]
        # Transposed, a tile writes up to the start of the next window, and adds to its overlap with that one alone.
        self.write_bands = [bands(count, stride, -pad, stride, n) for count, pad, n in axes]
        self.overlap_bands = [bands(count, stride, stride - pad, window - stride, n) for count, pad, n in axes]
        # From here on no tile writes.
        self.written_to = [n if a == 0 and not last else c * stride - pad for a, (c, pad, n) in enumerate(axes)]

    def gather(self, maps: Array, grid: Array) -> None:
        """Transform maps (H, W, flat) to tiles (P, P, tile rows, tile columns, flat)."""
        half = self.workspace.array("half", (self.counts[0], maps.shape[1], self.p, maps.shape[2]))
        self._apply(maps, half, 0)
        self._apply(half.transpose((1, 0, 2, 3)), grid.transpose((3, 2, 0, 1, 4)), 1)

    def scatter(self, grid: Array, maps: Array) -> None:
        """Apply the transpose of `gather`: tiles times the transposed matrix, added up in maps (H, W, flat)."""
        half = self.workspace.array("half", (self.p, self.counts[0], *maps.shape[1:]))
        self._apply_transposed(grid.transpose((3, 0, 2, 1, 4)), half.transpose((2, 0, 1, 3)), 1)
        self._apply_transposed(half.transpose((1, 2, 0, 3)), maps, 0)

    def _apply(self, maps: Array, tiles: Array, axis: int) -> None:
        """Transform (N, ..., flat) to (tiles, ..., P, flat)."""
        for band in self.read_bands[axis]:
            self.xp.matmul(self.matrix[:, band.taps], self._windows(maps, band), tiles[band.tiles])

    def _apply_transposed(self, tiles: Array, maps: Array, axis: int) -> None:
        """Transform (tiles, ..., P, flat) back to (N, ..., flat)."""
        transposed, overlapping = self.matrix.T, self.matrix.T[self.stride :]
        for band in self.write_bands[axis]:
            self.xp.matmul(transposed[band.taps], tiles[band.tiles], self._windows(maps, band))
        maps[self.written_to[axis] :] = 0
        for band in self.overlap_bands[axis]:
            windows = self._windows(maps, band)
            overlap = self.workspace.array("overlap", windows.shape)
            self.xp.matmul(overlapping[band.taps], tiles[band.tiles], overlap)
            self.xp.add(windows, overlap, windows)

    def _windows(self, maps: Array, band: Band) -> Array:
        """Return the view (tiles, ..., taps, flat) of maps (N, ..., flat)."""
        first, *others, last = maps.strides
        count, length = band.tiles.stop - band.tiles.start, band.taps.stop - band.taps.start
        shape = (count, *maps.shape[1:-1], length, maps.shape[-1])
        strides = (first * self.stride, *others, first, last)
        return self.xp.lib.stride_tricks.as_strided(maps[band.start :], shape, strides)
