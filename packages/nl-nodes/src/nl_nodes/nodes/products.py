"""Matrix products."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, real
from nl_nodes.node import Kept, Node
from nl_nodes.typing import Array, Shape


class Dot(Node):
    """y = x w, the matrix product over x's last axis.

    Forward: y = x @ w. Backward: dx = dy @ w.T, dw = x.T @ dy, with x's and dy's leading axes taken as rows.
    Shapes: x (..., K), w (K, M), y (..., M). Keeps: inputs. Kinks: none.
    Errors: `ShapeError` where x's last axis is not w's first. Source: Deep Learning from Scratch, 5.6.1.
    """

    keeps = ("inputs",)

    def __init__(self, x: Node, w: Node) -> None:
        super().__init__(x, w)

    def infer(self, *shapes: Shape) -> Shape:
        """X's leading axes and w's columns."""
        x, w = shapes
        if len(w) != 2 or not x or x[-1] != w[0]:
            raise self.misfit("the first's last axis must be the second's first of two", x, w)
        return (*x[:-1], w[1])

    def forward(self, kept: Kept, *inputs: Array) -> Array:
        """X @ w."""
        x, w = inputs
        return (rows(x) @ w).reshape((*x.shape[:-1], w.shape[1]))

    def backward(self, kept: Kept, dy: Array) -> tuple[Array | None, Array | None]:
        """Dy @ w.T and x.T @ dy."""
        x, w = kept.inputs
        dx = (rows(dy) @ w.T).reshape(x.shape) if kept.needs[0] else None
        dw = rows(x).T @ rows(dy) if kept.needs[1] else None
        return dx, dw

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """One, two and more axes."""
        yield Case("matrix", cls, (real(3, 4), real(4, 5)))
        yield Case("vector", cls, (real(4), real(4, 5)))
        yield Case("images", cls, (real(2, 3, 2, 4), real(4, 3)))
        yield Case("one column", cls, (real(3, 4), real(4, 1)))
        yield Case("shared", lambda x: cls(x, x), (real(3, 3),))


def rows(x: Array) -> Array:
    """X as a matrix: all axes but the last as rows."""
    count = 1
    for n in x.shape[:-1]:
        count *= n
    return x.reshape((count, x.shape[-1]))
