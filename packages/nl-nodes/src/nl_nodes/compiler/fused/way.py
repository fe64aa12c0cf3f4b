"""A way of calculating a convolution: what all of them offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from nl_nodes.compiler.fused.pieces import Scratch
from nl_nodes.node import Kept
from nl_nodes.typing import Array, Namespace, Shape


class Way(ABC):
    """A convolution of framed maps, a piece of the images at a time, in one pass forward or backward.

    Args:
        xp: the device's array functions.
        x: the shape of the framed maps (Hf, Wf, N, C).
        outputs: (OH, OW, K).
        dtype: of everything.

    Attributes:
        rows: the outputs' rows that are calculated, OH or some more.
        columns: likewise.
        images: how many images make a piece.
        scatters: whether `forward` can write a piece to where it lies among all images.
    """

    rows: int
    columns: int
    images: int
    scatters: bool = False

    def __init__(self, xp: Namespace, x: Shape, outputs: Shape, dtype: Any) -> None:
        self.xp, self.dtype = xp, dtype
        self.hf, self.wf, self.n, self.c = x
        self.oh, self.ow, self.k = outputs
        self.scratch = Scratch(xp, dtype)
        self._cleared: Shape = ()

    def sums(self, piece: slice) -> Array:
        """Where the convolution of a piece comes to lie: (rows, columns, m, K)."""
        return self.scratch.array("sums", (self.rows, self.columns, piece.stop - piece.start, self.k))

    def gradients(self, piece: slice) -> Array:
        """The same memory for the sums' gradient: only that of real outputs is written, all other is zero."""
        sums = self.sums(piece)
        if sums.shape != self._cleared:
            # A last, smaller piece lies otherwise in it.
            sums[...] = 0
            self._cleared = sums.shape
        return sums

    @abstractmethod
    def weights(self, kept: Kept, w: Array, back: bool = False) -> Array:
        """The kernels w (K, C, FH, FW) as `forward` uses them, or, to go back, `data_gradient`."""

    def kernels(self, kept: Kept, shape: Shape) -> Array:
        """Memory for the gradient of the kernels (K, C, FH, FW)."""
        return kept.xp.empty(shape, dtype=self.dtype)

    @abstractmethod
    def forward(self, x: Array, u: Array, y: Array) -> None:
        """The convolution of a piece x (Hf, Wf, m, C) with the kernels u, into y (rows, columns, m, K)."""

    @abstractmethod
    def load(self, x: Array, dy: Array) -> None:
        """Take a piece of the maps and of the outputs' gradient (rows, columns, m, K), to go backward."""

    @abstractmethod
    def weight_gradient(self, dw: Array, add: bool) -> None:
        """The gradient of the kernels (K, C, FH, FW), from the piece that is loaded, into dw or added to it."""

    @abstractmethod
    def data_gradient(self, u: Array, dx: Array) -> None:
        """The maps' gradient, from the piece that is loaded, into dx (Hf, Wf, m, C); it ends what was loaded."""
