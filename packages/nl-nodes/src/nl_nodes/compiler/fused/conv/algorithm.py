"""A way of calculating a convolution: what all of them offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nl_nodes.compiler.fused.epilogue import Piece
from nl_nodes.compiler.fused.workspace import Workspace
from nl_nodes.node import Context
from nl_nodes.typing import Array, Namespace, Shape


@dataclass(frozen=True)
class Chunk:
    """What is calculated at a time.

    Attributes:
        made: which of the outputs, after pooling.
        seen: which rows, columns and images of the maps for it.
        shape: (rows, OW, m, K) of the convolution's outputs for it.
    """

    output: Piece
    input: tuple[slice, ...]
    shape: Shape


class ConvAlgorithm(ABC):
    """A convolution of maps, a part at a time, in one pass forward or backward.

    Args:
        xp: the device's array functions.
        x: the shape of the maps (H, W, N, C), framed where the way needs it.
        outputs: (OH, OW, K).
        dtype: of everything.

    Attributes:
        images: how many images a part has.
        scatters: whether `forward` can write a part to where it lies among all outputs, also in a frame.
    """

    images: int
    scatters: bool = False

    def __init__(self, xp: Namespace, x: Shape, outputs: Shape, dtype: Any) -> None:
        self.xp, self.dtype = xp, dtype
        self.n, self.c = x[2:]
        self.oh, self.ow, self.k = outputs
        self.workspace = Workspace(xp, dtype)

    def sums(self, part: Chunk) -> Array:
        """Where the convolution of a part, or its gradient, comes to lie."""
        return self.workspace.array("sums", part.shape)

    @abstractmethod
    def parts(self, step: int) -> Iterator[Chunk]:
        """All parts, where a pooling makes one of so many rows and columns."""

    @abstractmethod
    def weights(self, ctx: Context, w: Array, back: bool = False) -> Array:
        """The kernels w (K, C, FH, FW) as `forward` uses them, or, to go back, `data_gradient`."""

    def kernels(self, shape: Shape) -> Array:
        """Memory for the gradient of the kernels (K, C, FH, FW)."""
        return self.xp.empty(shape, dtype=self.dtype)

    def maps_gradient(self, shape: Shape) -> Array:
        """Memory for the gradient of the maps, as `data_gradient` wants it."""
        return self.xp.empty(shape, dtype=self.dtype)

    @abstractmethod
    def forward(self, x: Array, u: Array, y: Array) -> None:
        """The convolution of a part x of the maps with the kernels u, into y (rows, OW, m, K)."""

    @abstractmethod
    def load(self, x: Array, dy: Array) -> None:
        """Take a part of the maps and the outputs' gradient (rows, OW, m, K), to go backward."""

    @abstractmethod
    def weight_gradient(self, dw: Array, add: bool) -> None:
        """The gradient of the kernels (K, C, FH, FW), from the part that is loaded, into dw or added to it."""

    @abstractmethod
    def data_gradient(self, u: Array, dx: Array) -> None:
        """The gradient of the maps that are loaded, into dx or added to its zeros; it ends what was loaded."""
