"""Batch normalisation of maps with what follows it: rectifier and max pooling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nl_nodes.cases import Case, real
from nl_nodes.compiler.fused.epilogue import ALL, Epilogue, column_sums
from nl_nodes.compiler.fused.pad import NO_PADDING, Padding, empty_padded, hwnc_batch_axis, interior, padded_shape
from nl_nodes.compiler.fused.workspace import even_chunk, pieces
from nl_nodes.node import Context, Node
from nl_nodes.typing import Array, Shape

ROW_BLOCK_BYTES = 2**22
"""Bytes of the rows of maps that are normalised at a time, at most; one row may have more."""


class ChannelMean(Node):
    """y = the mean of each channel of maps.

    Forward: y = mean(x) over all but the last axis. Backward: dx = dy / M, M the values of a channel.
    Shapes: x (H, W, N, K), y (K,). Keeps: nothing. Kinks: none. Errors: `ShapeError` for an x without four axes.
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
        """None: all workers come to the same mean of all samples."""
        hwnc_batch_axis(self, axes)
        return None

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """The workers' sums, together."""
        return ctx.group.all_reduce_sum(column_sums(ctx.xp, inputs[0])) / _count(ctx, inputs[0].shape)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """The same for all of a channel."""
        shape = ctx.shapes[0]
        return ctx.xp.broadcast_to(dy / _count(ctx, shape), shape)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Some maps."""
        yield Case("maps", cls, (real(2, 3, 4, 2),))


class ChannelVariance(Node):
    """y = the mean square distance of each channel of maps from a given number.

    Forward: y = mean((x - m)^2) over all but the last axis. Backward: dx = 2 (x - m) dy / M, M the values of a channel,
    dm = -the sum of dx. Shapes: x (H, W, N, K), m (K,), y (K,). Keeps: inputs. Kinks: none.
    Errors: `ShapeError` where they do not fit. Source: Ioffe and Szegedy, Batch Normalization (2015), algorithm 1.
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
        """None: all workers come to the same."""
        hwnc_batch_axis(self, axes)
        return None

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """The workers' sums, together; from the mean, for what cancels in a mean of squares loses digits."""
        x, mean = inputs
        dtype = ctx.xp.result_type(*(a.dtype for a in inputs))
        means = _tiled(ctx, mean, x)
        squares: Array = None
        for _, rows, part in _parts(ctx, x, dtype):
            ctx.xp.subtract(x[rows], means, part)
            ctx.xp.multiply(part, part, part)
            squares = _plus(squares, column_sums(ctx.xp, part))
        return ctx.group.all_reduce_sum(squares) / _count(ctx, x.shape)

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, Array | None]:
        """As said."""
        x, mean = ctx.inputs
        dx = (x - mean) * (dy * (2 / _count(ctx, x.shape)))
        dmean = -ctx.group.all_reduce_sum(column_sums(ctx.xp, dx)) if ctx.needs[1] else None
        return dx if ctx.needs[0] else None, dmean

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """About any number, and about the mean."""
        yield Case("any", cls, (real(3, 2, 3, 2), real(2)))
        yield Case("mean", lambda x: cls(x, ChannelMean(x)), (real(2, 3, 4, 2),))


class Normalize(Node):
    """y = relu(pool(gamma (x - mean) / sqrt(var + eps) + beta)), in a frame of zeros; rectifier and pooling optional.

    Forward: y = max(pool(gamma xhat + beta), 0), xhat = (x - mean) / sqrt(var + eps), with the mean and the variance
    of x. Backward: g is dy where it passes rectifier and pooling; dbeta = sum g, dgamma = sum g xhat,
    dx = gamma (g - dbeta / M - xhat dgamma / M) / sqrt(var + eps), which is the whole gradient of x; mean and variance
    get none, for theirs is in dx. Shapes: x (H, W, N, K), all others (K,), y (H, W, N, K) or half that, and its frame.
    Keeps: inputs, output, mask. Kinks: as ValueMask and Max.
    Errors: none; the compiler makes what fits. Source: Ioffe and Szegedy, Batch Normalization (2015), section 3.
    """

    saves = ("inputs", "output", "saved")
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
        frame: Padding = NO_PADDING,
    ) -> None:
        self.eps, self.relu, self.pool, self.frame = eps, relu, pool, frame
        super().__init__(x, mean, variance, gamma, beta)

    @property
    def step(self) -> int:
        """How many rows and columns of x become one."""
        return 2 if self.pool else 1

    def infer(self, *shapes: Shape) -> Shape:
        """The framed shape of the outputs."""
        h, w, n, k = shapes[0]
        return padded_shape((h // self.step, w // self.step, n, k), self.frame)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """The third axis."""
        return hwnc_batch_axis(self, axes)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Some rows at a time: scaled, then what follows while they are in the cache."""
        x, mean, variance, gamma, beta = inputs
        dtype = ctx.xp.result_type(*(a.dtype for a in inputs))
        scale = gamma * (variance + self.eps) ** -0.5
        epilogue = Epilogue(ctx, x.shape, dtype, self.relu, self.pool, beta - mean * scale)
        ctx.saved = epilogue.masks
        y = empty_padded(ctx, self.infer(x.shape), self.frame, dtype)
        inner, scales = interior(y, self.frame), _tiled(ctx, scale, x)
        for rows, seen, part in _parts(ctx, x, dtype, self.step):
            ctx.xp.multiply(x[seen], scales, part)
            epilogue.forward(part, (rows, ALL), inner[rows])
        return y

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        """Once through the rows for the sums, once for dx."""
        x, mean, variance, gamma, beta = ctx.inputs
        xp, dtype = ctx.xp, ctx.output.dtype
        inverse = (variance + self.eps) ** -0.5
        scale = gamma * inverse
        epilogue = Epilogue(ctx, x.shape, dtype, self.relu, self.pool, beta, ctx.saved)
        y, dy = interior(ctx.output, self.frame), interior(dy, self.frame)
        dx = xp.empty(x.shape, dtype=dtype)
        products: Array = None
        for rows, seen, part in _parts(ctx, x, dtype, self.step):
            g = dx[seen]
            epilogue.backward(dy[rows], y[rows], (rows, ALL), g)
            xp.multiply(x[seen], g, part)
            products = _plus(products, column_sums(xp, part))
        dx[self.step * y.shape[0] :] = 0  # no window sees it
        # What cancels here is no more than what x itself, so far from 0, has lost already.
        dgamma = (products - mean * epilogue.db) * inverse
        if not ctx.needs[0]:
            return None, None, None, dgamma if ctx.needs[3] else None, epilogue.db if ctx.needs[4] else None
        count = _count(ctx, x.shape)
        sums = xp.empty((2, x.shape[3]), dtype=dtype)
        sums[0], sums[1] = dgamma, epilogue.db
        shift = ctx.group.all_reduce_sum(sums) * (scale * (-1 / count))
        by_x = shift[0] * inverse
        rest = shift[1] - by_x * mean
        scales, by_xs, rests = (_tiled(ctx, a, x) for a in (scale, by_x, rest))
        for _, rows, part in _parts(ctx, x, dtype):
            g = dx[rows]
            xp.multiply(x[rows], by_xs, part)
            xp.add(part, rests, part)
            xp.multiply(g, scales, g)
            xp.add(g, part, g)
        return dx, None, None, dgamma if ctx.needs[3] else None, epilogue.db if ctx.needs[4] else None

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """With and without what follows, also where the pooling leaves a row and a column out."""
        draws = (real(7, 3, 8, 2), real(2), real(2))
        for relu, pool, frame in (
            (False, False, NO_PADDING),
            (True, False, NO_PADDING),
            (False, True, NO_PADDING),
            (True, True, (1, 2, 0, 1)),
        ):
            label = f"relu {relu}, pool {pool}, frame {frame}"
            form = {"eps": 1e-5, "relu": relu, "pool": pool, "frame": frame}
            yield Case(label, lambda x, g, b, form=form: _normalized(x, g, b, **form), draws)


def _normalized(x: Node, gamma: Node, beta: Node, **form: Any) -> Node:
    mean = ChannelMean(x)
    return Normalize(x, mean, ChannelVariance(x, mean), gamma, beta, **form)


def _plus(total: Array, part: Array) -> Array:
    """A sum that may not have begun."""
    return part if total is None else total + part


def _count(ctx: Context, shape: Shape) -> int:
    """The values of a channel, of all workers."""
    h, w, n, _ = shape
    return int(ctx.group.global_batch(n) * h * w)


def _parts(ctx: Context, x: Array, dtype: object, step: int = 1) -> Iterator[tuple[slice, slice, Array]]:
    """Some rows of outputs at a time: which, the rows of x that these see, `step` each, and scratch of that size."""
    many = _rows(x, step)
    workspace = ctx.xp.empty((step * many, *x.shape[1:]), dtype=dtype)
    for rows in pieces(x.shape[0] // step, many):
        seen = slice(step * rows.start, step * rows.stop)
        yield rows, seen, workspace[: seen.stop - seen.start]


def _rows(x: Array, step: int) -> int:
    """How many rows of outputs to make at a time, each of so many of x: pieces of one block each, as images are not."""
    h, w, n, k = map(int, x.shape)
    return even_chunk(h // step, ROW_BLOCK_BYTES // (4 * step * w * n * k))


def _tiled(ctx: Context, row: Array, x: Array) -> Array:
    """A row (K,) as often as x has images: short rows make short runs."""
    tiled = ctx.xp.empty(x.shape[2:], dtype=row.dtype)
    tiled[...] = row
    return tiled
