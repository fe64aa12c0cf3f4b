"""The epilogue of a convolution or a normalisation: max pooling, bias and ReLU, chunk by chunk."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from nl_nodes.compiler.fused.workspace import Workspace
from nl_nodes.context import Context
from nl_nodes.typing import Array, Shape

OutputIndex = tuple[slice, slice]
"""Slices of the rows and of the images of the outputs."""

ALL = slice(None)


class Epilogue:
    """y = relu(pool(s) + b + r); each of the four is optional, but a residual r is not pooled.

    Max pooling of adjacent 2x2 windows commutes with bias and ReLU; pooling first leaves them a quarter of the values.

    Args:
        ctx: the node's context.
        sums: the shape (H, W, N, K) of s.
        dtype: of all arrays.
        relu: whether to apply ReLU.
        pool: whether to pool.
        bias: (K,), if any.
        masks: which of two neighbours is larger, from the forward pass.
        images: images per chunk, if not all.
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
        self.ctx, self.dtype, self.pixel_shape = ctx, dtype, (images or n, k)
        self.xp, self.relu, self.pool, self.bias, self.masks = ctx.xp, relu, pool, bias, masks
        self.workspace = Workspace(ctx.xp, dtype)
        if pool and masks is None:
            columns = ctx.xp.empty((h // 2 * 2, w // 2, n, k), dtype=bool)
            self.masks = (columns, ctx.xp.empty((h // 2, w // 2, n, k), dtype=bool))
        self.db: Array = None

    @cached_property
    def zeros(self) -> Array:
        """An array of zeros: NumPy's maximum is three times slower with a scalar."""
        return self.ctx.group.persistent_zeros(self.pixel_shape, self.dtype)

    @cached_property
    def tiled_bias(self) -> Array:
        """The bias repeated for each image of a chunk: broadcasting (K,) alone makes short inner loops."""
        tiled_bias = self.xp.empty(self.pixel_shape, dtype=self.dtype)
        tiled_bias[...] = self.bias
        return tiled_bias

    def forward(self, sums: Array, index: OutputIndex, y: Array, residual: Array = None) -> None:
        """Compute a chunk's outputs y (OH, OW, m, K) from its sums (H, W, m, K), and its residual (OH, OW, m, K)."""
        xp, m = self.xp, sums.shape[2]
        source = sums
        if self.pool:
            self._pool(_windows(sums, y), index, y)
            source = y
        if self.bias is not None:
            xp.add(source, self.bias if has_one_pixel(y) else self.tiled_bias[:m], y)
            source = y
        if residual is not None:
            xp.add(source, residual, y)
            source = y
        if self.relu:
            xp.maximum(source, self.zeros[:m], out=y)
        elif source is not y:
            y[...] = source

    def backward(self, dy: Array, y: Array, index: OutputIndex, sums: Array) -> None:
        """Write the gradient of a chunk's sums, and add that of the bias to `db`.

        Without pooling and ReLU, `sums` may be `dy` itself.
        """
        xp = self.xp
        if self.relu:
            grad = self.workspace.array("grad", dy.shape) if self.pool else sums
            xp.multiply(dy, y.real > 0, grad)
        elif self.pool:
            grad = dy
        else:
            grad = sums
            if sums is not dy:
                grad[...] = dy
        if self.bias is not None:
            self._add_bias(grad)
        if self.pool:
            self._unpool(grad, index, _windows(sums, dy))
            for remainder in (sums[2 * dy.shape[0] :], sums[:, 2 * dy.shape[1] :]):
                remainder[...] = 0

    def _pool(self, sums: Array, index: OutputIndex, y: Array) -> None:
        """Take the larger of two columns, then of two rows; the first of equal values."""
        xp = self.xp
        columns, rows = self._masks(index)
        left, right = sums[:, 0::2], sums[:, 1::2]
        xp.greater(right.real, left.real, columns)
        wide = self.workspace.array("wide", left.shape)
        xp.maximum(left, right, out=wide)
        xp.greater(wide[1::2].real, wide[0::2].real, rows)
        xp.maximum(wide[0::2], wide[1::2], out=y)

    def _unpool(self, dy: Array, index: OutputIndex, sums: Array) -> None:
        """Pass each gradient to the larger of two rows, then of two columns."""
        xp = self.xp
        columns, rows = self._masks(index)
        tall = self.workspace.array("tall", columns.shape)
        xp.multiply(dy, rows, tall[1::2])
        xp.subtract(dy, tall[1::2], tall[0::2])
        xp.multiply(tall, columns, sums[:, 1::2])
        xp.subtract(tall, sums[:, 1::2], sums[:, 0::2])

    def _masks(self, index: OutputIndex) -> tuple[Array, Array]:
        rows, images = index
        unpooled = rows if rows == ALL else slice(2 * rows.start, 2 * rows.stop)
        column_mask, row_mask = self.masks
        return column_mask[unpooled, :, images], row_mask[rows, :, images]

    def _add_bias(self, dy: Array) -> None:
        db = column_sums(self.xp, dy)
        self.db = db if self.db is None else self.db + db


def _windows(sums: Array, y: Array) -> Array:
    """Return the sums that are pooled to y, without an odd last row or column."""
    return sums[: 2 * y.shape[0], : 2 * y.shape[1]]


def has_one_pixel(maps: Array) -> bool:
    """Whether maps (H, W, N, K) have one pixel: there, a row (K,) is not worth a copy for each image."""
    return bool(maps.shape[:2] == (1, 1))


def column_sums(xp: Any, x: Array) -> Array:
    """Return the sum (K,) over all axes of x but the last.

    A matrix product with a row of ones, twice as fast as NumPy's sum; one per pixel, since a chunk's images need not be
    contiguous across pixels.
    """
    rows, k = x.shape[-2:]
    sums = xp.matmul(xp.array(((1,) * rows,), dtype=x.dtype), x).reshape((-1, k))
    return sums[0] if len(sums) == 1 else sums.sum(axis=0)
