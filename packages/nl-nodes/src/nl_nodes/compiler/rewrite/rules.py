"""The rewrite rules: fusions, and moves of transpositions and reshapes that let fusions match."""

from __future__ import annotations

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
from nl_nodes.compiler.fused.pad import NO_PADDING
from nl_nodes.compiler.rewrite.engine import Rule
from nl_nodes.node import Node
from nl_nodes.nodes.arithmetic import Add, AddConst, Elementwise, MaskedMul, Mul, MulConst, Power
from nl_nodes.nodes.functions import Exp, Log
from nl_nodes.nodes.images import Img2Matrix
from nl_nodes.nodes.labels import OneHot
from nl_nodes.nodes.masks import ValueMask
from nl_nodes.nodes.products import Dot
from nl_nodes.nodes.reductions import Max, Mean, Sum
from nl_nodes.nodes.structure import Reshape, Transpose
from nl_nodes.shapes import normalise

TO_MAPS = TO_IMAGES = (2, 3, 0, 1)
"""Axes from images (N, C, H, W) to maps (H, W, N, C), and back: the permutation is its own inverse."""

PER_CHANNEL = {4: (1, -1, 1, 1), 2: (1, -1)}
"""The shape of a value per channel that broadcasts over images, or over rows of features, by number of axes."""

REDUCED = {4: (0, 2, 3), 2: (0,)}
"""The axes of images, or of rows of features, other than the channels, by number of axes."""


def mean_as_sum(node: Node) -> Node | None:
    """Replace a mean by a sum times 1 / count: a sum can be split over the workers."""
    match node:
        case Mean(inputs=(x,)) if x.shape is not None and node.count(x.shape):
            return MulConst(Sum(x, node.axis, node.keepdims), 1 / node.count(x.shape))
    return None


def convolution(node: Node) -> Node | None:
    """Fuse windows, matrix product, bias and transposition into a convolution on maps."""
    match node:
        case Transpose(
            axes=(3, 0, 1, 2),
            inputs=(
                Add(
                    inputs=(
                        Dot(inputs=(Reshape(inputs=(w,)), Img2Matrix(fill=0.0) as windows)),
                        Reshape(inputs=(b,)) as bias_row,
                    )
                ),
            ),
        ) if w.shape is not None and (b.shape, bias_row.shape) == (w.shape[:1], (w.shape[0], 1, 1, 1)):
            return _convolution(windows, w, b)
        case Transpose(
            axes=(3, 0, 1, 2), inputs=(Dot(inputs=(Reshape(inputs=(w,)), Img2Matrix(fill=0.0) as windows)),)
        ):
            return _convolution(windows, w, None)
    return None


def channel_mean(node: Node) -> Node | None:
    """Fuse the mean of each channel of images, or of each feature."""
    match node:
        case Mean(keepdims=True, inputs=(x,)) as mean if _per_channel(mean):
            return Reshape(ChannelMean(_as_maps(x)), PER_CHANNEL[_ndim(x)])
    return None


def channel_variance(node: Node) -> Node | None:
    """Fuse the mean square of images, or features, minus the mean of each channel."""
    match node:
        case (
            Mean(
                keepdims=True,
                inputs=(
                    Mul(
                        inputs=(
                            Add(
                                inputs=(x, MulConst(c=-1, inputs=(Reshape(inputs=(ChannelMean() as mean,)) as row,)))
                            ) as centred,
                            factor,
                        )
                    ),
                ),
            ) as square
        ) if centred is factor and _per_channel(square) and _is_mean_of(mean, x) and _broadcasts(row, x):
            return Reshape(ChannelVariance(mean.inputs[0], mean), PER_CHANNEL[_ndim(x)])
    return None


def normalization(node: Node) -> Node | None:
    """Fuse the normalisation of images, or features, by their own mean and variance."""
    match node:
        case Add(
            inputs=(
                Mul(
                    inputs=(
                        Mul(
                            inputs=(
                                Add(
                                    inputs=(
                                        x,
                                        MulConst(c=-1, inputs=(Reshape(inputs=(ChannelMean() as mean,)) as mean_row,)),
                                    )
                                ),
                                Power(
                                    p=-0.5,
                                    inputs=(
                                        AddConst(
                                            c=eps,
                                            inputs=(Reshape(inputs=(ChannelVariance() as variance,)) as variance_row,),
                                        ),
                                    ),
                                ),
                            )
                        ),
                        Reshape(inputs=(gamma,)) as gamma_row,
                    )
                ),
                Reshape(inputs=(beta,)) as beta_row,
            )
        ) if (
            all(_broadcasts(row, x) for row in (mean_row, variance_row, gamma_row, beta_row))
            and gamma.shape == beta.shape == mean.shape
            and variance.inputs[1] is mean
            and _is_mean_of(mean, x)
        ):
            images = Transpose(Normalize(mean.inputs[0], mean, variance, gamma, beta, eps), TO_IMAGES)
            return images if _ndim(x) == 4 else Reshape(images, (0, -1))
    return None


def fuse_relu(node: Node) -> Node | None:
    """Fuse ReLU into the convolution, normalisation or affine layer before it."""
    match node:
        case ValueMask(threshold=0, inputs=(Conv(relu=False, out_pad=(0, 0, 0, 0)) as producer,)):
            return producer.replace(relu=True)
        case ValueMask(threshold=0, inputs=(Normalize(relu=False, out_pad=(0, 0, 0, 0)) as producer,)):
            return producer.replace(relu=True)
        case ValueMask(threshold=0, inputs=(Affine(relu=False) as producer,)):
            return producer.replace(relu=True)
    return None


def pooling(node: Node) -> Node | None:
    """Fuse the maximum of adjacent 2x2 windows."""
    match node:
        case Transpose(
            axes=(0, 3, 1, 2),
            inputs=(
                Max(
                    axis=4,
                    keepdims=False,
                    inputs=(
                        Reshape(target=(0, 0, 0, -1, 4), inputs=(Transpose(axes=(3, 1, 2, 0), inputs=(windows,)),)),
                    ),
                ),
            ),
        ):
            pass
        case _:
            return None
    match windows:
        case Img2Matrix(height=2, width=2, stride=2, pad=0, inputs=(x,)):
            return Transpose(Pool(Transpose(x, TO_MAPS)), TO_IMAGES)
    return None


def fuse_max_pool(node: Node) -> Node | None:
    """Fuse max pooling into the convolution or normalisation before it; it commutes with bias and ReLU."""
    match node:
        case Pool(out_pad=(0, 0, 0, 0), inputs=((Conv() | Normalize()) as producer,)):
            if not producer.pool and producer.out_pad == NO_PADDING:
                return producer.replace(pool=True)
    return None


def fuse_padding(node: Node) -> Node | None:
    """Fuse zero padding into the node before it, which then writes into padded maps."""
    match node:
        case ZeroPad(inputs=((Conv() | Normalize() | Pool()) as producer,)) if producer.out_pad == NO_PADDING:
            return producer.replace(out_pad=node.padding)
    return None


def sink_transpose_channelwise(node: Node) -> Node | None:
    """Sink a transposition past adding or multiplying a value per channel, the last axis of maps."""
    match node:
        case Add(inputs=(x, row)) | Mul(inputs=(x, row)):
            maps = _maps_of(x)
            if maps is not None and maps.shape is not None and row.shape == (1, maps.shape[3], 1, 1):
                return Transpose(type(node)(maps, Reshape(row, (-1,))), TO_IMAGES)
    return None


def affine(node: Node) -> Node | None:
    """Fuse a matrix product and the addition of a row."""
    match node:
        case Add(inputs=(Dot(inputs=(x, w)), b)) if _matrix(x) and _matrix(w) and b.shape == (w.shape or ())[1:]:
            return Affine(x, w, b)
    return None


def affine_on_maps(node: Node) -> Node | None:
    """Let an affine layer on flattened images take their maps, unless these are one pixel."""
    match node:
        case Affine(inputs=(Reshape(target=(0, -1), inputs=(images,)), w, b)):
            maps = _maps_of(images)
            if maps is not None and maps.shape is not None and maps.shape[:2] != (1, 1):
                return node.replace((maps, w, b))
    return None


def label_log_softmax(node: Node) -> Node | None:
    """Fuse log-softmax at the label, in its stable form."""
    match node:
        case Sum(
            axis=1,
            keepdims=False,
            inputs=(
                MaskedMul(
                    inputs=(
                        OneHot() as t,
                        Add(
                            inputs=(
                                Add(
                                    inputs=(x, MulConst(c=-1, inputs=(Max(axis=-1, keepdims=True, inputs=(largest,)),)))
                                ) as shifted,
                                MulConst(
                                    c=-1,
                                    inputs=(Log(inputs=(Sum(axis=-1, keepdims=True, inputs=(Exp(inputs=(e,)),)),)),),
                                ),
                            )
                        ) as logs,
                    )
                ),
            ),
        ) if largest is x and e is shifted and t.inputs[1] is logs and _matrix(x):
            return LabelLogSoftmax(x, OneHot(t.inputs[0], x))
    return None


def drop_identity_reshape(node: Node) -> Node | None:
    """Drop a reshape to the same shape."""
    match node:
        case Reshape(inputs=(x,)) if node.shape is not None and node.shape == x.shape:
            return x
    return None


def cancel_transposes(node: Node) -> Node | None:
    """Drop two transpositions that cancel."""
    match node:
        case Transpose(inputs=(Transpose(inputs=(x,)) as inner,)):
            if all(inner.axes[a] == i for i, a in enumerate(node.axes)):
                return x
    return None


def sink_transpose_elementwise(node: Node) -> Node | None:
    """Sink a transposition past an elementwise node, so that transpositions meet and cancel."""
    match node:
        case Elementwise(position_dependent=False, inputs=(Transpose(inputs=(x,)) as moved,)):
            return Transpose(node.replace((x,)), moved.axes)
    return None


def sink_reshape_elementwise(node: Node) -> Node | None:
    """Sink a reshape past an elementwise node, so that the node can be fused into the one before the reshape."""
    match node:
        case Elementwise(position_dependent=False, inputs=(Reshape(inputs=(x,)) as moved,)):
            return Reshape(node.replace((x,)), moved.target)
    return None


def sink_transpose_pairwise(node: Node) -> Node | None:
    """Sink equal transpositions of both operands past an addition or multiplication."""
    match node:
        case Add(inputs=(Transpose() as a, Transpose() as b)) | Mul(inputs=(Transpose() as a, Transpose() as b)):
            if a.axes == b.axes:
                return Transpose(type(node)(a.inputs[0], b.inputs[0]), a.axes)
    return None


RULES: tuple[tuple[Rule, ...], ...] = (
    (convolution, pooling, channel_variance, channel_mean, normalization, affine, label_log_softmax),
    (
        mean_as_sum,
        cancel_transposes,
        sink_transpose_elementwise,
        sink_reshape_elementwise,
        sink_transpose_channelwise,
        sink_transpose_pairwise,
        drop_identity_reshape,
        affine_on_maps,
        fuse_relu,
        fuse_max_pool,
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


def _maps_of(x: Node) -> Node | None:
    """Return the maps whose transposition x is, or None."""
    return x.inputs[0] if isinstance(x, Transpose) and x.axes == TO_IMAGES else None


def _as_maps(x: Node) -> Node:
    """Transpose images to maps; rows of features are maps of one pixel."""
    return Transpose(x if _ndim(x) == 4 else Reshape(x, (0, -1, 1, 1)), TO_MAPS)


def _per_channel(mean: Mean) -> bool:
    """Whether a mean is over all axes of images, or of features, except the channels."""
    ndim = _ndim(mean.inputs[0])
    return ndim in REDUCED and normalise(mean.axis, ndim) == REDUCED[ndim]


def _broadcasts(row: Reshape, x: Node) -> bool:
    """Whether a value per channel is reshaped to broadcast along the channels of x, not along another axis."""
    return row.target == PER_CHANNEL.get(_ndim(x))


def _is_mean_of(mean: ChannelMean, x: Node) -> bool:
    """Whether a mean is that of the images or features x."""
    match mean.inputs[0]:
        case Transpose(axes=(2, 3, 0, 1), inputs=(Reshape(inputs=(features,)) as images,)) if features is x:
            return images.shape == (*(x.shape or ()), 1, 1)
        case Transpose(axes=(2, 3, 0, 1), inputs=(images,)):
            return images is x
    return False


def _ndim(node: Node) -> int:
    return len(node.shape or ())


def _matrix(node: Node) -> bool:
    return _ndim(node) == 2
