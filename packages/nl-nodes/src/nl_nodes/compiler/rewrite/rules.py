"""The rewrite rules: fusions, and moves of transpositions and reshapes that let fusions match."""

from __future__ import annotations

from typing import Any

from nl_nodes.compiler.fused import (
    Affine,
    ChannelMean,
    ChannelVariance,
    Conv,
    LabelLogSoftmax,
    Normalize,
    Pool,
    ZeroPad,
)
from nl_nodes.compiler.fused.conv.node import conv
from nl_nodes.compiler.fused.pad import NO_PADDING, Padding
from nl_nodes.compiler.rewrite.pattern import Pattern, Rule, Setting, op, rule, var
from nl_nodes.node import Node
from nl_nodes.nodes.arithmetic import Add, Elementwise, MaskedMul, Mul, MulConst
from nl_nodes.nodes.functions import Exp, Log
from nl_nodes.nodes.images import Img2Matrix
from nl_nodes.nodes.labels import OneHot
from nl_nodes.nodes.masks import ValueMask
from nl_nodes.nodes.reductions import Max, Mean, Sum
from nl_nodes.nodes.structure import Pad, Reshape, Slice, Transpose
from nl_nodes.shapes import normalise
from nl_nodes.typing import Axis, Shape

TO_MAPS = TO_IMAGES = (2, 3, 0, 1)
"""Axes from images (N, C, H, W) to maps (H, W, N, C), and back: the permutation is its own inverse."""

PER_CHANNEL = {4: (1, -1, 1, 1), 2: (1, -1)}
"""The shape of a value per channel that broadcasts over images, or over rows of features, by number of axes."""

REDUCED = {4: (0, 2, 3), 2: (0,)}
"""The axes of images, or of rows of features, other than the channels, by number of axes."""

x, w, b, maps = var("x"), var("w"), var("b"), var("maps")
axes, axis, target = Setting("axes"), Setting("axis"), Setting("target")


def per_channel(values: Pattern) -> Pattern:
    """Return the pattern of a value per channel, reshaped to broadcast: in one rule all to the same shape."""
    return op(Reshape, values, target=target)


# Fusions within a layer.

windows = var("windows", Img2Matrix, fill=0.0)
product = op(Reshape, w) @ windows


@rule(op(Transpose, product, axes=(3, 0, 1, 2)))
def convolution(windows: Img2Matrix, w: Node) -> Node | None:
    """Fuse windows, matrix product and transposition into a convolution on maps."""
    return _convolution(windows, w, None)


@rule(op(Transpose, product + var("row", Reshape, b), axes=(3, 0, 1, 2)))
def convolution_with_bias(windows: Img2Matrix, w: Node, b: Node, row: Node) -> Node | None:
    """Fuse windows, matrix product, bias and transposition into a convolution on maps."""
    k = (w.shape or ())[:1]
    return _convolution(windows, w, b) if (b.shape, row.shape) == (k, (*k, 1, 1, 1)) else None


columns = op(Transpose, op(Img2Matrix, x, height=2, width=2, stride=2, pad=0), axes=(3, 1, 2, 0))
largest = op(Max, op(Reshape, columns, target=(0, 0, 0, -1, 4)), axis=4, keepdims=False)


@rule(op(Transpose, largest, axes=(0, 3, 1, 2)))
def pooling(x: Node) -> Node:
    """Fuse the maximum of adjacent 2x2 windows."""
    return Transpose(Pool(Transpose(x, TO_MAPS)), TO_IMAGES)


@rule(op(Mean, x, axis=axis, keepdims=True))
def channel_mean(x: Node, axis: Axis) -> Node | None:
    """Fuse the mean of each channel of images, or of each feature."""
    return Reshape(ChannelMean(_as_maps(x)), PER_CHANNEL[_ndim(x)]) if _per_channel(axis, x) else None


mean = var("mean", ChannelMean, maps)
centred = x - per_channel(mean)


@rule(op(Mean, centred * centred, axis=axis, keepdims=True))
def channel_variance(x: Node, maps: Node, mean: ChannelMean, axis: Axis, target: Shape) -> Node | None:
    """Fuse the mean square of images, or features, minus the mean of each channel."""
    if not (_is_mean_of(x, maps, target) and _per_channel(axis, x)):
        return None
    return Reshape(ChannelVariance(maps, mean), target)


variance, eps = var("variance", ChannelVariance, maps, mean), Setting("eps")
gamma, beta = var("gamma"), var("beta")


@rule(((x - per_channel(mean)) * (per_channel(variance) + eps) ** -0.5) * per_channel(gamma) + per_channel(beta))
def normalization(
    x: Node, maps: Node, mean: Node, variance: Node, gamma: Node, beta: Node, eps: float, target: Shape
) -> Node | None:
    """Fuse the normalisation of images, or features, by their own mean and variance."""
    if not (_is_mean_of(x, maps, target) and gamma.shape == beta.shape == mean.shape):
        return None
    y = Transpose(Normalize(maps, mean, variance, gamma, beta, eps), TO_IMAGES)
    return y if _ndim(x) == 4 else Reshape(y, (0, -1))


@rule(x @ w + b)
def affine(x: Node, w: Node, b: Node) -> Node | None:
    """Fuse a matrix product and the addition of a row."""
    return Affine(x, w, b) if _matrix(x) and _matrix(w) and b.shape == (w.shape or ())[1:] else None


shifted = x - op(Max, x, axis=-1, keepdims=True)
logs = shifted - op(Log, op(Sum, op(Exp, shifted), axis=-1, keepdims=True))


one_hot = op(OneHot, var("t"), logs)
scale, floor = Setting("scale"), Setting("floor")


@rule(op(Sum, op(MaskedMul, one_hot, logs), axis=1, keepdims=False))
def label_log_softmax(x: Node, t: Node) -> Node | None:
    """Fuse log-softmax at the label, in its stable form."""
    return LabelLogSoftmax(x, OneHot(t, x)) if _matrix(x) else None


@rule(op(Sum, op(MaskedMul, one_hot * scale + floor, logs), axis=1, keepdims=False))
def smoothed_label_log_softmax(x: Node, t: Node, scale: float, floor: float) -> Node | None:
    """Fuse log-softmax at smoothed labels."""
    return LabelLogSoftmax(x, OneHot(t, x) * scale + floor) if _matrix(x) else None


# Canonicalisation, and fusions across layers.


@rule(var("mean", Mean, x))
def mean_as_sum(mean: Mean, x: Node) -> Node | None:
    """Replace a mean by a sum times 1 / count: a sum can be split over the workers."""
    count = 0 if x.shape is None else mean.count(x.shape)
    return MulConst(Sum(x, mean.axis, mean.keepdims), 1 / count) if count else None


@rule(op(Transpose, op(Transpose, x, axes=Setting("inner")), axes=axes))
def cancel_transposes(x: Node, inner: tuple[int, ...], axes: tuple[int, ...]) -> Node | None:
    """Drop two transpositions that cancel."""
    return x if all(inner[a] == i for i, a in enumerate(axes)) else None


@rule(var("node", Elementwise, op(Transpose, x, axes=axes), position_dependent=False))
def sink_transpose_elementwise(node: Node, x: Node, axes: tuple[int, ...]) -> Node:
    """Sink a transposition past an elementwise node, so that transpositions meet and cancel."""
    return Transpose(node.replace((x,)), axes)


@rule(var("node", Elementwise, op(Reshape, x, target=target), position_dependent=False))
def sink_reshape_elementwise(node: Node, x: Node, target: Shape) -> Node:
    """Sink a reshape past an elementwise node, so that the node can be fused into the one before the reshape."""
    return Reshape(node.replace((x,)), target)


images = op(Transpose, maps, axes=TO_IMAGES)


@rule(var("node", (Add, Mul), images, var("row")))
def sink_transpose_channelwise(node: Add | Mul, maps: Node, row: Node) -> Node | None:
    """Sink a transposition past adding or multiplying a value per channel, the last axis of maps."""
    if maps.shape is None or row.shape != (1, maps.shape[3], 1, 1):
        return None
    return Transpose(type(node)(maps, Reshape(row, (-1,))), TO_IMAGES)


@rule(var("node", (Add, Mul), op(Transpose, x, axes=axes), op(Transpose, var("y"), axes=axes)))
def sink_transpose_pairwise(node: Add | Mul, x: Node, y: Node, axes: tuple[int, ...]) -> Node:
    """Sink equal transpositions of both operands past an addition or multiplication."""
    return Transpose(type(node)(x, y), axes)


@rule(var("node", Slice, op(Transpose, x, axes=axes)))
def sink_transpose_slice(node: Slice, x: Node, axes: tuple[int, ...]) -> Node:
    """Sink a transposition past a slice of each axis."""
    return Transpose(node.replace((x,), spans=_in_own_order(node.spans, axes)), axes)


@rule(var("node", Pad, op(Transpose, x, axes=axes)))
def sink_transpose_pad(node: Pad, x: Node, axes: tuple[int, ...]) -> Node:
    """Sink a transposition past zeros around each axis."""
    return Transpose(node.replace((x,), widths=_in_own_order(node.widths, axes)), axes)


@rule(op(Sum, op(Transpose, x, axes=axes), axis=axis, keepdims=False))
def sum_before_transpose(x: Node, axes: tuple[int, ...], axis: Axis) -> Node | None:
    """Drop a transposition before a sum which leaves axes that are in order without it, as the channels of images."""
    reduced = normalise(axis, len(axes))
    left = [a % len(axes) for i, a in enumerate(axes) if i not in reduced]
    return Sum(x, tuple(axes[i] for i in reduced)) if left == sorted(left) else None


@rule(var("node", Reshape, x))
def drop_identity_reshape(node: Node, x: Node) -> Node | None:
    """Drop a reshape to the same shape."""
    return x if node.shape is not None and node.shape == x.shape else None


@rule(var("node", Affine, op(Reshape, images, target=(0, -1)), w, b))
def affine_on_maps(node: Affine, maps: Node, w: Node, b: Node) -> Node | None:
    """Let an affine layer on flattened images take their maps, unless these are one pixel."""
    return node.replace((maps, w, b)) if maps.shape is not None and maps.shape[:2] != (1, 1) else None


plain = {"relu": False, "pool": False, "out_pad": NO_PADDING}
normalised, beside = var("normalised", Normalize, **plain), var("beside")


@rule(normalised + beside, sole="normalised")
def fuse_residual(normalised: Normalize, beside: Node) -> Node | None:
    """Fuse the addition of a residual block's shortcut into the normalisation of its branch."""
    return _with_residual(normalised, beside)


@rule(beside + normalised, sole="normalised")
def fuse_residual_first(normalised: Normalize, beside: Node) -> Node | None:
    """Fuse the addition of a residual block's branch to its shortcut into the normalisation of the branch."""
    return _with_residual(normalised, beside)


@rule(op(ValueMask, var("producer", (Affine, Conv, Normalize), relu=False), threshold=0), sole="producer")
def fuse_relu(producer: Affine | Conv | Normalize) -> Node:
    """Fuse ReLU into the convolution, normalisation or affine layer before it; it leaves zero padding as it is."""
    return producer.replace(relu=True)


@rule(op(Pool, var("producer", (Conv, Normalize), pool=False, out_pad=NO_PADDING), out_pad=NO_PADDING), sole="producer")
def fuse_max_pool(producer: Conv | Normalize) -> Node | None:
    """Fuse max pooling into the convolution or normalisation before it; it commutes with bias and ReLU."""
    return None if _has_residual(producer) else producer.replace(pool=True)


@rule(op(ZeroPad, var("producer", (Conv, Normalize, Pool, ZeroPad)), padding=NO_PADDING))
def drop_no_padding(producer: Conv | Normalize | Pool | ZeroPad) -> Node:
    """Drop padding of no width after a node whose maps are contiguous."""
    return producer


@rule(
    op(ZeroPad, var("producer", (Conv, Normalize, Pool), out_pad=NO_PADDING), padding=Setting("padding")),
    sole="producer",
)
def fuse_padding(producer: Conv | Normalize | Pool, padding: Padding) -> Node:
    """Fuse zero padding into the node before it, which then writes into padded maps."""
    return producer.replace(out_pad=padding)


RULES: tuple[tuple[Rule, ...], ...] = (
    (
        convolution,
        convolution_with_bias,
        pooling,
        channel_variance,
        channel_mean,
        normalization,
        affine,
        label_log_softmax,
        smoothed_label_log_softmax,
    ),
    (
        mean_as_sum,
        cancel_transposes,
        sink_transpose_elementwise,
        sink_reshape_elementwise,
        sink_transpose_channelwise,
        sink_transpose_pairwise,
        sink_transpose_slice,
        sink_transpose_pad,
        sum_before_transpose,
        drop_identity_reshape,
        affine_on_maps,
        fuse_residual,
        fuse_residual_first,
        fuse_relu,
        fuse_max_pool,
        drop_no_padding,
        fuse_padding,
    ),
)
"""Two stages: fusions within a layer, then canonicalisation and fusions across layers."""


def _convolution(windows: Img2Matrix, w: Node, b: Node | None) -> Node | None:
    """Return the convolution, if the windows have the shape of the kernels."""
    (x,) = windows.inputs
    if x.shape is None or w.shape is None or w.shape[1:] != (x.shape[1], windows.height, windows.width):
        return None
    return Transpose(conv(Transpose(x, TO_MAPS), w, b, windows.pad, windows.stride), TO_IMAGES)


def _as_maps(x: Node) -> Node:
    """Transpose images to maps; rows of features are maps of one pixel."""
    return Transpose(x if _ndim(x) == 4 else Reshape(x, (0, -1, 1, 1)), TO_MAPS)


def _per_channel(axis: Axis, x: Node) -> bool:
    """Whether a mean over these axes is over all of images, or of features, except the channels."""
    return _ndim(x) in REDUCED and normalise(axis, _ndim(x)) == REDUCED[_ndim(x)]


def _is_mean_of(x: Node, maps: Node, target: Shape) -> bool:
    """Whether the mean of these maps, reshaped to this target, is that of each channel of the images or features x."""
    if target != PER_CHANNEL.get(_ndim(x)):
        return False
    match maps:
        case Transpose(axes=(2, 3, 0, 1), inputs=(Reshape(inputs=(features,)) as images,)) if features is x:
            return images.shape == (*(x.shape or ()), 1, 1)
        case Transpose(axes=(2, 3, 0, 1), inputs=(images,)):
            return images is x
    return False


def _in_own_order(of_axes: tuple[Any, ...], axes: tuple[int, ...]) -> tuple[Any, ...]:
    """Return what belongs to each axis of a transposed array in the order of the array's own axes."""
    own = [a % len(axes) for a in axes]
    return tuple(of_axes[own.index(i)] for i in range(len(own)))


def _with_residual(normalised: Normalize, beside: Node) -> Node | None:
    """Return the normalisation with an addend of its shape, unless it has one."""
    if normalised.shape is None or beside.shape != normalised.shape or _has_residual(normalised):
        return None
    return normalised.replace((*normalised.inputs, beside))


def _has_residual(node: Node) -> bool:
    return isinstance(node, Normalize) and len(node.inputs) > 5


def _ndim(node: Node) -> int:
    return len(node.shape or ())


def _matrix(node: Node) -> bool:
    return _ndim(node) == 2
