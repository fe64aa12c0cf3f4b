"""A way of calculating a convolution: what all of them offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from nl_nodes.compiler.fused.pieces import Scratch
from nl_nodes.node import Kept
from nl_nodes.typing import Array, Namespace, Shape


class Way(ABC):
    """A convolution of maps, a piece of the images at a time, in one pass forward or backward.

    Args:
        xp: the device's array functions.
        x: the shape of the maps (H, W, N, C), framed where the way needs it.
        outputs: (OH, OW, K).
        dtype: of everything.

    Attributes:
        images: how many images make a piece.
        scatters: whether `forward` can write a piece to where it lies among all images.
    """

    images: int
    scatters: bool = False

    def __init__(self, xp: Namespace, x: Shape, outputs: Shape, dtype: Any) -> None:
        self.xp, self.dtype = xp, dtype
        self.n, self.c = x[2:]
        self.oh, self.ow, self.k = outputs
        self.scratch = Scratch(xp, dtype)

    def sums(self, piece: slice) -> Array:
        """Where the convolution of a piece, or its gradient, comes to lie: (OH, OW, m, K)."""
        return self.scratch.array("sums", (self.oh, self.ow, piece.stop - piece.start, self.k))

    @abstractmethod
    def weights(self, kept: Kept, w: Array, back: bool = False) -> Array:
        """The kernels w (K, C, FH, FW) as `forward` uses them, or, to go back, `data_gradient`."""

    def kernels(self, kept: Kept, shape: Shape) -> Array:
        """Memory for the gradient of the kernels (K, C, FH, FW)."""
        return kept.xp.empty(shape, dtype=self.dtype)

    @abstractmethod
    def forward(self, x: Array, u: Array, y: Array) -> None:
        """The convolution of a piece x (H, W, m, C) with the kernels u, into y (OH, OW, m, K)."""

    @abstractmethod
    def load(self, x: Array, dy: Array) -> None:
        """Take a piece of the maps and of the outputs' gradient (OH, OW, m, K), to go backward."""

    @abstractmethod
    def weight_gradient(self, dw: Array, add: bool) -> None:
        """The gradient of the kernels (K, C, FH, FW), from the piece that is loaded, into dw or added to it."""

    @abstractmethod
    def data_gradient(self, u: Array, dx: Array) -> None:
        """The maps' gradient, from the piece that is loaded, into dx (H, W, m, C); it ends what was loaded."""
