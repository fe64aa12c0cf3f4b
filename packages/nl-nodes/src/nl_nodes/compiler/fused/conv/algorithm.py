"""The interface of a convolution algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nl_nodes.compiler.fused.epilogue import OutputIndex
from nl_nodes.compiler.fused.workspace import Workspace
from nl_nodes.context import Context, WorkerGroup
from nl_nodes.typing import Array, Shape


@dataclass(frozen=True)
class Chunk:
    """A chunk of a convolution, computed at a time.

    Attributes:
        output: index of its outputs, after pooling.
        input: index of the rows, columns and images of the maps that it reads.
        shape: (rows, OW, m, K) of its outputs before pooling.
        first: its first row of outputs before pooling.
    """

    output: OutputIndex
    input: tuple[slice, ...]
    shape: Shape
    first: int = 0


class ConvAlgorithm(ABC):
    """A convolution of maps, chunk by chunk, in one pass forward or backward.

    Args:
        group: the workers that share the pass.
        x: the shape of the maps (H, W, N, C), zero-padded if the algorithm needs it.
        outputs: (OH, OW, K).
        dtype: of all arrays.

    Attributes:
        images: images per chunk.
        scatters: whether `forward` can write to a strided view of the outputs, such as the interior of padded maps.
    """

    images: int
    scatters: bool = False

    def __init__(self, group: WorkerGroup, x: Shape, outputs: Shape, dtype: Any) -> None:
        self.group, self.xp, self.dtype = group, group.xp, dtype
        self.n, self.c = x[2:]
        self.oh, self.ow, self.k = outputs
        self.workspace = Workspace(self.xp, dtype)

    def sums(self, chunk: Chunk) -> Array:
        """Return workspace for a chunk's sums of products, which the epilogue takes, or for their gradient."""
        return self.workspace.array("sums", chunk.shape)

    @abstractmethod
    def chunks(self, pool_stride: int) -> Iterator[Chunk]:
        """Yield all chunks; pooling turns `pool_stride` rows and columns into one.

        A backward pass takes them in reverse: a chunk may add to rows of the maps' gradient that a later one writes.
        """

    @abstractmethod
    def transformed_kernels(self, ctx: Context, w: Array, back: bool = False) -> Array:
        """Return the kernels w (K, C, FH, FW) in the form u that `forward` takes, or with `back` `data_gradient`."""

    def kernels_gradient(self, shape: Shape) -> Array:
        """Return memory for the gradient of the kernels (K, C, FH, FW)."""
        return self.xp.empty(shape, dtype=self.dtype)

    def maps_gradient(self, shape: Shape) -> Array:
        """Return memory for the gradient of the maps, initialised for `data_gradient`."""
        return self.xp.empty(shape, dtype=self.dtype)

    @abstractmethod
    def forward(self, chunk: Chunk, x: Array, u: Array, y: Array) -> None:
        """Convolve a chunk's part x of the maps with the kernels u into y (rows, OW, m, K)."""

    @abstractmethod
    def begin_backward(self, chunk: Chunk, x: Array, dy: Array) -> None:
        """Prepare the backward pass of a chunk: its part x of the maps, its outputs' gradient (rows, OW, m, K)."""

    @abstractmethod
    def weight_gradient(self, dw: Array, add: bool) -> None:
        """Write this chunk's gradient of the kernels (K, C, FH, FW) to dw, or add it."""

    @abstractmethod
    def data_gradient(self, u: Array, dx: Array) -> None:
        """Write this chunk's gradient of the maps to dx, or add it to its zeros.

        Comes after `weight_gradient`: it overwrites the workspace that `begin_backward` filled.
        """
