"""What follows a convolution or a normalisation: max pooling, bias and rectifier, a piece at a time."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from nl_nodes.compiler.fused.workspace import Workspace
from nl_nodes.node import Context
from nl_nodes.typing import Array, Shape

Piece = tuple[slice, slice]
"""Which rows of the outputs, and which images."""

ALL = slice(None)


class Epilogue:
    """y = relu(pool(s) + b); each of the three is optional.

    Max pooling of 2x2 windows that touch commutes with a bias and a rectifier, so it comes first and a quarter of the
    values is left for them.

    Args:
        kept: of the node.
        sums: the shape (H, W, N, K) of what comes in.
        dtype: of everything.
        relu: whether a rectifier follows.
        pool: whether pooling comes first.
        bias: (K,), if any.
        masks: which of two neighbours is larger, as the forward pass found it.
        images: how many images make a piece, if not all.
    """

    def __init__(
        self,
        ctx: Context,
        sums: Shape,
        dtype: Any,
        relu: bool,
        pool: bool,
        bias: Array | None = None,
        masks: Any = None,
        images: int | None = None,
    ) -> None:
        h, w, n, k = sums
        self.ctx, self.dtype, self.row = ctx, dtype, (images or n, k)
        self.xp, self.relu, self.pool, self.bias, self.masks = ctx.xp, relu, pool, bias, masks
        self.workspace = Workspace(ctx.xp, dtype)
        if pool and masks is None:
            columns = ctx.xp.empty((h // 2 * 2, w // 2, n, k), dtype=bool)
            self.masks = (columns, ctx.xp.empty((h // 2, w // 2, n, k), dtype=bool))
        self.db: Array = None

    @cached_property
    def zero(self) -> Array:
        """An array of zeros: NumPy's maximum is three times slower with a number."""
        return self.ctx.group.persistent_zeros(self.row, self.dtype)

    @cached_property
    def tiled(self) -> Array:
        """The bias, as long as a piece: a row of K alone makes short runs."""
        tiled = self.xp.empty(self.row, dtype=self.dtype)
        tiled[...] = self.bias
        return tiled

    def forward(self, sums: Array, piece: Piece, y: Array) -> None:
        """From the sums (H, W, m, K) of a piece into y (OH, OW, m, K)."""
        xp, m = self.xp, sums.shape[2]
        source = sums
        if self.pool:
            self._pool(_windows(sums, y), piece, y)
            source = y
        if self.bias is not None:
            xp.add(source, self.tiled[:m], y)
            source = y
        if self.relu:
            xp.maximum(source, self.zero[:m], out=y)
        elif source is not y:
            y[...] = source

    def backward(self, dy: Array, y: Array, piece: Piece, sums: Array) -> None:
        """The gradient of the sums of a piece, from that of its outputs; the bias's is added to `db`.

        Where nothing changes, `sums` may be `dy` itself.
        """
        xp = self.xp
        if self.relu:
            small = self.workspace.array("small", dy.shape) if self.pool else sums
            xp.multiply(dy, y.real > 0, small)
        elif self.pool:
            small = dy
        else:
            small = sums
            if sums is not dy:
                small[...] = dy
        if self.bias is not None:
            self._add_bias(small)
        if self.pool:
            self._spread(small, piece, _windows(sums, dy))
            for unseen in (sums[2 * dy.shape[0] :], sums[:, 2 * dy.shape[1] :]):
                unseen[...] = 0

    def _pool(self, sums: Array, piece: Piece, y: Array) -> None:
        """The larger of two columns, then of two rows; of equals the first."""
        xp = self.xp
        columns, rows = self._masks(piece)
        left, right = sums[:, 0::2], sums[:, 1::2]
        xp.greater(right.real, left.real, columns)
        wide = self.workspace.array("wide", left.shape)
        xp.maximum(left, right, out=wide)
        xp.greater(wide[1::2].real, wide[0::2].real, rows)
        xp.maximum(wide[0::2], wide[1::2], out=y)

    def _spread(self, dy: Array, piece: Piece, sums: Array) -> None:
        """Each gradient to the larger of two rows, then of two columns."""
        xp = self.xp
        columns, rows = self._masks(piece)
        tall = self.workspace.array("tall", columns.shape)
        xp.multiply(dy, rows, tall[1::2])
        xp.subtract(dy, tall[1::2], tall[0::2])
        xp.multiply(tall, columns, sums[:, 1::2])
        xp.subtract(tall, sums[:, 1::2], sums[:, 0::2])

    def _masks(self, piece: Piece) -> tuple[Array, Array]:
        rows, images = piece
        both = rows if rows == ALL else slice(2 * rows.start, 2 * rows.stop)
        columns, pairs = self.masks
        return columns[both, :, images], pairs[rows, :, images]

    def _add_bias(self, dy: Array) -> None:
        part = column_sums(self.xp, dy)
        self.db = part if self.db is None else self.db + part


def _windows(sums: Array, y: Array) -> Array:
    """The part of the sums that is pooled to y."""
    return sums[: 2 * y.shape[0], : 2 * y.shape[1]]


def column_sums(xp: Any, x: Array) -> Array:
    """The sum (K,) over all axes of x but the last.

    A product with a row of ones, which BLAS does twice as fast as NumPy sums. Pixel by pixel, since a piece's images
    need not lie next to those of the next pixel.
    """
    rows, k = x.shape[-2:]
    sums = xp.matmul(xp.array(((1,) * rows,), dtype=x.dtype), x).reshape((-1, k))
    return sums[0] if len(sums) == 1 else sums.sum(axis=0)
