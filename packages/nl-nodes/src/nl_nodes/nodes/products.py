"""Matrix products."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, real
from nl_nodes.context import Context, NotShardable
from nl_nodes.node import Node
from nl_nodes.shapes import size
from nl_nodes.typing import Array, Shape


class Dot(Node):
    """`y = x @ w`, the matrix product over x's last axis and w's first.

    Forward: y = x @ w. Backward: dx = dy @ w.T, dw = x.T @ dy, with x's leading axes taken as rows and w's trailing
    axes as columns. Shapes: x (..., K), w (K, ...), y x's leading axes and w's trailing ones. Saves: inputs.
    Kinks: none. Errors: `ShapeError` where x's last axis is not w's first.
    Source: Deep Learning from Scratch, 5.6.1.
    """

    saves = ("inputs",)

    def __init__(self, x: Node, w: Node) -> None:
        super().__init__(x, w)

    def infer(self, *shapes: Shape) -> Shape:
        """Return x's leading axes and w's trailing ones."""
        x, w = shapes
        if not x or len(w) < 2 or x[-1] != w[0]:
            raise self.misfit("the first's last axis must be the first of the second's two or more", x, w)
        return (*x[:-1], *w[1:])

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the batch axis of x or w in the output, unless it is summed over."""
        (a, b), last = axes, len(shapes[0]) - 1
        if a is not None and b is None and a != last:
            return a
        if b is not None and a is None and b != 0:
            return last - 1 + b
        raise NotShardable(type(self).__name__)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return `x @ w`."""
        x, w = inputs
        return (matrix(x, x.ndim - 1) @ matrix(w, 1)).reshape(self.infer(x.shape, w.shape))

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, Array | None]:
        """Return `dy @ w.T` and `x.T @ dy`."""
        x, w = ctx.inputs
        dys = matrix(dy, x.ndim - 1)
        dx = (dys @ matrix(w, 1).T).reshape(x.shape) if ctx.needs[0] else None
        dw = (matrix(x, x.ndim - 1).T @ dys).reshape(w.shape) if ctx.needs[1] else None
        return dx, dw

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield arrays of one, two and more axes."""
        yield Case("matrix", cls, (real(3, 4), real(4, 5)))
        yield Case("vector", cls, (real(4), real(4, 5)))
        yield Case("images", cls, (real(2, 3, 2, 4), real(4, 3)))
        yield Case("columns", cls, (real(3, 4), real(4, 2, 3, 2)))
        yield Case("one column", cls, (real(3, 4), real(4, 1)))
        yield Case("shared", lambda x: cls(x, x), (real(3, 3),))


def matrix(x: Array, axes: int) -> Array:
    """Return x as a matrix: the first `axes` axes as rows, the rest as columns."""
    return x.reshape((size(x.shape[:axes]), size(x.shape[axes:])))
