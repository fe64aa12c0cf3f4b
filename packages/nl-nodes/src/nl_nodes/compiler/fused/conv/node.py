"""Convolution with its epilogue: max pooling, bias and ReLU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from nl_nodes.cases import Case, real
from nl_nodes.compiler.fused.conv.algorithm import ConvAlgorithm
from nl_nodes.compiler.fused.conv.filter_parallel import FilterParallelWinograd, prefers_filter_parallel
from nl_nodes.compiler.fused.conv.im2col import Im2col
from nl_nodes.compiler.fused.conv.mec import FEW_CHANNELS, Mec
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
from nl_nodes.context import Context
from nl_nodes.node import Node
from nl_nodes.nodes.masks import StopGradient
from nl_nodes.typing import Array, Shape

WINOGRAD_MIN_CHANNELS = 8
"""Channels from which on Winograd is faster than im2col and MEC."""


class Conv(Node):
    """y = relu(pool(conv(x, w)) + b), zero-padded; ReLU, pooling and bias are optional.

    Max pooling of adjacent 2x2 windows commutes with bias and ReLU; pooling first leaves them a quarter of the values.

    Forward: y = max(pool(conv(x, w)) + b, 0). Backward: g = dy where y > 0, db = the sum of g; g goes to the
    first maximum of each pooling window in row-major order; then dw and dx as of a convolution.
    Shapes: x (H, W, N, C), zero-padded where there is no stride and no Winograd, w (K, C, FH, FW), b (K,),
    y (OH, OW, N, K), or half the height and width, plus padding.
    Saves: inputs, output, saved (masks: which of two neighbours is larger). Kinks: as ValueMask and Max.
    Errors: none; `conv` makes matching shapes.
    Source: Deep Learning from Scratch, 7.4; Lavin and Gray (2016).

    Args:
        x: maps, zero-padded by `pad` where `padding` says so.
        w: the kernels.
        b: the bias, if any.
        size: the shape (H, W) of the maps without padding.
        pad: rows and columns of zero padding on every side.
        stride: the distance between windows.
        relu: whether to apply ReLU.
        pool: whether to pool before bias and ReLU.
        out_pad: the zero padding of y.
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
        out_pad: Padding = NO_PADDING,
    ) -> None:
        self.size, self.pad, self.stride = size, pad, stride
        self.relu, self.pool, self.out_pad = relu, pool, out_pad
        super().__init__(*((x, w) if b is None else (x, w, b)))

    @property
    def pool_stride(self) -> int:
        """Rows and columns of the convolution that pooling turns into one."""
        return 2 if self.pool else 1

    @property
    def recomputable(self) -> bool:
        """Whether it has few input channels, as images have, and neither ReLU, masks nor padding."""
        w = self.inputs[1].shape
        return not (self.relu or self.pool or any(self.out_pad)) and w is not None and uses_mec(w, self.stride)

    def outputs(self, w: Shape) -> Shape:
        """Return (OH, OW, K) of the convolution alone."""
        oh, ow = ((n + 2 * self.pad - k) // self.stride + 1 for n, k in zip(self.size, w[2:], strict=True))
        return (oh, ow, w[0])

    def infer(self, *shapes: Shape) -> Shape:
        """Return the padded shape of the outputs."""
        x, w = shapes[:2]
        oh, ow, k = self.outputs(w)
        return padded_shape((oh // self.pool_stride, ow // self.pool_stride, x[2], k), self.out_pad)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return 2, the batch axis of maps."""
        return hwnc_batch_axis(self, axes)

    def _algorithm(self, ctx: Context, inputs: tuple[Array, ...]) -> ConvAlgorithm:
        x, w = (a.shape for a in inputs[:2])
        outputs, dtype = self.outputs(w), ctx.xp.result_type(*(a.dtype for a in inputs))
        spec = winograd_spec(self.size, w, self.pad, self.stride)
        if spec is None:
            missing = self.pad if x[:2] == self.size else 0
            kind = Mec if uses_mec(w, self.stride) else Im2col
            return kind(w[2:], self.stride, missing, ctx.group, x, outputs, dtype)
        if prefers_filter_parallel(spec, x, outputs, ctx.group):
            return FilterParallelWinograd(spec, self.pad, ctx.group, x, outputs, dtype)
        return Winograd(spec, self.pad, ctx.group, x, outputs, dtype)

    def _epilogue(self, ctx: Context, algorithm: ConvAlgorithm, bias: Array | None, masks: Any = None) -> Epilogue:
        sums = (algorithm.oh, algorithm.ow, algorithm.n, algorithm.k)
        return Epilogue(ctx, sums, algorithm.dtype, self.relu, self.pool, bias, masks, algorithm.images)

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Convolve a chunk, then run its epilogue while it is in the cache."""
        x, w = inputs[:2]
        algorithm = self._algorithm(ctx, inputs)
        u = algorithm.transformed_kernels(ctx, w)
        y = empty_padded(ctx, self.infer(*(a.shape for a in inputs)), self.out_pad, algorithm.dtype)
        epilogue = self._epilogue(ctx, algorithm, inputs[2] if len(inputs) > 2 else None)
        ctx.saved = epilogue.masks
        buffered = self.pool or not (algorithm.scatters or self.out_pad == NO_PADDING)
        for chunk in algorithm.chunks(self.pool_stride):
            outputs = interior(y, self.out_pad)[chunk.output[0], :, chunk.output[1]]
            sums = algorithm.sums(chunk) if buffered else outputs
            algorithm.forward(chunk, x[chunk.input], u, sums)
            epilogue.forward(sums, chunk.output, outputs)
        return y

    def backward(self, ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        """Go back through a chunk's epilogue, then compute both gradients of its convolution."""
        x, w = ctx.inputs[:2]
        algorithm = self._algorithm(ctx, ctx.inputs)
        u = algorithm.transformed_kernels(ctx, w, back=True) if ctx.needs[0] else None
        bias = ctx.inputs[2] if len(ctx.inputs) > 2 and ctx.needs[2] else None
        epilogue = self._epilogue(ctx, algorithm, bias, ctx.saved)
        y, dy = interior(ctx.output, self.out_pad), interior(dy, self.out_pad)
        dx = algorithm.maps_gradient(x.shape) if ctx.needs[0] else None
        dw = algorithm.kernels_gradient(w.shape) if ctx.needs[1] else None
        for number, chunk in enumerate(reversed([*algorithm.chunks(self.pool_stride)])):
            output = (chunk.output[0], ALL, chunk.output[1])
            g = dy[output]
            sums = algorithm.sums(chunk) if self.relu or self.pool else g
            epilogue.backward(g, y[output], chunk.output, sums)
            algorithm.begin_backward(chunk, x[chunk.input], sums)
            if dw is not None:
                algorithm.weight_gradient(dw, add=number > 0)
            if dx is not None:
                algorithm.data_gradient(u, dx[chunk.input])
        return (dx, dw, epilogue.db)[: len(ctx.inputs)]

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield every algorithm, with and without each epilogue and padding."""
        c = WINOGRAD_MIN_CHANNELS
        forms: list[dict[str, Any]] = [
            {},
            {"relu": True, "out_pad": (0, 1, 2, 0)},
            {"pool": True},
            {"relu": True, "pool": True, "out_pad": (1, 3, 1, 2)},
        ]
        for label, x, w, pad, stride in (
            ("tiles of 4", (4, 5, 3, c + 1), (2, c + 1, 3, 3), 1, 1),
            ("tiles of 4, pad 2", (3, 1, 3, c), (3, c, 3, 3), 2, 1),
            ("maps of 2x2", (2, 2, 3, c), (c + 1, c, 3, 3), 1, 1),
            ("few images, many kernels", (5, 4, 2, c + 1), (c, c + 1, 3, 3), 1, 1),
            ("maps of 2x2, few images", (2, 2, 2, c), (c + 1, c, 3, 3), 1, 1),
            ("one channel", (9, 6, 3, 1), (2, 1, 3, 3), 1, 1),
            ("few channels, stride 3", (7, 8, 3, 2), (3, 2, 3, 2), 3, 3),
            ("windows of 5x4", (4, 5, 3, 5), (2, 5, 5, 4), 2, 1),
            ("windows, stride 3", (6, 8, 3, 5), (3, 5, 3, 2), 4, 3),
            ("windows of one", (5, 3, 3, 5), (2, 5, 1, 1), 0, 1),
        ):
            for form in forms:
                build = partial(_case, x[:2], w, pad, stride, **form)
                name = ", ".join([label, *(f"{k} {v}" for k, v in form.items())])
                yield Case(name, build, (real(*x), real(*w), real(w[0])))
            build = partial(_case, x[:2], w, pad, stride, out_pad=(0, 1, 0, 0))
            yield Case(f"{label}, no bias, padded", build, (real(*x), real(*w)))
        for label, x, w, pad, stride in (
            ("many tiles of 4", (11, 5, 2, c), (2, c, 3, 3), 1, 1),
            ("tiles of 4, tall", (5, 4, 2, 10), (2, 10, 3, 3), 1, 1),
            ("many rows of tiles", (18, 5, 2, c), (2, c, 3, 3), 1, 1),
            ("many rows of tiles, pad 2", (15, 4, 2, c), (2, c, 3, 3), 2, 1),
            ("windows of one, stride 2", (5, 3, 3, 5), (2, 5, 1, 1), 0, 2),
            ("wide rows of tiles", (5, 18, 2, c), (2, c, 3, 3), 1, 1),
            ("few images, wide", (5, 7, 2, c), (c, c, 3, 3), 0, 1),
            ("many channels, stride 2", (3, 4, 2, c), (2, c, 3, 3), 1, 2),
            ("maps of 2x2, pad 2", (2, 2, 2, c), (2, c, 3, 3), 2, 1),
        ):
            yield Case(label, partial(_case, x[:2], w, pad, stride), (real(*x), real(*w)))
        build = partial(_case, (16, 4), (2, c, 3, 3), 1, 1, pool=True)
        yield Case("many rows of tiles, pooled", build, (real(16, 4, 2, c), real(2, c, 3, 3)))
        once = partial(_case, (4, 4), (c, c, 3, 3), 1, 1)
        draws = (real(4, 4, 2, c), real(c, c, 3, 3))
        yield Case(
            "few images, kernels used twice",
            lambda x, w: once(once(StopGradient(x), w), w),
            draws,
            zero=(0,),
            surrogate=True,
        )


def conv(x: Node, w: Node, b: Node | None, pad: int, stride: int) -> Node:
    """Return the convolution of maps x (H, W, N, C), zero-padded where its algorithm needs that.

    Padding of no width stays: it makes transposed images contiguous, once rather than at every read of a window.
    """
    assert x.shape is not None
    assert w.shape is not None
    size = x.shape[:2]
    return Conv(ZeroPad(x, padding(size, w.shape, pad, stride)), w, b, size=size, pad=pad, stride=stride)


def padding(maps: Shape, w: Shape, pad: int, stride: int) -> Padding:
    """Return the zero padding that maps (H, W) need for kernels (K, C, FH, FW).

    Winograd needs none, nor do im2col and MEC with a stride, which read few pixels twice.
    """
    return NO_PADDING if stride > 1 or winograd_spec(maps, w, pad, stride) else (pad, pad, pad, pad)


def winograd_spec(maps: Shape, w: Shape, pad: int, stride: int) -> WinogradSpec | None:
    """Return the Winograd algorithm for maps (H, W) and kernels (K, C, FH, FW), or None where im2col or MEC is used."""
    if w[2:] != (3, 3) or stride != 1 or w[1] < WINOGRAD_MIN_CHANNELS or pad > 2:  # a tile must overlap the maps
        return None
    if maps == (2, 2) and pad == 1:
        return F2_PAD1
    return F4 if min(maps) + 2 * pad - 2 > 2 else None


def uses_mec(w: Shape, stride: int) -> bool:
    """Whether MEC takes the place of im2col for kernels (K, C, FH, FW)."""
    return w[1] <= FEW_CHANNELS and (w[2:] != (1, 1) or stride > 1)


def _case(maps: Shape, kernels: Shape, pad: int, stride: int, *inputs: Node, **form: Any) -> Node:
    x, *others = inputs
    return Conv(ZeroPad(x, padding(maps, kernels, pad, stride)), *others, size=maps, pad=pad, stride=stride, **form)
