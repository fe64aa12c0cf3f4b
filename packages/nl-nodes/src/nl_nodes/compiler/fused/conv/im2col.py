"""Convolution by its windows as a matrix (im2col), some rows of all images at a time: any kernel, any stride."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from nl_nodes.compiler.fused.conv.algorithm import Chunk, ConvAlgorithm
from nl_nodes.compiler.fused.epilogue import ALL
from nl_nodes.compiler.fused.workspace import cache_chunk, pieces
from nl_nodes.node import Context
from nl_nodes.typing import Array, Namespace, Shape

FEW_CHANNELS = 4
"""With so few channels, each place in the window becomes a row of the matrix."""


class Im2col(ConvAlgorithm):
    """Convolution as one matrix product.

    Args:
        kernel: (FH, FW).
        stride: the step between windows.
        others: as for `ConvAlgorithm`.
    """

    def __init__(self, kernel: Shape, stride: int, xp: Namespace, x: Shape, outputs: Shape, dtype: Any) -> None:
        super().__init__(xp, x, outputs, dtype)
        self.kernel, self.stride = kernel, stride
        self.long, self.images = prod(kernel) * self.c, self.n

    def _fitting(self, step: int) -> int:
        """How many rows of outputs to make at a time, each of so many of the convolution's."""
        return cache_chunk(self.oh // step, 4 * step * self.ow * self.n * (self.long + self.k))

    def parts(self, step: int) -> Iterator[Chunk]:
        """Some rows at a time: they are one block of memory in the maps and in the outputs."""
        for rows in pieces(self.oh // step, self._fitting(step)):
            first, last = step * rows.start, step * rows.stop
            seen = slice(self.stride * first, None)  # and further, as far as it needs
            yield Chunk((rows, ALL), (seen,), (last - first, self.ow, self.n, self.k))

    @property
    def few(self) -> bool:
        """Whether each place in the window becomes a row of the matrix; else it is a part of a column."""
        return self.c <= FEW_CHANNELS

    def weights(self, ctx: Context, w: Array, back: bool = False) -> Array:
        """A matrix (FH FW C, K)."""
        return w.transpose((2, 3, 1, 0)).reshape((self.long, self.k))

    def maps_gradient(self, shape: Shape) -> Array:
        """Zeros, to which each part adds: two of them may see the same rows."""
        return self.xp.zeros(shape, dtype=self.dtype)

    def forward(self, x: Array, u: Array, y: Array) -> None:
        """Windows times kernels."""
        self._windows_of(x, len(y))
        self.xp.matmul(self._matrix(len(y)), u, y.reshape((-1, self.k)))

    def load(self, x: Array, dy: Array) -> None:
        """The windows again."""
        self._windows_of(x, len(dy))
        self._dy = dy.reshape((-1, self.k))
        self._loaded = len(dy)

    def weight_gradient(self, dw: Array, add: bool) -> None:
        """Windows, transposed, times dy; then in the kernels' order."""
        du = self.workspace.array("du", (self.long, self.k))
        self.xp.matmul(self._matrix(self._loaded).T, self._dy, du)
        ordered = du.reshape((*self.kernel, self.c, self.k)).transpose((3, 2, 0, 1))
        if add:
            self.xp.add(dw, ordered, dw)
        else:
            dw[...] = ordered

    def data_gradient(self, u: Array, dx: Array) -> None:
        """Dy times kernels, each row of it added where its window was."""
        matrix = self._matrix(self._loaded)
        if self.few:
            self.xp.matmul(u, self._dy.T, matrix.T)
        else:
            self.xp.matmul(self._dy, u.T, matrix)
        for place, seen in zip(self._places(self._loaded), self._seen(dx, self._loaded), strict=True):
            self.xp.add(seen, place, seen)

    def _windows_of(self, x: Array, rows: int) -> None:
        for place, seen in zip(self._places(rows), self._seen(x, rows), strict=True):
            place[...] = seen

    def _seen(self, x: Array, rows: int) -> list[Array]:
        """For each place in the window, the pixels (rows, OW, N, C) that all windows see there."""
        s = self.stride
        places = [(a, b) for a in range(self.kernel[0]) for b in range(self.kernel[1])]
        return [x[a : a + s * rows : s, b : b + s * self.ow : s] for a, b in places]

    def _places(self, rows: int) -> list[Array]:
        """For each place in the window, where that stands in the matrix: (rows, OW, N, C)."""
        windows = self._windows(rows)
        if self.few:
            return [part.transpose((1, 2, 3, 0)) for part in windows]
        return [windows[:, :, :, i] for i in range(prod(self.kernel))]

    def _windows(self, rows: int) -> Array:
        """Memory for some rows: (FH FW, C, rows, OW, N) for few channels, else (rows, OW, N, FH FW, C)."""
        taps = prod(self.kernel)
        few = (taps, self.c, rows, self.ow, self.n)
        many = (rows, self.ow, self.n, taps, self.c)
        return self.workspace.array("windows", few if self.few else many)

    def _matrix(self, rows: int) -> Array:
        """The windows as a matrix (rows OW N, FH FW C)."""
        windows = self._windows(rows)
        return windows.reshape((self.long, -1)).T if self.few else windows.reshape((-1, self.long))
