"""Convolution by its windows as a matrix (im2col), a piece of the images at a time: any kernel, any stride."""

from __future__ import annotations

from math import prod
from typing import Any

from nl_nodes.compiler.fused.pieces import piece_of
from nl_nodes.compiler.fused.way import Way
from nl_nodes.node import Kept
from nl_nodes.typing import Array, Namespace, Shape

FEW = 4
"""With so few channels, each place in the window becomes a row of the matrix."""


class Columns(Way):
    """Convolution as one matrix product.

    Args:
        kernel: (FH, FW).
        stride: the step between windows.
        others: as for `Way`.
    """

    def __init__(self, kernel: Shape, stride: int, xp: Namespace, x: Shape, outputs: Shape, dtype: Any) -> None:
        super().__init__(xp, x, outputs, dtype)
        self.kernel, self.stride = kernel, stride
        self.long = prod(kernel) * self.c
        self.images = self._fitting()

    def _fitting(self) -> int:
        return piece_of(self.n, 4 * self.oh * self.ow * (self.long + self.k))

    @property
    def few(self) -> bool:
        """Whether each place in the window becomes a row of the matrix; else it is a part of a column."""
        return self.c <= FEW

    def weights(self, kept: Kept, w: Array, back: bool = False) -> Array:
        """A matrix (FH FW C, K)."""
        return w.transpose((2, 3, 1, 0)).reshape((self.long, self.k))

    def forward(self, x: Array, u: Array, y: Array) -> None:
        """Windows times kernels."""
        self._windows_of(x)
        self.xp.matmul(self._matrix(x.shape[2]), u, y.reshape((-1, self.k)))

    def load(self, x: Array, dy: Array) -> None:
        """The windows again."""
        self._windows_of(x)
        self._dy = dy.reshape((-1, self.k))
        self._loaded = x.shape[2]

    def weight_gradient(self, dw: Array, add: bool) -> None:
        """Windows, transposed, times dy; then in the kernels' order."""
        du = self.scratch.array("du", (self.long, self.k))
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
        dx[...] = 0
        for place, seen in zip(self._places(self._loaded), self._seen(dx), strict=True):
            self.xp.add(seen, place, seen)

    def _windows_of(self, x: Array) -> None:
        for place, seen in zip(self._places(x.shape[2]), self._seen(x), strict=True):
            place[...] = seen

    def _seen(self, x: Array) -> list[Array]:
        """For each place in the window, the pixels (OH, OW, m, C) that all windows see there."""
        s = self.stride
        places = [(a, b) for a in range(self.kernel[0]) for b in range(self.kernel[1])]
        return [x[a : a + s * self.oh : s, b : b + s * self.ow : s] for a, b in places]

    def _places(self, m: int) -> list[Array]:
        """For each place in the window, where that stands in the matrix: (OH, OW, m, C)."""
        windows = self._windows(m)
        if self.few:
            return [part.transpose((1, 2, 3, 0)) for part in windows]
        return [windows[:, :, :, i] for i in range(prod(self.kernel))]

    def _windows(self, m: int) -> Array:
        """Memory for m images: (FH FW, C, OH, OW, m) for few channels, else (OH, OW, m, FH FW, C)."""
        taps = prod(self.kernel)
        few = (taps, self.c, self.oh, self.ow, m)
        many = (self.oh, self.ow, m, taps, self.c)
        return self.scratch.array("windows", few if self.few else many)

    def _matrix(self, m: int) -> Array:
        """The windows as a matrix (OH OW m, FH FW C)."""
        windows = self._windows(m)
        return windows.reshape((self.long, -1)).T if self.few else windows.reshape((-1, self.long))
