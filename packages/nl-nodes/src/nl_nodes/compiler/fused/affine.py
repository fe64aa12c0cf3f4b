"""The affine layer with an optional ReLU, on rows or on maps."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, real
from nl_nodes.compiler.fused.epilogue import column_sums
from nl_nodes.context import Context, NotShardable
from nl_nodes.node import Node
from nl_nodes.shapes import size
from nl_nodes.typing import Array, Shape

PIXEL_MIN_CHANNELS = 16
"""Channels of maps from which on their weights' gradient is computed pixel by pixel, where nodes work in chunks."""


class Affine(Node):
    """y = relu(x w + b); ReLU is optional.

    Forward: y = x @ w + b, and max(y, 0). Backward: g = dy where y > 0; dx = g @ w.T, dw = x.T @ g, db = the sum of
    g's rows. Shapes: x (N, K), w (K, M), b (M,), y (N, M). Maps x (H, W, N, C) are flattened in the order C, H, W, as
    images are. Saves: output, saved (the rows, and the weights in their order).
    Kinks: the gradient of ReLU at 0 is 0. Errors: `ShapeError` if the shapes do not match.
    Source: Deep Learning from Scratch, 5.6.2.
    """

    saves = ("output", "saved")

    def __init__(self, x: Node, w: Node, b: Node, relu: bool = False) -> None:
        self.relu = relu
        super().__init__(x, w, b)

    def infer(self, *shapes: Shape) -> Shape:
        """Return (N, M)."""
        x, w, b = shapes
        n, k = (x[2], size(x) // max(x[2], 1)) if len(x) == 4 else x if len(x) == 2 else (0, -1)
        if len(w) != 2 or k != w[0] or b != w[1:]:
            raise self.misfit("needs (N, K) or maps, (K, M) and (M,)", *shapes)
        return (n, w[1])

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return 0, if the batch axis of x is the first of rows or the third of maps."""
        if axes != (2 if len(shapes[0]) == 4 else 0, None, None):
            raise NotShardable(type(self).__name__)
        return 0

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return max(x @ w + b, 0)."""
        x, w, b = inputs
        ctx.saved = x, w = (_rows(ctx, x), _ordered(ctx, w, x.shape)) if x.ndim == 4 else (x, w)
        y = x @ w + b
        if self.relu:
            # An array of zeros: NumPy's maximum is three times slower with a scalar.
            ctx.xp.maximum(y, ctx.group.persistent_zeros(b.shape, y.dtype), out=y)
        return y

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, Array | None, Array | None]:
        """Return g @ w.T, x.T @ g and the column sums of g."""
        x, w = ctx.saved
        g = dy * (ctx.output.real > 0) if self.relu else dy
        dx = g @ w.T if ctx.needs[0] else None
        dw = _weight_gradient(ctx, x, g, ctx.shapes[0]) if ctx.needs[1] else None
        db = column_sums(ctx.xp, g) if ctx.needs[2] else None
        return _as_maps(dx, ctx.shapes[0]), dw, db

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield rows and maps, with and without ReLU."""
        draws = (real(3, 4), real(4, 5), real(5))
        yield Case("plain", cls, draws)
        yield Case("rectified", lambda x, w, b: cls(x, w, b, relu=True), draws)
        yield Case("maps", cls, (real(2, 3, 4, 2), real(12, 5), real(5)))
        yield Case("maps of many channels", cls, (real(2, 1, 2, PIXEL_MIN_CHANNELS), real(32, 3), real(3)))
        yield Case("maps, rectified", lambda x, w, b: cls(x, w, b, True), (real(3, 2, 3, 2), real(12, 4), real(4)))


def _rows(ctx: Context, x: Array) -> Array:
    """Return maps (H, W, N, C) as rows (N, H W C): a pixel's channels stay contiguous, which copies fast."""
    h, w, n, c = x.shape
    rows = ctx.xp.empty((n, h, w, c), dtype=x.dtype)
    rows[...] = x.transpose((2, 0, 1, 3))
    return rows.reshape((n, h * w * c))


def _ordered(ctx: Context, w: Array, maps: Shape) -> Array:
    """Return weights with rows ordered (C, H, W) reordered to (H, W, C), each worker its shard."""
    pixels, c, m = maps[0] * maps[1], maps[3], w.shape[1]
    ordered = ctx.group.shared_empty((pixels, c, m), w.dtype)
    shard = ctx.group.shard(pixels)
    ordered[shard] = w.reshape((c, pixels, m)).transpose((1, 0, 2))[shard]
    ctx.group.barrier()
    return ordered.reshape(w.shape)


def _as_maps(dx: Array | None, x: Shape) -> Array | None:
    if dx is None or len(x) == 2:
        return dx
    h, w, n, c = x
    return dx.reshape((n, h, w, c)).transpose((1, 2, 0, 3))


def _weight_gradient(ctx: Context, x: Array, g: Array, maps: Shape) -> Array:
    """Return x.T @ g; of maps, in the weights' own order (C, H, W): written there a pixel at a time, or copied."""
    if len(maps) == 2:
        return x.T @ g
    (n, k), m = x.shape, g.shape[1]
    pixels, c = maps[0] * maps[1], maps[3]
    own = ctx.xp.empty((c, pixels, m), dtype=ctx.xp.result_type(x.dtype, g.dtype))
    by_pixel = own.transpose((1, 0, 2))
    if _writes_pixels(ctx, c):
        ctx.xp.matmul(x.reshape((n, pixels, c)).transpose((1, 2, 0)), g, by_pixel)
    else:
        by_pixel[...] = (x.T @ g).reshape((pixels, c, m))
    return own.reshape((k, m))


def _writes_pixels(ctx: Context, channels: int) -> bool:
    """Whether a product for each pixel is faster than one product and a copy of it."""
    return bool(ctx.group.chunked and channels >= PIXEL_MIN_CHANNELS)
