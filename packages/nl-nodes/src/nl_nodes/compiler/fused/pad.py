"""Zero padding of maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nl_nodes.cases import Case, real
from nl_nodes.context import Context, NotShardable
from nl_nodes.node import Node
from nl_nodes.typing import Array, Shape

Padding = tuple[int, int, int, int]
"""Rows above and below, columns left and right."""

NO_PADDING: Padding = (0, 0, 0, 0)


class ZeroPad(Node):
    """y = maps x with rows and columns of zeros around them, contiguous.

    Forward: y[i + above, j + left] = x[i, j], else 0. Backward: dx = dy without the padding.
    Shapes: x (H, W, N, C), y (H + above + below, W + left + right, N, C). Saves: nothing. Kinks: none.
    Errors: `ShapeError` for an x without four axes. Source: Deep Learning from Scratch, 7.2.2.
    """

    def __init__(self, x: Node, padding: Padding) -> None:
        self.padding = padding
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the padded shape."""
        if len(shapes[0]) != 4:
            raise self.misfit("needs maps (H, W, N, C)", shapes[0])
        return padded_shape(shapes[0], self.padding)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return 2, the batch axis of maps."""
        return hwnc_batch_axis(self, axes)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Copy x into zeros."""
        y = empty_padded(ctx, padded_shape(inputs[0].shape, self.padding), self.padding, inputs[0].dtype)
        interior(y, self.padding)[...] = inputs[0]
        return y

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return dy without the padding."""
        return interior(dy, self.padding)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield padding on all sides, on some and on none."""
        for padding in ((1, 1, 1, 1), (1, 3, 0, 2), NO_PADDING):
            yield Case(f"padding {padding}", lambda x, p=padding: cls(x, p), (real(2, 3, 2, 2),), linear=True)


def padded_shape(shape: Shape, padding: Padding) -> Shape:
    """Return the shape of padded maps."""
    above, below, left, right = padding
    return (shape[0] + above + below, shape[1] + left + right, *shape[2:])


def empty_padded(ctx: Context, shape: Shape, padding: Padding, dtype: Any) -> Array:
    """Return padded maps whose interior is still to be written; the padding is zero already."""
    return ctx.group.persistent_zeros(shape, dtype) if any(padding) else ctx.xp.empty(shape, dtype=dtype)


def interior(array: Array, padding: Padding) -> Array:
    """Return the view of padded maps without their padding."""
    above, below, left, right = padding
    return array[above : array.shape[0] - below, left : array.shape[1] - right]


def hwnc_batch_axis(node: Node, axes: tuple[int | None, ...]) -> int:
    """Return 2, the batch axis of a node on maps; NotShardable if another input has one."""
    if axes[0] != 2 or any(a is not None for a in axes[1:]):
        raise NotShardable(type(node).__name__)
    return 2
