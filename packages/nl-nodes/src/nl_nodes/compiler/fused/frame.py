"""Zeros around maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nl_nodes.cases import Case, real
from nl_nodes.node import Kept, Node, SamplesMix
from nl_nodes.typing import Array, Shape

Margins = tuple[int, int, int, int]
"""Rows above, rows below, columns left, columns right."""

NONE: Margins = (0, 0, 0, 0)


class Frame(Node):
    """y = maps x with rows and columns of zeros around them.

    Forward: y[i + above, j + left] = x[i, j], else 0. Backward: dx = dy without the frame.
    Shapes: x (H, W, N, C), y (H + above + below, W + left + right, N, C). Keeps: nothing. Kinks: none.
    Errors: `ShapeError` for an x without four axes. Source: Deep Learning from Scratch, 7.2.2.
    """

    def __init__(self, x: Node, margins: Margins) -> None:
        self.margins = margins
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """The framed shape."""
        if len(shapes[0]) != 4:
            raise self.misfit("needs maps (H, W, N, C)", shapes[0])
        return framed(shapes[0], self.margins)

    def samples(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """The third axis."""
        return third(self, axes)

    def forward(self, kept: Kept, *inputs: Array) -> Array:
        """X in its frame."""
        y = unwritten(kept, framed(inputs[0].shape, self.margins), self.margins, inputs[0].dtype)
        inside(y, self.margins)[...] = inputs[0]
        return y

    def backward(self, kept: Kept, dy: Array) -> Array:
        """Dy without the frame."""
        return inside(dy, self.margins)

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """A frame on all sides, and on some."""
        for margins in ((1, 1, 1, 1), (1, 3, 0, 2), NONE):
            yield Case(f"margins {margins}", lambda x, m=margins: cls(x, m), (real(2, 3, 2, 2),), linear=True)


def framed(shape: Shape, margins: Margins) -> Shape:
    """The shape of maps in their frame."""
    above, below, left, right = margins
    return (shape[0] + above + below, shape[1] + left + right, *shape[2:])


def unwritten(kept: Kept, shape: Shape, margins: Margins, dtype: Any) -> Array:
    """Memory for framed maps: the frame is zero already, what is in it is not written yet."""
    return kept.crew.blank(shape, dtype) if any(margins) else kept.xp.empty(shape, dtype=dtype)


def inside(array: Array, margins: Margins) -> Array:
    """The view of framed maps without their frame."""
    above, below, left, right = margins
    return array[above : array.shape[0] - below, left : array.shape[1] - right]


def third(node: Node, axes: tuple[int | None, ...]) -> int:
    """The axis of maps' samples, where the first input is maps and the others have none."""
    if axes[0] != 2 or any(a is not None for a in axes[1:]):
        raise SamplesMix(type(node).__name__)
    return 2
