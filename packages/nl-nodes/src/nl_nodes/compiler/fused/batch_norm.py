"""Batch normalisation of maps; its epilogue is max pooling and ReLU, or the addition of a shortcut and ReLU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nl_nodes.cases import Case, real
from nl_nodes.compiler.fused.epilogue import ALL, Epilogue, column_sums, has_one_pixel
from nl_nodes.compiler.fused.pad import NO_PADDING, Padding, empty_padded, hwnc_batch_axis, interior, padded_shape
from nl_nodes.compiler.fused.workspace import chunk_slices, even_chunk
from nl_nodes.context import Context, NotShardable
from nl_nodes.node import Node
from nl_nodes.typing import Array, Shape

ROW_BLOCK_BYTES = 2**20
"""Bytes of a chunk of rows, at most; a single row may have more."""


class ChannelMean(Node):
    """y = the mean of each channel of maps, over the whole batch.

    Forward: y = mean(x) over all but the last axis. Backward: dx = dy / M, with M values per channel.
    Shapes: x (H, W, N, K), y (K,). Saves: nothing. Kinks: none. Errors: `ShapeError` for an x without four axes.
    Source: Ioffe and Szegedy, Batch Normalization (2015), algorithm 1.
    """

    def __init__(self, x: Node) -> None:
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """(K,)."""
        if len(shapes[0]) != 4:
            raise self.misfit("needs maps (H, W, N, K)", shapes[0])
        return shapes[0][3:]

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return None: the result is replicated."""
        hwnc_batch_axis(self, axes)
        return None

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return the all-reduced sum over M."""
        return ctx.group.all_reduce_sum(column_sums(ctx.xp, inputs[0])) / _count(ctx, inputs[0].shape)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Broadcast dy / M."""
        shape = ctx.shapes[0]
        return ctx.xp.broadcast_to(dy / _count(ctx, shape), shape)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield some maps."""
        yield Case("maps", cls, (real(2, 3, 4, 2),))


class ChannelVariance(Node):
    """y = the mean square distance of each channel of maps from a given value.

    Forward: y = mean((x - m)^2) over all but the last axis. Backward: dx = 2 (x - m) dy / M, M values per channel,
    dm = -the sum of dx. Shapes: x (H, W, N, K), m (K,), y (K,). Saves: inputs. Kinks: none.
    Errors: `ShapeError` if the shapes do not match. Source: Ioffe and Szegedy, Batch Normalization (2015), algorithm 1.
    """

    saves = ("inputs",)

    def __init__(self, x: Node, mean: Node) -> None:
        super().__init__(x, mean)

    def infer(self, *shapes: Shape) -> Shape:
        """(K,)."""
        x, mean = shapes
        if len(x) != 4 or mean != x[3:]:
            raise self.misfit("needs maps (H, W, N, K) and (K,)", *shapes)
        return mean

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return None: the result is replicated."""
        hwnc_batch_axis(self, axes)
        return None

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return the all-reduced sum over M; two passes, as mean(x^2) - mean(x)^2 would cancel."""
        x, mean = inputs
        dtype = ctx.xp.result_type(*(a.dtype for a in inputs))
        means = _tiled(ctx, mean, x)
        squares: Array = None
        for _, rows, chunk in _row_chunks(ctx, x, dtype):
            ctx.xp.subtract(x[rows], means, chunk)
            ctx.xp.multiply(chunk, chunk, chunk)
            squares = _add(squares, column_sums(ctx.xp, chunk))
        return ctx.group.all_reduce_sum(squares) / _count(ctx, x.shape)

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, Array | None]:
        """Return `2 (x - m) dy / M` and minus its sum."""
        x, mean = ctx.inputs
        dx = (x - mean) * (dy * (2 / _count(ctx, x.shape)))
        dmean = -ctx.group.all_reduce_sum(column_sums(ctx.xp, dx)) if ctx.needs[1] else None
        return dx if ctx.needs[0] else None, dmean

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield any given value, and the mean."""
        yield Case("any", cls, (real(3, 2, 3, 2), real(2)))
        yield Case("mean", lambda x: cls(x, ChannelMean(x)), (real(2, 3, 4, 2),))


class Normalize(Node):
    """y = relu(pool(gamma (x - mean) / sqrt(var + eps) + beta) + r), zero-padded; ReLU, and pooling or r, are optional.

    Forward: y = max(pool(gamma xhat + beta) + r, 0), xhat = (x - mean) / sqrt(var + eps), with the mean and the
    variance of x, and r the shortcut of a residual block. Backward: g is dy through ReLU and pooling, dr = g;
    dbeta = sum g, dgamma = sum g xhat, dx = gamma (g - dbeta / M - xhat dgamma / M) / sqrt(var + eps), which includes
    the gradients of mean and variance: these get none.
    Shapes: x, r (H, W, N, K), all others (K,), y (H, W, N, K), or half the height and width, plus padding.
    Saves: inputs, output, saved (masks). Kinks: as ValueMask and Max.
    Errors: none; the rules make matching shapes. Source: Ioffe and Szegedy, Batch Normalization (2015), section 3.
    """

    saves = ("inputs", "output", "saved")
    unread = (5,)
    grad_included_in_first = (1, 2)

    def __init__(
        self,
        x: Node,
        mean: Node,
        variance: Node,
        gamma: Node,
        beta: Node,
        eps: float,
        relu: bool = False,
        pool: bool = False,
        out_pad: Padding = NO_PADDING,
        residual: Node | None = None,
    ) -> None:
        self.eps, self.relu, self.pool, self.out_pad = eps, relu, pool, out_pad
        super().__init__(x, mean, variance, gamma, beta, *(() if residual is None else (residual,)))

    @property
    def pool_stride(self) -> int:
        """Rows and columns of x that pooling turns into one."""
        return 2 if self.pool else 1

    @property
    def recomputable(self) -> bool:
        """Whether it has neither masks nor padding."""
        return not self.pool and self.out_pad == NO_PADDING

    def infer(self, *shapes: Shape) -> Shape:
        """Return the padded shape of the outputs."""
        h, w, n, k = shapes[0]
        return padded_shape((h // self.pool_stride, w // self.pool_stride, n, k), self.out_pad)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return 2, the batch axis of maps."""
        if set(axes[5:]) - {2}:
            raise NotShardable(type(self).__name__)
        return hwnc_batch_axis(self, axes[:5])

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Scale a chunk of rows, then run its epilogue while it is in the cache."""
        x, mean, variance, gamma, beta, *residual = inputs
        dtype = ctx.xp.result_type(*(a.dtype for a in inputs))
        scale = gamma * (variance + self.eps) ** -0.5
        epilogue = Epilogue(ctx, x.shape, dtype, self.relu, self.pool, beta - mean * scale)
        ctx.saved = epilogue.masks
        y = empty_padded(ctx, self.infer(x.shape), self.out_pad, dtype)
        inner, scales = interior(y, self.out_pad), _tiled(ctx, scale, x)
        for rows, x_rows, chunk in _row_chunks(ctx, x, dtype, self.pool_stride):
            ctx.xp.multiply(x[x_rows], scales, chunk)
            epilogue.forward(chunk, (rows, ALL), inner[rows], *(r[rows] for r in residual))
        return y

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        """Compute dgamma and dbeta in a first pass over the rows, dx in a second."""
        x, mean, variance, gamma, beta, *residual = ctx.inputs
        xp, dtype = ctx.xp, ctx.output.dtype
        inverse = (variance + self.eps) ** -0.5
        scale = gamma * inverse
        epilogue = Epilogue(ctx, x.shape, dtype, self.relu, self.pool, beta, ctx.saved)
        y, dy = interior(ctx.output, self.out_pad), interior(dy, self.out_pad)
        dx = xp.empty(x.shape, dtype=dtype)
        dr = (xp.empty(x.shape, dtype=dtype) if self.relu else dy) if residual and ctx.needs[5] else None
        gradient = dx if dr is None else dr
        products: Array = None
        for rows, x_rows, chunk in _row_chunks(ctx, x, dtype, self.pool_stride):
            upstream = dy[rows]
            g = upstream if gradient is dy else gradient[x_rows]
            epilogue.backward(upstream, y[rows], (rows, ALL), g)
            xp.multiply(x[x_rows], g, chunk)
            products = _add(products, column_sums(xp, chunk))
        dx[self.pool_stride * y.shape[0] :] = 0  # an odd last row is in no window
        # The cancellation costs no more digits than x itself has lost, so far from 0.
        dgamma = (products - mean * epilogue.db) * inverse
        of_row = (dgamma if ctx.needs[3] else None, epilogue.db if ctx.needs[4] else None)
        others = (None, None, *of_row, *((dr,) if residual else ()))
        if not ctx.needs[0]:
            return None, *others
        count = _count(ctx, x.shape)
        sums = xp.empty((2, x.shape[3]), dtype=dtype)
        sums[0], sums[1] = dgamma, epilogue.db
        shift = ctx.group.all_reduce_sum(sums) * (scale * (-1 / count))
        by_x = shift[0] * inverse
        rest = shift[1] - by_x * mean
        scales, by_xs, rests = (_tiled(ctx, a, x) for a in (scale, by_x, rest))
        for _, rows, chunk in _row_chunks(ctx, x, dtype):
            xp.multiply(x[rows], by_xs, chunk)
            xp.add(chunk, rests, chunk)
            xp.multiply(gradient[rows], scales, dx[rows])
            xp.add(dx[rows], chunk, dx[rows])
        return dx, *others

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield each epilogue, also where pooling leaves out a row and a column."""
        draws = (real(7, 3, 8, 2), real(2), real(2))
        for relu, pool, out_pad in (
            (False, False, NO_PADDING),
            (True, False, NO_PADDING),
            (False, True, NO_PADDING),
            (True, True, (1, 2, 0, 1)),
        ):
            label = f"relu {relu}, pool {pool}, out_pad {out_pad}"
            form = {"eps": 1e-5, "relu": relu, "pool": pool, "out_pad": out_pad}
            yield Case(label, lambda x, g, b, form=form: _normalized(x, g, b, **form), draws)
        for relu, out_pad in ((False, NO_PADDING), (True, (1, 2, 0, 1))):
            form = {"eps": 1e-5, "relu": relu, "out_pad": out_pad}
            label = f"residual, relu {relu}, out_pad {out_pad}"
            yield Case(label, lambda x, g, b, r, form=form: _normalized(x, g, b, r, **form), (*draws, draws[0]))


def _normalized(x: Node, gamma: Node, beta: Node, residual: Node | None = None, **form: Any) -> Node:
    mean = ChannelMean(x)
    return Normalize(x, mean, ChannelVariance(x, mean), gamma, beta, residual=residual, **form)


def _add(total: Array, term: Array) -> Array:
    """Add to a sum that may still be None."""
    return term if total is None else total + term


def _count(ctx: Context, shape: Shape) -> int:
    """Return M, the values of a channel over all workers."""
    h, w, n, _ = shape
    return int(ctx.group.global_batch(n) * h * w)


def _row_chunks(ctx: Context, x: Array, dtype: object, pool_stride: int = 1) -> Iterator[tuple[slice, slice, Array]]:
    """Yield chunks of rows: their slice of outputs, their slice of x, and an array of its size."""
    chunk = _chunk_rows(ctx, x, pool_stride)
    buffer = ctx.xp.empty((pool_stride * chunk, *x.shape[1:]), dtype=dtype)
    for rows in chunk_slices(x.shape[0] // pool_stride, chunk):
        x_rows = slice(pool_stride * rows.start, pool_stride * rows.stop)
        yield rows, x_rows, buffer[: x_rows.stop - x_rows.start]


def _chunk_rows(ctx: Context, x: Array, pool_stride: int) -> int:
    """Return the rows of outputs per chunk: rows are contiguous, a chunk of images would not be."""
    h, w, n, k = map(int, x.shape)
    rows = h // pool_stride
    return even_chunk(rows, ROW_BLOCK_BYTES // (4 * pool_stride * w * n * k) if ctx.group.chunked else rows)


def _tiled(ctx: Context, row: Array, x: Array) -> Array:
    """Repeat a row (K,) for each image of x with several pixels: broadcasting (K,) alone makes short inner loops."""
    if has_one_pixel(x):
        return row
    tiled = ctx.xp.empty(x.shape[2:], dtype=row.dtype)
    tiled[...] = row
    return tiled
