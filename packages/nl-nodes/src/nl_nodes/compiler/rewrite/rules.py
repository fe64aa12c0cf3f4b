"""The rules: each a pattern of nodes, what takes its place, and when."""

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
"""From images (N, C, H, W) to maps (H, W, N, C), and back: the same exchange."""

PER_CHANNEL = {4: (1, -1, 1, 1), 2: (1, -1)}
"""The shape of a number for each channel, beside images or rows of features."""

OTHERS = {4: (0, 2, 3), 2: (0,)}
"""The axes of images, or of rows of features, but that of the channels."""


def mean_as_sum(node: Node) -> Node | None:
    """A mean is a sum times a number; a sum can be shared among workers."""
    match node:
        case Mean(inputs=(x,)) if x.shape is not None and node.count(x.shape):
            return MulConst(Sum(x, node.axis, node.keepdims), 1 / node.count(x.shape))
    return None


def convolution(node: Node) -> Node | None:
    """Windows, a matrix product, a bias, a transposition: a convolution on maps."""
    match node:
        case Transpose(
            axes=(3, 0, 1, 2),
            inputs=(
                Add(
                    inputs=(
                        Dot(inputs=(Reshape(inputs=(w,)), Img2Matrix(fill=0.0) as windows)),
                        Reshape(inputs=(b,)) as plus,
                    )
                ),
            ),
        ) if w.shape is not None and (b.shape, plus.shape) == (w.shape[:1], (w.shape[0], 1, 1, 1)):
            return _convolution(windows, w, b)
        case Transpose(
            axes=(3, 0, 1, 2), inputs=(Dot(inputs=(Reshape(inputs=(w,)), Img2Matrix(fill=0.0) as windows)),)
        ):
            return _convolution(windows, w, None)
    return None


def channel_mean(node: Node) -> Node | None:
    """The mean of each channel of images, or of each feature."""
    match node:
        case Mean(keepdims=True, inputs=(x,)) as mean if _per_channel(mean):
            return Reshape(ChannelMean(_channels(x)), PER_CHANNEL[_ndim(x)])
    return None


def channel_variance(node: Node) -> Node | None:
    """The mean square of what is left of images, or features, without the mean of each channel."""
    match node:
        case (
            Mean(
                keepdims=True,
                inputs=(
                    Mul(
                        inputs=(
                            Add(
                                inputs=(x, MulConst(c=-1, inputs=(Reshape(inputs=(ChannelMean() as mean,)) as row,)))
                            ) as one,
                            other,
                        )
                    ),
                ),
            ) as square
        ) if one is other and _per_channel(square) and _sees(mean, x) and _beside(row, x):
            return Reshape(ChannelVariance(mean.inputs[0], mean), PER_CHANNEL[_ndim(x)])
    return None


def normalization(node: Node) -> Node | None:
    """Batch normalisation of images, or features, by their own mean and variance."""
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
                                        MulConst(c=-1, inputs=(Reshape(inputs=(ChannelMean() as mean,)) as minus,)),
                                    )
                                ),
                                Power(
                                    p=-0.5,
                                    inputs=(
                                        AddConst(
                                            c=eps, inputs=(Reshape(inputs=(ChannelVariance() as variance,)) as scale,)
                                        ),
                                    ),
                                ),
                            )
                        ),
                        Reshape(inputs=(gamma,)) as by,
                    )
                ),
                Reshape(inputs=(beta,)) as plus,
            )
        ) if (
            all(_beside(row, x) for row in (minus, scale, by, plus))
            and gamma.shape == beta.shape == mean.shape
            and variance.inputs[1] is mean
            and _sees(mean, x)
        ):
            images = Transpose(Normalize(mean.inputs[0], mean, variance, gamma, beta, eps), TO_IMAGES)
            return images if _ndim(x) == 4 else Reshape(images, (0, -1))
    return None


def fuse_relu(node: Node) -> Node | None:
    """A rectifier behind a convolution, a normalisation or an affine layer."""
    match node:
        case ValueMask(threshold=0, inputs=(Conv(relu=False, frame=(0, 0, 0, 0)) as made,)):
            return made.replace(relu=True)
        case ValueMask(threshold=0, inputs=(Normalize(relu=False, frame=(0, 0, 0, 0)) as made,)):
            return made.replace(relu=True)
        case ValueMask(threshold=0, inputs=(Affine(relu=False) as made,)):
            return made.replace(relu=True)
    return None


def pooling(node: Node) -> Node | None:
    """Windows of 2x2 that touch, and their maximum."""
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
    """Pooling behind a convolution or a normalisation, where it commutes with what these end in."""
    match node:
        case Pool(frame=(0, 0, 0, 0), inputs=((Conv() | Normalize()) as made,)):
            if not made.pool and made.frame == NO_PADDING:
                return made.replace(pool=True)
    return None


def fuse_padding(node: Node) -> Node | None:
    """A frame around maps: what makes them writes into it."""
    match node:
        case ZeroPad(inputs=((Conv() | Normalize() | Pool()) as made,)) if made.frame == NO_PADDING:
            return made.replace(frame=node.padding)
    return None


def sink_transpose_channelwise(node: Node) -> Node | None:
    """A number for each channel of images, added or multiplied: of maps it is the last axis."""
    match node:
        case Add(inputs=(x, row)) | Mul(inputs=(x, row)):
            maps = _unmapped(x)
            if maps is not None and maps.shape is not None and row.shape == (1, maps.shape[3], 1, 1):
                return Transpose(type(node)(maps, Reshape(row, (-1,))), TO_IMAGES)
    return None


def affine(node: Node) -> Node | None:
    """A matrix product and a row added to it."""
    match node:
        case Add(inputs=(Dot(inputs=(x, w)), b)) if _matrix(x) and _matrix(w) and b.shape == (w.shape or ())[1:]:
            return Affine(x, w, b)
    return None


def affine_on_maps(node: Node) -> Node | None:
    """An affine layer on images made of maps, flattened: on the maps themselves, unless they are one pixel."""
    match node:
        case Affine(inputs=(Reshape(target=(0, -1), inputs=(images,)), w, b)):
            maps = _unmapped(images)
            if maps is not None and maps.shape is not None and maps.shape[:2] != (1, 1):
                return node.replace((maps, w, b))
    return None


def label_log_softmax(node: Node) -> Node | None:
    """The label's part of log-softmax, in the stable form."""
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
    """A reshape that changes nothing."""
    match node:
        case Reshape(inputs=(x,)) if node.shape is not None and node.shape == x.shape:
            return x
    return None


def cancel_transposes(node: Node) -> Node | None:
    """Two transpositions that undo each other."""
    match node:
        case Transpose(inputs=(Transpose(inputs=(x,)) as inner,)):
            if all(inner.axes[a] == i for i, a in enumerate(node.axes)):
                return x
    return None


def sink_transpose_elementwise(node: Node) -> Node | None:
    """What works element by element does so on either side of a transposition; before it, others can meet."""
    match node:
        case Elementwise(position_dependent=False, inputs=(Transpose(inputs=(x,)) as moved,)):
            return Transpose(node.replace((x,)), moved.axes)
    return None


def sink_reshape_elementwise(node: Node) -> Node | None:
    """What works element by element does so in any shape; before a reshape, it meets what it follows."""
    match node:
        case Elementwise(position_dependent=False, inputs=(Reshape(inputs=(x,)) as moved,)):
            return Reshape(node.replace((x,)), moved.target)
    return None


def sink_transpose_pairwise(node: Node) -> Node | None:
    """Two transposed alike, added or multiplied."""
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
"""In two stages: what a layer is, then how layers come together."""


def _convolution(windows: Img2Matrix, w: Node, b: Node | None) -> Node | None:
    """The convolution, where the windows have the form of the kernels."""
    (x,) = windows.inputs
    if x.shape is None or w.shape is None or w.shape[1:] != (x.shape[1], windows.height, windows.width):
        return None
    return Transpose(conv(Transpose(x, TO_MAPS), w, b, windows.pad, windows.stride), TO_IMAGES)


def _unmapped(x: Node) -> Node | None:
    """The maps that images were made of."""
    return x.inputs[0] if isinstance(x, Transpose) and x.axes == TO_IMAGES else None


def _channels(x: Node) -> Node:
    """The maps of images, or those of one pixel that rows of features are."""
    return Transpose(x if _ndim(x) == 4 else Reshape(x, (0, -1, 1, 1)), TO_MAPS)


def _per_channel(mean: Mean) -> bool:
    """Whether it is the mean over all axes of images, or of features, but that of the channels."""
    ndim = _ndim(mean.inputs[0])
    return ndim in OTHERS and normalise(mean.axis, ndim) == OTHERS[ndim]


def _beside(row: Reshape, x: Node) -> bool:
    """Whether a number for each channel is spread over the channels of x, and not over another axis."""
    return row.target == PER_CHANNEL.get(_ndim(x))


def _sees(mean: ChannelMean, x: Node) -> bool:
    """Whether it is the mean of these images or features."""
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
