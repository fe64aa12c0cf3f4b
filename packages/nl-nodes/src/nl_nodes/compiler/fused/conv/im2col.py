"""Convolution by im2col, for any kernel and stride, in chunks of rows of all images."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from nl_nodes.compiler.fused.conv.algorithm import Chunk, ConvAlgorithm
from nl_nodes.compiler.fused.epilogue import ALL
from nl_nodes.compiler.fused.workspace import cache_chunk, chunk_slices
from nl_nodes.context import Context, WorkerGroup
from nl_nodes.typing import Array, Shape


class Im2col(ConvAlgorithm):
    """Convolution as a matrix product of windows and kernels.

    A tap is one of the FH FW positions in a window. With a single one and stride 1 the maps are the matrix of windows.

    Args:
        kernel: (FH, FW).
        stride: the distance between windows.
        pad: rows and columns of zero padding on every side that x lacks.
        group, x, outputs, dtype: as for `ConvAlgorithm`.
    """

    def __init__(
        self, kernel: Shape, stride: int, pad: int, group: WorkerGroup, x: Shape, outputs: Shape, dtype: Any
    ) -> None:
        super().__init__(group, x, outputs, dtype)
        self.kernel, self.stride, self.pad, self.size = kernel, stride, pad, x[:2]
        self.copies = prod(kernel) > 1 or stride > 1
        self.depth, self.images = prod(kernel) * self.c, self.n

    def _chunk_rows(self, pool_stride: int) -> int:
        """Return the rows of outputs per chunk."""
        row_bytes = self.ow * self.n * self._pixel_bytes(pool_stride)
        return cache_chunk(self.group, self.oh // pool_stride, row_bytes)

    def _pixel_bytes(self, pool_stride: int) -> int:
        """Return the bytes of workspace for a pixel of a row of outputs."""
        return 4 * pool_stride * (self.depth + self.k)

    def chunks(self, pool_stride: int) -> Iterator[Chunk]:
        """Yield chunks of rows, which are contiguous in the maps and in the outputs."""
        for rows in chunk_slices(self.oh // pool_stride, self._chunk_rows(pool_stride)):
            first, last = pool_stride * rows.start, pool_stride * rows.stop
            yield Chunk((rows, ALL), (ALL,), (last - first, self.ow, self.n, self.k), first)

    def transformed_kernels(self, ctx: Context, w: Array, back: bool = False) -> Array:
        """Return the kernels as a matrix (FH FW C, K)."""
        return w.transpose((2, 3, 1, 0)).reshape((self.depth, self.k))

    def maps_gradient(self, shape: Shape) -> Array:
        """Return zeros, to which chunks add: two of them may read the same rows."""
        if self.copies:
            return self.xp.zeros(shape, dtype=self.dtype)
        dx = super().maps_gradient(shape)
        dx[self.oh // 2 * 2 :] = 0  # with pooling, no chunk has an odd last row
        return dx

    def forward(self, chunk: Chunk, x: Array, u: Array, y: Array) -> None:
        """Multiply windows by kernels."""
        self.xp.matmul(self._copied_windows(chunk, x), u, y.reshape((-1, self.k)))

    def begin_backward(self, chunk: Chunk, x: Array, dy: Array) -> None:
        """Copy the windows again, as in `forward`."""
        self._chunk, self._inputs, self._dy = chunk, self._copied_windows(chunk, x), dy.reshape((-1, self.k))

    def weight_gradient(self, dw: Array, add: bool) -> None:
        """Multiply the transposed windows by dy, and reorder the result to (K, C, FH, FW).

        In a chunk for the cache, a product for each row of the maps, then their sum: BLAS is slow on longer sums.
        """
        rows = self._chunk.shape[0] if self.group.chunked else 1
        windows = self._inputs.reshape((rows, -1, self.depth)).transpose((0, 2, 1))
        du = self.workspace.array("du", (rows, self.depth, self.k))
        self.xp.matmul(windows, self._dy.reshape((rows, -1, self.k)), du)
        self._store_kernels_gradient(du, dw, add)

    def _store_kernels_gradient(self, du: Array, dw: Array, add: bool) -> None:
        """Write the sum of the rows' gradients (rows, FH FW C, K) to dw (K, C, FH, FW), or add it."""
        total = du.sum(axis=0) if len(du) > 1 else du[0]
        ordered = total.reshape((*self.kernel, self.c, self.k)).transpose((3, 2, 0, 1))
        if add:
            self.xp.add(dw, ordered, dw)
        else:
            dw[...] = ordered

    def data_gradient(self, u: Array, dx: Array) -> None:
        """Multiply dy by the transposed kernels, and add each row to the pixels of its window (col2im)."""
        rows = self._chunk.shape[0]
        matrix = self._matrix(rows) if self.copies else self._rows_of(self._chunk, dx)
        self.xp.matmul(self._dy, u.T, matrix)
        if self.copies:
            for column, (inside, pixels) in zip(self._columns(rows), self._pixels(self._chunk, dx), strict=True):
                self.xp.add(pixels, column[inside], pixels)

    def _copied_windows(self, chunk: Chunk, x: Array) -> Array:
        """Return the matrix of a chunk's windows, zero where they extend beyond the maps."""
        if not self.copies:
            return self._rows_of(chunk, x)
        rows = chunk.shape[0]
        for column, (inside, pixels) in zip(self._columns(rows), self._pixels(chunk, x), strict=True):
            for axis, part in enumerate(inside):
                for padding in (slice(0, part.start), slice(part.stop, None)):
                    column[(ALL,) * axis + (padding,)] = 0
            column[inside] = pixels
        return self._matrix(rows)

    def _rows_of(self, chunk: Chunk, maps: Array) -> Array:
        """Return a chunk's pixels as a matrix (rows OW N, C)."""
        return maps[chunk.first : chunk.first + chunk.shape[0]].reshape((-1, self.c))

    def _pixels(self, chunk: Chunk, x: Array) -> Iterator[tuple[tuple[slice, slice], Array]]:
        """Yield for each tap which windows of a chunk have it inside the maps, and their pixels (rows, OW, N, C)."""
        for a in range(self.kernel[0]):
            rows, down = self._inside(a, chunk.first, chunk.shape[0], self.size[0])
            for b in range(self.kernel[1]):
                columns, across = self._inside(b, 0, self.ow, self.size[1])
                yield (rows, columns), x[down, across]

    def _inside(self, tap: int, first: int, count: int, size: int) -> tuple[slice, slice]:
        """Return which of `count` windows along an axis have a tap inside the maps, and its places there."""
        begin = self.stride * first + tap - self.pad
        start = min(max(-(begin // self.stride), 0), count)
        stop = max(min((size - 1 - begin) // self.stride + 1, count), start)
        at = begin + self.stride * start
        return slice(start, stop), slice(at, at + self.stride * (stop - start), self.stride)

    def _columns(self, rows: int) -> list[Array]:
        """Return for each tap its columns of the matrix, as (rows, OW, N, C)."""
        windows = self._windows(rows)
        return [windows[:, :, :, i] for i in range(prod(self.kernel))]

    def _windows(self, rows: int) -> Array:
        """Return workspace for a chunk (rows, OW, N, FH FW, C)."""
        return self.workspace.array("windows", (rows, self.ow, self.n, prod(self.kernel), self.c))

    def _matrix(self, rows: int) -> Array:
        """Return the windows as a matrix (rows OW N, FH FW C)."""
        return self._windows(rows).reshape((-1, self.depth))
