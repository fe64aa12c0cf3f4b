"""Convolution with what follows it: max pooling, bias and rectifier."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from nl_nodes.cases import Case, real
from nl_nodes.compiler.fused.conv.algorithm import ConvAlgorithm
from nl_nodes.compiler.fused.conv.filter_parallel import FilterParallelWinograd, prefers_filter_parallel
from nl_nodes.compiler.fused.conv.im2col import Im2col
from nl_nodes.compiler.fused.conv.winograd import F2_PAD1, F4, Winograd, WinogradSpec
from nl_nodes.compiler.fused.epilogue import ALL, Epilogue
from nl_nodes.compiler.fused.pad import (
    NO_PADDING,
    Padding,
    ZeroPad,
    empty_padded,
    hwnc_batch_axis,
    interior,
    padded_shape,
)
from nl_nodes.node import Context, Node
from nl_nodes.nodes.masks import StopGradient
from nl_nodes.nodes.structure import Transpose
from nl_nodes.typing import Array, Shape

WINOGRAD_MIN_CHANNELS = 8
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

    saves = ("inputs", "output", "saved")

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
        frame: Padding = NO_PADDING,
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
        return padded_shape((oh // self.step, ow // self.step, x[2], k), self.frame)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """The third axis."""
        return hwnc_batch_axis(self, axes)

    def _algorithm(self, ctx: Context, inputs: tuple[Array, ...]) -> ConvAlgorithm:
        x, w = (a.shape for a in inputs[:2])
        outputs, dtype = self.outputs(w), ctx.xp.result_type(*(a.dtype for a in inputs))
        tiles = tiles_for(self.size, w, self.pad, self.stride)
        if tiles is None:
            return Im2col(w[2:], self.stride, ctx.xp, x, outputs, dtype)
        if prefers_filter_parallel(tiles, x, outputs, ctx.group):
            return FilterParallelWinograd(ctx.group, tiles, self.pad, ctx.xp, x, outputs, dtype)
        return Winograd(tiles, self.pad, ctx.xp, x, outputs, dtype)

    def _epilogue(self, ctx: Context, algorithm: ConvAlgorithm, bias: Array | None, masks: Any = None) -> Epilogue:
        sums = (algorithm.oh, algorithm.ow, algorithm.n, algorithm.k)
        return Epilogue(ctx, sums, algorithm.dtype, self.relu, self.pool, bias, masks, algorithm.images)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Piece by piece: convolution, then what follows it while the piece is in the cache."""
        x, w = inputs[:2]
        algorithm = self._algorithm(ctx, inputs)
        u = algorithm.weights(ctx, w)
        y = empty_padded(ctx, self.infer(*(a.shape for a in inputs)), self.frame, algorithm.dtype)
        epilogue = self._epilogue(ctx, algorithm, inputs[2] if len(inputs) > 2 else None)
        ctx.saved = epilogue.masks
        aside = self.pool or not (algorithm.scatters or self.frame == NO_PADDING)
        for part in algorithm.parts(self.step):
            outputs = interior(y, self.frame)[part.output[0], :, part.output[1]]
            sums = algorithm.sums(part) if aside else outputs
            algorithm.forward(x[part.input], u, sums)
            epilogue.forward(sums, part.output, outputs)
        return y

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        """Piece by piece: back through what follows, then both gradients of the convolution."""
        x, w = ctx.inputs[:2]
        algorithm = self._algorithm(ctx, ctx.inputs)
        u = algorithm.weights(ctx, w, back=True) if ctx.needs[0] else None
        bias = ctx.inputs[2] if len(ctx.inputs) > 2 and ctx.needs[2] else None
        epilogue = self._epilogue(ctx, algorithm, bias, ctx.saved)
        y, dy = interior(ctx.output, self.frame), interior(dy, self.frame)
        dx = algorithm.maps_gradient(x.shape) if ctx.needs[0] else None
        dw = algorithm.kernels(w.shape) if ctx.needs[1] else None
        for number, part in enumerate(algorithm.parts(self.step)):
            output = (part.output[0], ALL, part.output[1])
            g = dy[output]
            sums = algorithm.sums(part) if self.relu or self.pool else g
            epilogue.backward(g, y[output], part.output, sums)
            algorithm.load(x[part.input], sums)
            if dw is not None:
                algorithm.weight_gradient(dw, add=number > 0)
            if dx is not None:
                algorithm.data_gradient(u, dx[part.input])
        return (dx, dw, epilogue.db)[: len(ctx.inputs)]

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
            ("tiles of 4", (4, 5, 3, WINOGRAD_MIN_CHANNELS + 1), (2, WINOGRAD_MIN_CHANNELS + 1, 3, 3), 1, 1),
            ("tiles of 4, pad 2", (3, 1, 3, WINOGRAD_MIN_CHANNELS), (3, WINOGRAD_MIN_CHANNELS, 3, 3), 2, 1),
            (
                "maps of 2x2",
                (2, 2, 3, WINOGRAD_MIN_CHANNELS),
                (WINOGRAD_MIN_CHANNELS + 1, WINOGRAD_MIN_CHANNELS, 3, 3),
                1,
                1,
            ),
            (
                "few images, many kernels",
                (5, 4, 2, WINOGRAD_MIN_CHANNELS + 1),
                (WINOGRAD_MIN_CHANNELS, WINOGRAD_MIN_CHANNELS + 1, 3, 3),
                1,
                1,
            ),
            (
                "maps of 2x2, few images",
                (2, 2, 2, WINOGRAD_MIN_CHANNELS),
                (WINOGRAD_MIN_CHANNELS + 1, WINOGRAD_MIN_CHANNELS, 3, 3),
                1,
                1,
            ),
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
            ("many tiles of 4", (11, 5, 2, WINOGRAD_MIN_CHANNELS), (2, WINOGRAD_MIN_CHANNELS, 3, 3), 1, 1),
            ("tiles of 4, upright", (5, 4, 2, 10), (2, 10, 3, 3), 1, 1),
            (
                "few images, lying",
                (5, 7, 2, WINOGRAD_MIN_CHANNELS),
                (WINOGRAD_MIN_CHANNELS, WINOGRAD_MIN_CHANNELS, 3, 3),
                0,
                1,
            ),
            ("many channels, stride 2", (3, 4, 2, WINOGRAD_MIN_CHANNELS), (2, WINOGRAD_MIN_CHANNELS, 3, 3), 1, 2),
            ("maps of 2x2, pad 2", (2, 2, 2, WINOGRAD_MIN_CHANNELS), (2, WINOGRAD_MIN_CHANNELS, 3, 3), 2, 1),
        ):
            yield Case(label, partial(_case, x[:2], w, pad, stride), (real(*x), real(*w)))
        once = partial(_case, (4, 4), (WINOGRAD_MIN_CHANNELS, WINOGRAD_MIN_CHANNELS, 3, 3), 1, 1)
        draws = (real(4, 4, 2, WINOGRAD_MIN_CHANNELS), real(WINOGRAD_MIN_CHANNELS, WINOGRAD_MIN_CHANNELS, 3, 3))
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
    around = padding(x.shape[:2], w.shape, pad, stride)
    lies = around == NO_PADDING and not isinstance(x, Transpose)
    return Conv(x if lies else ZeroPad(x, around), w, b, size=x.shape[:2], pad=pad, stride=stride)


def padding(maps: Shape, w: Shape, pad: int, stride: int) -> Padding:
    """The frame that maps (H, W) need for kernels (K, C, FH, FW): tiles need none."""
    return NO_PADDING if tiles_for(maps, w, pad, stride) else (pad, pad, pad, pad)


def tiles_for(maps: Shape, w: Shape, pad: int, stride: int) -> WinogradSpec | None:
    """The tiles that suit maps (H, W) and kernels (K, C, FH, FW); None where windows are better, or alone possible."""
    if (
        w[2:] != (3, 3) or stride != 1 or w[1] < WINOGRAD_MIN_CHANNELS or pad > 2
    ):  # further out a tile would see zeros alone
        return None
    if maps == (2, 2) and pad == 1:
        return F2_PAD1
    return F4 if min(maps) + 2 * pad - 2 > 2 else None


def _case(maps: Shape, kernels: Shape, pad: int, stride: int, *inputs: Node, **form: Any) -> Node:
    x, *others = inputs
    return Conv(ZeroPad(x, padding(maps, kernels, pad, stride)), *others, size=maps, pad=pad, stride=stride, **form)
