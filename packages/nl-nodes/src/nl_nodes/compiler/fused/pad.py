"""Zeros around maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nl_nodes.cases import Case, real
from nl_nodes.node import Context, Node, NotShardable
from nl_nodes.typing import Array, Shape

Padding = tuple[int, int, int, int]
"""Rows above, rows below, columns left, columns right."""

NO_PADDING: Padding = (0, 0, 0, 0)


class ZeroPad(Node):
    """y = maps x with rows and columns of zeros around them.

    Forward: y[i + above, j + left] = x[i, j], else 0. Backward: dx = dy without the frame.
    Shapes: x (H, W, N, C), y (H + above + below, W + left + right, N, C). Keeps: nothing. Kinks: none.
    Errors: `ShapeError` for an x without four axes. Source: Deep Learning from Scratch, 7.2.2.
    """

    def __init__(self, x: Node, padding: Padding) -> None:
        self.padding = padding
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """The framed shape."""
        if len(shapes[0]) != 4:
            raise self.misfit("needs maps (H, W, N, C)", shapes[0])
        return padded_shape(shapes[0], self.padding)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """The third axis."""
        return hwnc_batch_axis(self, axes)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """X in its frame."""
        y = empty_padded(ctx, padded_shape(inputs[0].shape, self.padding), self.padding, inputs[0].dtype)
        interior(y, self.padding)[...] = inputs[0]
        return y

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Dy without the frame."""
        return interior(dy, self.padding)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """A frame on all sides, and on some."""
        for padding in ((1, 1, 1, 1), (1, 3, 0, 2), NO_PADDING):
            yield Case(f"margins {padding}", lambda x, m=padding: cls(x, m), (real(2, 3, 2, 2),), linear=True)


def padded_shape(shape: Shape, padding: Padding) -> Shape:
    """The shape of maps in their frame."""
    above, below, left, right = padding
    return (shape[0] + above + below, shape[1] + left + right, *shape[2:])


def empty_padded(ctx: Context, shape: Shape, padding: Padding, dtype: Any) -> Array:
    """Memory for framed maps: the frame is zero already, what is in it is not written yet."""
    return ctx.group.persistent_zeros(shape, dtype) if any(padding) else ctx.xp.empty(shape, dtype=dtype)


def interior(array: Array, padding: Padding) -> Array:
    """The view of framed maps without their frame."""
    above, below, left, right = padding
    return array[above : array.shape[0] - below, left : array.shape[1] - right]


def hwnc_batch_axis(node: Node, axes: tuple[int | None, ...]) -> int:
    """The axis of maps' samples, where the first input is maps and the others have none."""
    if axes[0] != 2 or any(a is not None for a in axes[1:]):
        raise NotShardable(type(node).__name__)
    return 2
