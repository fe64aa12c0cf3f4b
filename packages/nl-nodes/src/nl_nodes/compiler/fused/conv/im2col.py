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

FEW_CHANNELS = 4
"""Up to this many channels, the matrix of windows is stored transposed."""


class Im2col(ConvAlgorithm):
    """Convolution as a matrix product of windows and kernels.

    A tap is one of the FH FW positions in a window.

    Args:
        kernel: (FH, FW).
        stride: the distance between windows.
        group, x, outputs, dtype: as for `ConvAlgorithm`.
    """

    def __init__(self, kernel: Shape, stride: int, group: WorkerGroup, x: Shape, outputs: Shape, dtype: Any) -> None:
        super().__init__(group, x, outputs, dtype)
        self.kernel, self.stride = kernel, stride
        self.depth, self.images = prod(kernel) * self.c, self.n

    def _chunk_rows(self, pool_stride: int) -> int:
        """Return the rows of outputs per chunk."""
        row_bytes = 4 * pool_stride * self.ow * self.n * (self.depth + self.k)
        return cache_chunk(self.group, self.oh // pool_stride, row_bytes)

    def chunks(self, pool_stride: int) -> Iterator[Chunk]:
        """Yield chunks of rows, which are contiguous in the maps and in the outputs."""
        for rows in chunk_slices(self.oh // pool_stride, self._chunk_rows(pool_stride)):
            first, last = pool_stride * rows.start, pool_stride * rows.stop
            input_rows = slice(self.stride * first, None)  # open-ended: the chunk reads as far as it needs
            yield Chunk((rows, ALL), (input_rows,), (last - first, self.ow, self.n, self.k))

    @property
    def transposed(self) -> bool:
        """Whether the matrix of windows is stored transposed, a row per tap and channel."""
        return self.c <= FEW_CHANNELS

    def transformed_kernels(self, ctx: Context, w: Array, back: bool = False) -> Array:
        """Return the kernels as a matrix (FH FW C, K)."""
        return w.transpose((2, 3, 1, 0)).reshape((self.depth, self.k))

    def maps_gradient(self, shape: Shape) -> Array:
        """Return zeros, to which chunks add: two of them may read the same rows."""
        return self.xp.zeros(shape, dtype=self.dtype)

    def forward(self, x: Array, u: Array, y: Array) -> None:
        """Multiply windows by kernels."""
        self._copy_windows(x, len(y))
        self.xp.matmul(self._matrix(len(y)), u, y.reshape((-1, self.k)))

    def begin_backward(self, x: Array, dy: Array) -> None:
        """Copy the windows again, as in `forward`."""
        self._copy_windows(x, len(dy))
        self._dy = dy.reshape((-1, self.k))
        self._backward_rows = len(dy)

    def weight_gradient(self, dw: Array, add: bool) -> None:
        """Multiply the transposed windows by dy, and reorder the result to (K, C, FH, FW)."""
        du = self.workspace.array("du", (self.depth, self.k))
        self.xp.matmul(self._matrix(self._backward_rows).T, self._dy, du)
        ordered = du.reshape((*self.kernel, self.c, self.k)).transpose((3, 2, 0, 1))
        if add:
            self.xp.add(dw, ordered, dw)
        else:
            dw[...] = ordered

    def data_gradient(self, u: Array, dx: Array) -> None:
        """Multiply dy by the transposed kernels, and add each row to the pixels of its window (col2im)."""
        rows = self._backward_rows
        matrix = self._matrix(rows)
        if self.transposed:
            self.xp.matmul(u, self._dy.T, matrix.T)
        else:
            self.xp.matmul(self._dy, u.T, matrix)
        for column, pixels in zip(self._columns(rows), self._pixels(dx, rows), strict=True):
            self.xp.add(pixels, column, pixels)

    def _copy_windows(self, x: Array, rows: int) -> None:
        for column, pixels in zip(self._columns(rows), self._pixels(x, rows), strict=True):
            column[...] = pixels

    def _pixels(self, x: Array, rows: int) -> list[Array]:
        """Return for each tap the pixels (rows, OW, N, C) of all windows."""
        s = self.stride
        taps = [(a, b) for a in range(self.kernel[0]) for b in range(self.kernel[1])]
        return [x[a : a + s * rows : s, b : b + s * self.ow : s] for a, b in taps]

    def _columns(self, rows: int) -> list[Array]:
        """Return for each tap its columns of the matrix, as (rows, OW, N, C)."""
        windows = self._windows(rows)
        if self.transposed:
            return [tap.transpose((1, 2, 3, 0)) for tap in windows]
        return [windows[:, :, :, i] for i in range(prod(self.kernel))]

    def _windows(self, rows: int) -> Array:
        """Return workspace for a chunk: (FH FW, C, rows, OW, N) if transposed, else (rows, OW, N, FH FW, C)."""
        taps = prod(self.kernel)
        transposed = (taps, self.c, rows, self.ow, self.n)
        row_major = (rows, self.ow, self.n, taps, self.c)
        return self.workspace.array("windows", transposed if self.transposed else row_major)

    def _matrix(self, rows: int) -> Array:
        """Return the windows as a matrix (rows OW N, FH FW C)."""
        windows = self._windows(rows)
        return windows.reshape((self.depth, -1)).T if self.transposed else windows.reshape((-1, self.depth))
