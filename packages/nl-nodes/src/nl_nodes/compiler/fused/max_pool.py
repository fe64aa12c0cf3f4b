"""Max pooling of maps, where it is not fused into the node before it."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, distinct
from nl_nodes.compiler.fused.epilogue import ALL, Epilogue
from nl_nodes.compiler.fused.pad import NO_PADDING, Padding, empty_padded, hwnc_batch_axis, interior, padded_shape
from nl_nodes.context import Context
from nl_nodes.node import Node
from nl_nodes.typing import Array, Shape


class Pool(Node):
    """y = the maximum of adjacent 2x2 windows, zero-padded.

    Forward: y[i, j] = the maximum of x[2i:2i+2, 2j:2j+2]; an odd last row or column is left out. Backward: dy to the
    first maximum of each window in row-major order. Shapes: x (H, W, N, K), y (H // 2, W // 2, N, K) plus padding.
    Saves: saved (masks). Kinks: as Max. Errors: `ShapeError` for an x without four axes.
    Source: Deep Learning from Scratch, 7.3.
    """

    saves = ("saved",)

    def __init__(self, x: Node, out_pad: Padding = NO_PADDING) -> None:
        self.out_pad = out_pad
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """Return half the height and width, plus padding."""
        if len(shapes[0]) != 4:
            raise self.misfit("needs maps (H, W, N, K)", shapes[0])
        h, w, n, k = shapes[0]
        return padded_shape((h // 2, w // 2, n, k), self.out_pad)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return 2, the batch axis of maps."""
        return hwnc_batch_axis(self, axes)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return the pooled maps."""
        x = inputs[0]
        epilogue = Epilogue(ctx, x.shape, x.dtype, relu=False, pool=True)
        ctx.saved = epilogue.masks
        y = empty_padded(ctx, self.infer(x.shape), self.out_pad, x.dtype)
        epilogue.forward(x, (ALL, ALL), interior(y, self.out_pad))
        return y

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Pass dy to the maximum of each window."""
        shape = ctx.shapes[0]
        epilogue = Epilogue(ctx, shape, dy.dtype, relu=False, pool=True, masks=ctx.saved)
        dx = ctx.xp.empty(shape, dtype=dy.dtype)
        dy = interior(dy, self.out_pad)
        epilogue.backward(dy, dy, (ALL, ALL), dx)
        return dx

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield even, odd and padded maps."""
        yield Case("even", cls, (distinct(6, 2, 5, 3),))
        yield Case("odd", cls, (distinct(3, 5, 4, 2),))
        yield Case("padded", lambda x: cls(x, (1, 1, 0, 2)), (distinct(4, 4, 2, 2),))
