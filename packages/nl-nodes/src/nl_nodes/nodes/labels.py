"""Class labels as rows of probabilities."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, labels, real, unit
from nl_nodes.node import Context, Node, NotShardable
from nl_nodes.nodes.arithmetic import Mul
from nl_nodes.typing import Array, Shape


class OneHot(Node):
    """y = labels as one-hot rows, in the shape and dtype of the values they belong to.

    Forward: y[n, k] = 1 where t[n] = k, else 0; labels that are already rows (N, K) pass as they are, and labels (N,)
    beside one value each, (N,) or (N, 1), are taken as targets 0 or 1. Backward: none; labels are constants and
    `like` lends only its shape. Shapes: t (N,) or (N, K), like (N, K), y (N, K). Keeps: nothing. Kinks: none.
    Errors: `ShapeError` where t fits neither form. Source: Deep Learning from Scratch, 4.2.4.
    """

    constant = True

    def __init__(self, t: Node, like: Node) -> None:
        super().__init__(t, like)

    def infer(self, *shapes: Shape) -> Shape:
        """Like's shape."""
        t, like = shapes
        if t not in (like, like[:1]):
            raise self.misfit("labels must be (N,) or of the values' shape", t, like)
        return like

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """The first axis."""
        if axes != (0, 0):
            raise NotShardable(type(self).__name__)
        return 0

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """The rows."""
        t, like = inputs
        if t.shape == like.shape or like.shape[1] == 1:
            # Of complex rows the real part, so that a complex step sees constants too.
            return t.reshape(like.shape).real.astype(like.dtype)
        return (t[:, None] == ctx.xp.arange(like.shape[1])).astype(like.dtype)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Whole-number labels and rows."""
        yield Case("integers", lambda x, t: Mul(x, cls(t, x)), (real(4, 3), labels(4, classes=3)))
        yield Case("rows", lambda x, t: Mul(x, cls(t, x)), (real(4, 3), labels(4, 3, classes=2)))
        yield Case("binary", lambda x, t: Mul(x, cls(t, x)), (real(4, 1), labels(4, classes=2)))
        yield Case("no classes", lambda x, t: Mul(x, cls(t, x)), (real(4, 0), labels(4, classes=1)), zero=(0,))
        yield Case("alone", lambda x, t: cls(t, x), (real(4, 3), labels(4, classes=3)), zero=(0,))
        yield Case("soft", lambda x, t: Mul(x, cls(t, x)), (real(4, 3), unit(4, 3)), zero=(1,), surrogate=True)
