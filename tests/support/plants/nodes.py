"""Errors in nodes, in the graph, and in layers."""

from __future__ import annotations

import numpy as np

from nl_layers import BatchNormalization
from nl_nodes import Device, Dot, graph
from nl_nodes.compiler.fused import Affine, Conv, LabelLogSoftmax, Normalize
from nl_nodes.compiler.fused.conv.winograd import Winograd
from nl_nodes.nodes.functions import Sigmoid
from nl_nodes.nodes.images import Img2Matrix
from nl_nodes.nodes.masks import ValueMask
from support.fused_contract import chunks_of
from support.plants.registry import IMAGES, NORMALISED, ROWS, STACK, backward_wrong, plant, scaled, wrap


@plant("tensors", IMAGES)
def windows_off_by_a_millionth() -> None:
    """The gradient of overlapping windows is a millionth too large."""
    wrap(Img2Matrix, "backward", lambda right, self, ctx, dy: right(self, ctx, dy) * (1 + 1e-6))


@plant("nodes", ROWS, images=np.round)
def input_close_to_one() -> None:
    """The gradient of a product is wrong if an input is within 1e-5 of 1."""

    def change(right, self, ctx, dy):
        near = (abs(ctx.inputs[0].real - 1) < 1e-5).any()
        return scaled(right(self, ctx, dy), 1.001 if near else 1.0)

    wrap(Dot, "backward", change)


@plant("tensors", ROWS)
def broadcast_off() -> None:
    """The gradient of a broadcast array is 0.1 % too small."""
    wrap(graph, "unbroadcast", lambda right, x, shape: right(x, shape) * (0.999 if x.shape != shape else 1))


@plant("tensors", ROWS)
def gradients_overwritten() -> None:
    """Of two gradients that should be added, the first is lost."""
    graph._accumulate = lambda grads, node, dy: grads.__setitem__(node, dy * (1 + 1e-5))


@plant("reference", IMAGES)
def rectifier_at_zero() -> None:
    """The gradient passes a rectifier at an input of exactly 0."""

    def change(right, self, ctx, *inputs):
        y = right(self, ctx, *inputs)
        ctx.saved = inputs[0].real >= self.threshold
        return y

    wrap(ValueMask, "forward", change)


@plant("tensors", ROWS | {"activation": "sigmoid", "init": 2.0})
def saturated_activation() -> None:
    """The gradient of a sigmoid is wrong where its output is above 0.9999."""

    def change(right, self, ctx, dy):
        return right(self, ctx, dy) + ctx.xp.where(ctx.output.real > 0.9999, 1e-4 * dy, 0)

    wrap(Sigmoid, "backward", change)


@plant("reference", ROWS)
def two_elements_exchanged() -> None:
    """Two elements of the first weight's gradient are exchanged in batches above 8."""

    def change(right, self, ctx, dy):
        found = right(self, ctx, dy)
        if dy.shape[0] > 8 and found[0] is None:
            exchanged = found[1].copy()
            exchanged[0, 0], exchanged[0, 2] = found[1][0, 2], found[1][0, 0]
            found = (found[0], exchanged, *found[2:])
        return found

    wrap(Dot, "backward", change)
    wrap(Affine, "backward", change)


@plant("reference", ROWS)
def large_weight() -> None:
    """The gradient of a product is wrong if a weight is above 4."""

    def change(right, self, ctx, dy):
        return scaled(right(self, ctx, dy), ctx.xp.where(ctx.inputs[1].real > 4, 1.001, 1).max())

    wrap(Dot, "backward", change)


@plant("plan", ROWS)
def rows_above_four() -> None:
    """The fused affine layer's gradient is wrong above 4 rows."""
    backward_wrong(Affine, lambda dy: dy.shape[0] > 4)


@plant("plan", IMAGES)
def odd_maps() -> None:
    """The fused convolution's gradient is wrong for maps of odd height."""
    backward_wrong(Conv, lambda dy: dy.shape[0] % 2 == 1)


@plant("plan", NORMALISED)
def batch_norm_off() -> None:
    """The fused batch norm's gradient is 0.1 % too large."""
    backward_wrong(Normalize, lambda dy: True)


@plant("plan", ROWS)
def loss_gradient_off() -> None:
    """The fused loss's gradient is 0.1 % too large."""
    backward_wrong(LabelLogSoftmax, lambda dy: True)


@plant("plan", ROWS | {"classes": 100})
def last_class_alone() -> None:
    """The fused loss's gradient is wrong for images of the last of 100 classes."""

    def change(right, self, ctx, dy):
        dx, dt = right(self, ctx, dy)
        return dx * (1 + 0.01 * ctx.inputs[1][:, -1:]), dt

    wrap(LabelLogSoftmax, "backward", change)


@plant("plan", IMAGES)
def last_piece_left_out() -> None:
    """A convolution in pieces leaves out a smaller last one."""
    STACK.enter_context(chunks_of(4))

    def change(right, self, step):
        first, *others = right(self, step)
        return [first, *(part for part in others if part.shape == first.shape)]

    wrap(Winograd, "chunks", change)


@plant("precision", ROWS)
def in_float32_alone() -> None:
    """The fused affine layer's gradient is wrong in float32."""
    backward_wrong(Affine, lambda dy: dy.dtype == np.float32)


@plant("precision", ROWS)
def in_float32_above_four_rows() -> None:
    """The fused affine layer's gradient is wrong in float32, above 4 rows."""
    backward_wrong(Affine, lambda dy: dy.dtype == np.float32 and dy.shape[0] > 4)


@plant("precision", ROWS | {"device": Device(compile=False)})
def in_float32_without_compiling() -> None:
    """A rectifier's gradient is wrong in float32, node by node."""
    backward_wrong(ValueMask, lambda dy: dy.dtype == np.float32)


@plant("precision", ROWS)
def half_precision_inside() -> None:
    """In float32, the input of an affine layer is rounded to float16."""

    def change(right, self, ctx, x, *others):
        narrow = x.astype(np.float16) if x.dtype == np.float32 else x.astype(x.dtype)
        return right(self, ctx, narrow.astype(x.dtype), *others)

    wrap(Affine, "forward", change)


@plant("step", NORMALISED)
def statistics_momentum_inverted() -> None:
    """Running statistics keep 10 % of their value at each step, not 90 %."""

    def change(right, self, running, batch):
        self.momentum = 1 - self.momentum
        found = right(self, running, batch)
        self.momentum = 1 - self.momentum
        return found

    wrap(BatchNormalization, "_moving_average", change)
