"""Class labels as one-hot rows."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, labels, real, unit
from nl_nodes.context import Context, NotShardable
from nl_nodes.node import Node
from nl_nodes.nodes.arithmetic import Mul
from nl_nodes.typing import Array, Shape


class OneHot(Node):
    """Labels as one-hot rows, in the shape and dtype of the values `like`.

    Forward: y[n, k] = 1 where t[n] = k, else 0; labels that are rows (N, K) already are returned as they are, and
    for values (N,) or (N, 1) labels (N,) are binary targets, 0 or 1. Backward: none; labels are constants, and of
    `like` only shape and dtype count. Shapes: t (N,) or (N, K), like (N, K), y (N, K). Saves: nothing. Kinks: none.
    Errors: `ShapeError` where t fits neither form. Source: Deep Learning from Scratch, 4.2.4.
    """

    constant = True

    def __init__(self, t: Node, like: Node) -> None:
        super().__init__(t, like)

    def infer(self, *shapes: Shape) -> Shape:
        """Return the shape of `like`."""
        t, like = shapes
        if t not in (like, like[:1]):
            raise self.misfit("labels must be (N,) or of the values' shape", t, like)
        return like

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the first axis."""
        if axes != (0, 0):
            raise NotShardable(type(self).__name__)
        return 0

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return the one-hot rows."""
        t, like = inputs
        if t.shape == like.shape or like.shape[1] == 1:
            # The real part of complex rows, so that a complex step sees them as constants too.
            return t.reshape(like.shape).real.astype(like.dtype)
        return (t[:, None] == ctx.xp.arange(like.shape[1])).astype(like.dtype)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield integer labels and rows."""
        yield Case("integers", lambda x, t: Mul(x, cls(t, x)), (real(4, 3), labels(4, classes=3)))
        yield Case("rows", lambda x, t: Mul(x, cls(t, x)), (real(4, 3), labels(4, 3, classes=2)))
        yield Case("binary", lambda x, t: Mul(x, cls(t, x)), (real(4, 1), labels(4, classes=2)))
        yield Case("no classes", lambda x, t: Mul(x, cls(t, x)), (real(4, 0), labels(4, classes=1)), zero=(0,))
        yield Case("alone", lambda x, t: cls(t, x), (real(4, 3), labels(4, classes=3)), zero=(0,))
        yield Case("soft", lambda x, t: Mul(x, cls(t, x)), (real(4, 3), unit(4, 3)), zero=(1,), surrogate=True)
