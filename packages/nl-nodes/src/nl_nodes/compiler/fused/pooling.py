"""Max pooling of maps where no convolution comes before it, with the rectifier that follows it."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, distinct
from nl_nodes.compiler.fused.after import ALL, After
from nl_nodes.compiler.fused.frame import NONE, Margins, framed, inside, third, unwritten
from nl_nodes.node import Kept, Node
from nl_nodes.typing import Array, Shape


class Pool(Node):
    """y = the maximum of windows of 2x2 that touch, in a frame of zeros.

    Forward: y[i, j] = the maximum of x[2i:2i+2, 2j:2j+2]; a last odd row or column is left out. Backward: dy to the
    first maximum of each window in row-major order. Shapes: x (H, W, N, K), y (H // 2, W // 2, N, K) and its frame.
    Keeps: mask. Kinks: as Max. Errors: `ShapeError` for an x without four axes.
    Source: Deep Learning from Scratch, 7.3.
    """

    keeps = ("mask",)

    def __init__(self, x: Node, frame: Margins = NONE) -> None:
        self.frame = frame
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """Half of both, framed."""
        if len(shapes[0]) != 4:
            raise self.misfit("needs maps (H, W, N, K)", shapes[0])
        h, w, n, k = shapes[0]
        return framed((h // 2, w // 2, n, k), self.frame)

    def samples(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """The third axis."""
        return third(self, axes)

    def forward(self, kept: Kept, *inputs: Array) -> Array:
        """All images at once."""
        x = inputs[0]
        after = After(kept, x.shape, x.dtype, relu=False, pool=True)
        kept.mask = after.masks
        y = unwritten(kept, self.infer(x.shape), self.frame, x.dtype)
        after.forward(x, (ALL, ALL), inside(y, self.frame))
        return y

    def backward(self, kept: Kept, dy: Array) -> Array:
        """All images at once."""
        shape = kept.shapes[0]
        after = After(kept, shape, dy.dtype, relu=False, pool=True, masks=kept.mask)
        dx = kept.xp.empty(shape, dtype=dy.dtype)
        dy = inside(dy, self.frame)
        after.backward(dy, dy, (ALL, ALL), dx)
        return dx

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Even and odd maps, and a frame."""
        yield Case("even", cls, (distinct(6, 2, 5, 3),))
        yield Case("odd", cls, (distinct(3, 5, 4, 2),))
        yield Case("framed", lambda x: cls(x, (1, 1, 0, 2)), (distinct(4, 4, 2, 2),))
