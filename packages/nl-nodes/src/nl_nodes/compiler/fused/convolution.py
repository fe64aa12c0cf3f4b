"""Convolution with what follows it: max pooling, bias and rectifier."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from nl_nodes.cases import Case, real
from nl_nodes.compiler.fused.after import ALL, After
from nl_nodes.compiler.fused.columns import Columns
from nl_nodes.compiler.fused.frame import NONE, Frame, Margins, framed, inside, third, unwritten
from nl_nodes.compiler.fused.together import Together, suits
from nl_nodes.compiler.fused.way import Way
from nl_nodes.compiler.fused.winograd import F4, PAIR, Tiles, Winograd
from nl_nodes.node import Kept, Node
from nl_nodes.nodes.masks import StopGradient
from nl_nodes.nodes.structure import Transpose
from nl_nodes.typing import Array, Shape

MANY = 8
"""From so many channels on, tiles are faster than windows."""


class Conv(Node):
    """y = relu(pool(conv(x, w)) + b), in a frame of zeros; rectifier, pooling and bias are optional.

    Max pooling of 2x2 windows that touch commutes with the bias and the rectifier, so it comes first and a quarter of
    the values is left for them.

    Forward: y = max(pool(conv(x, w)) + b, 0). Backward: g = dy where y > 0, db = the sum of g; within a window to the
    first of its largest values in row-major order; then dw and dx as of a convolution. Shapes: x (H, W, N, C), in a
    frame if `conv` gives it one, w (K, C, FH, FW), b (K,), y (OH, OW, N, K) or half that, and its frame.
    Keeps: inputs, output, mask (which of two neighbours is larger). Kinks: as ValueMask and Max. Errors: none; `conv`
    makes what fits.
    Source: Deep Learning from Scratch, 7.4; Lavin and Gray (2016).

    Args:
        x: maps, in a frame where windows are to see it.
        w: the kernels.
        b: the bias, if any.
        size: the shape (H, W) of the maps without their frame.
        pad: rows and columns of zeros that the convolution sees on every side.
        stride: the step between windows.
        relu: whether a rectifier follows.
        pool: whether pooling comes before bias and rectifier.
        frame: the frame around y.
    """

    keeps = ("inputs", "output", "mask")

    def __init__(
        self,
        x: Node,
        w: Node,
        b: Node | None = None,
        *,
        size: Shape,
        pad: int = 0,
        stride: int = 1,
        relu: bool = False,
        pool: bool = False,
        frame: Margins = NONE,
    ) -> None:
        self.size, self.pad, self.stride = size, pad, stride
        self.relu, self.pool, self.frame = relu, pool, frame
        super().__init__(*((x, w) if b is None else (x, w, b)))

    @property
    def step(self) -> int:
        """How many rows and columns of the convolution become one."""
        return 2 if self.pool else 1

    def outputs(self, w: Shape) -> Shape:
        """(OH, OW, K) of the convolution alone."""
        oh, ow = ((n + 2 * self.pad - k) // self.stride + 1 for n, k in zip(self.size, w[2:], strict=True))
        return (oh, ow, w[0])

    def infer(self, *shapes: Shape) -> Shape:
        """The framed shape of the outputs."""
        x, w = shapes[:2]
        oh, ow, k = self.outputs(w)
        return framed((oh // self.step, ow // self.step, x[2], k), self.frame)

    def samples(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """The third axis."""
        return third(self, axes)

    def _way(self, kept: Kept, inputs: tuple[Array, ...]) -> Way:
        x, w = (a.shape for a in inputs[:2])
        outputs, dtype = self.outputs(w), kept.xp.result_type(*(a.dtype for a in inputs))
        tiles = tiles_for(self.size, w, self.pad, self.stride)
        if tiles is None:
            return Columns(w[2:], self.stride, kept.xp, x, outputs, dtype)
        if suits(tiles, x, outputs, kept.crew):
            return Together(kept.crew, tiles, self.pad, kept.xp, x, outputs, dtype)
        return Winograd(tiles, self.pad, kept.xp, x, outputs, dtype)

    def _after(self, kept: Kept, way: Way, bias: Array | None, masks: Any = None) -> After:
        sums = (way.oh, way.ow, way.n, way.k)
        return After(kept, sums, way.dtype, self.relu, self.pool, bias, masks, way.images)

    def forward(self, kept: Kept, *inputs: Array) -> Array:
        """Piece by piece: convolution, then what follows it while the piece is in the cache."""
        x, w = inputs[:2]
        way = self._way(kept, inputs)
        u = way.weights(kept, w)
        y = unwritten(kept, self.infer(*(a.shape for a in inputs)), self.frame, way.dtype)
        after = self._after(kept, way, inputs[2] if len(inputs) > 2 else None)
        kept.mask = after.masks
        aside = self.pool or not (way.scatters or self.frame == NONE)
        for part in way.parts(self.step):
            outputs = inside(y, self.frame)[part.made[0], :, part.made[1]]
            sums = way.sums(part) if aside else outputs
            way.forward(x[part.seen], u, sums)
            after.forward(sums, part.made, outputs)
        return y

    def backward(self, kept: Kept, dy: Array) -> tuple[Array | None, ...]:
        """Piece by piece: back through what follows, then both gradients of the convolution."""
        x, w = kept.inputs[:2]
        way = self._way(kept, kept.inputs)
        u = way.weights(kept, w, back=True) if kept.needs[0] else None
        bias = kept.inputs[2] if len(kept.inputs) > 2 and kept.needs[2] else None
        after = self._after(kept, way, bias, kept.mask)
        y, dy = inside(kept.output, self.frame), inside(dy, self.frame)
        dx = way.maps_gradient(x.shape) if kept.needs[0] else None
        dw = way.kernels(w.shape) if kept.needs[1] else None
        for number, part in enumerate(way.parts(self.step)):
            made = (part.made[0], ALL, part.made[1])
            g = dy[made]
            sums = way.sums(part) if self.relu or self.pool else g
            after.backward(g, y[made], part.made, sums)
            way.load(x[part.seen], sums)
            if dw is not None:
                way.weight_gradient(dw, add=number > 0)
            if dx is not None:
                way.data_gradient(u, dx[part.seen])
        return (dx, dw, after.db)[: len(kept.inputs)]

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Every way of calculating, with and without each of what follows, and frames."""
        forms: list[dict[str, Any]] = [
            {},
            {"relu": True, "frame": (0, 1, 2, 0)},
            {"pool": True},
            {"relu": True, "pool": True, "frame": (1, 3, 1, 2)},
        ]
        for label, x, w, pad, stride in (
            ("tiles of 4", (4, 5, 3, MANY + 1), (2, MANY + 1, 3, 3), 1, 1),
            ("tiles of 4, pad 2", (3, 1, 3, MANY), (3, MANY, 3, 3), 2, 1),
            ("maps of 2x2", (2, 2, 3, MANY), (MANY + 1, MANY, 3, 3), 1, 1),
            ("few images, many kernels", (5, 4, 2, MANY + 1), (MANY, MANY + 1, 3, 3), 1, 1),
            ("maps of 2x2, few images", (2, 2, 2, MANY), (MANY + 1, MANY, 3, 3), 1, 1),
            ("windows, one channel", (9, 6, 3, 1), (2, 1, 3, 3), 1, 1),
            ("windows of 5x4", (4, 5, 3, 5), (2, 5, 5, 4), 2, 1),
            ("windows, stride 2", (7, 6, 3, 4), (3, 4, 3, 2), 1, 2),
        ):
            for form in forms:
                build = partial(_case, x[:2], w, pad, stride, **form)
                name = ", ".join([label, *(f"{k} {v}" for k, v in form.items())])
                yield Case(name, build, (real(*x), real(*w), real(w[0])))
            build = partial(_case, x[:2], w, pad, stride, frame=(0, 1, 0, 0))
            yield Case(f"{label}, no bias, framed", build, (real(*x), real(*w)))
        for label, x, w, pad, stride in (
            ("many tiles of 4", (11, 5, 2, MANY), (2, MANY, 3, 3), 1, 1),
            ("tiles of 4, upright", (5, 4, 2, 10), (2, 10, 3, 3), 1, 1),
            ("few images, lying", (5, 7, 2, MANY), (MANY, MANY, 3, 3), 0, 1),
            ("many channels, stride 2", (3, 4, 2, MANY), (2, MANY, 3, 3), 1, 2),
            ("maps of 2x2, pad 2", (2, 2, 2, MANY), (2, MANY, 3, 3), 2, 1),
        ):
            yield Case(label, partial(_case, x[:2], w, pad, stride), (real(*x), real(*w)))
        once = partial(_case, (4, 4), (MANY, MANY, 3, 3), 1, 1)
        draws = (real(4, 4, 2, MANY), real(MANY, MANY, 3, 3))
        yield Case(
            "few images, kernels used twice",
            lambda x, w: once(once(StopGradient(x), w), w),
            draws,
            zero=(0,),
            surrogate=True,
        )


def conv(x: Node, w: Node, b: Node | None, pad: int, stride: int) -> Node:
    """The convolution of maps x (H, W, N, C), which it puts into a frame where its way of calculating needs one.

    What is a view of images goes into a frame of no width: so it is moved once, and not with each window anew.
    """
    assert x.shape is not None
    assert w.shape is not None
    around = margins(x.shape[:2], w.shape, pad, stride)
    lies = around == NONE and not isinstance(x, Transpose)
    return Conv(x if lies else Frame(x, around), w, b, size=x.shape[:2], pad=pad, stride=stride)


def margins(maps: Shape, w: Shape, pad: int, stride: int) -> Margins:
    """The frame that maps (H, W) need for kernels (K, C, FH, FW): tiles need none."""
    return NONE if tiles_for(maps, w, pad, stride) else (pad, pad, pad, pad)


def tiles_for(maps: Shape, w: Shape, pad: int, stride: int) -> Tiles | None:
    """The tiles that suit maps (H, W) and kernels (K, C, FH, FW); None where windows are better, or alone possible."""
    if w[2:] != (3, 3) or stride != 1 or w[1] < MANY or pad > 2:  # further out a tile would see zeros alone
        return None
    if maps == (2, 2) and pad == 1:
        return PAIR
    return F4 if min(maps) + 2 * pad - 2 > 2 else None


def _case(maps: Shape, kernels: Shape, pad: int, stride: int, *inputs: Node, **form: Any) -> Node:
    x, *others = inputs
    return Conv(Frame(x, margins(maps, kernels, pad, stride)), *others, size=maps, pad=pad, stride=stride, **form)
