"""The logarithm of softmax at the label."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, labels, real
from nl_nodes.context import Context, NotShardable
from nl_nodes.node import Node
from nl_nodes.nodes.labels import OneHot
from nl_nodes.typing import Array, Shape


class LabelLogSoftmax(Node):
    """y = the sum over classes of t log softmax(x), for each row; classes with t = 0 add 0, even where the log is -inf.

    Forward: y[n] = sum_k t[n, k] (x[n, k] - max - log sum_j exp(x[n, j] - max)). Backward:
    dx = dy (t - softmax(x) sum_k t), dt = dy log softmax(x). Shapes: x (N, K), t (N, K), y (N,).
    Saves: inputs, saved (softmax(x)). Kinks: none. Errors: `ShapeError` if the shapes do not match.
    Source: Deep Learning from Scratch, 5.6.3 and appendix A.
    """

    saves = ("inputs", "saved")

    def __init__(self, x: Node, t: Node) -> None:
        super().__init__(x, t)

    def infer(self, *shapes: Shape) -> Shape:
        """Return (N,)."""
        x, t = shapes
        if len(x) != 2 or x != t:
            raise self.misfit("needs (N, K) twice", *shapes)
        return x[:1]

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return 0, the batch axis of both inputs."""
        if axes != (0, 0):
            raise NotShardable(type(self).__name__)
        return 0

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return the sum of t log softmax(x)."""
        logs, ctx.saved = _log_softmax(ctx, inputs[0])
        t = inputs[1]
        return (t * ctx.xp.where(t != 0, logs, 0)).sum(axis=1)

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, Array | None]:
        """Return `dy (t - softmax(x) sum t)` and `dy log softmax(x)`."""
        x, t = ctx.inputs
        column = dy.reshape((dy.shape[0], 1))
        dx = (t - ctx.saved * t.sum(axis=1, keepdims=True)) * column if ctx.needs[0] else None
        return dx, (_log_softmax(ctx, x)[0] * column if ctx.needs[1] else None)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield labels as integers and as rows."""
        yield Case("integers", lambda x, t: cls(x, OneHot(t, x)), (real(4, 3), labels(4, classes=3)))
        yield Case("shares", cls, (real(4, 3), real(4, 3)))
        yield Case("rows", lambda x, t: cls(x, OneHot(t, x)), (real(4, 3), labels(4, 3, classes=2)))


def _log_softmax(ctx: Context, x: Array) -> tuple[Array, Array]:
    """Return log softmax and softmax, shifted by the maximum so that nothing overflows."""
    shifted = x - x.max(axis=1, keepdims=True)
    e = ctx.xp.exp(shifted)
    total = e.sum(axis=1, keepdims=True)
    return shifted - ctx.xp.log(total), e / total
