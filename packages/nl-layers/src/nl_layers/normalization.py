"""Batch normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from nl_layers.module import Layer, LayerCase, Mode
from nl_nodes import Buffer, Mean, Node, Parameter, Reshape, ShapeError
from nl_nodes.arguments import FRACTION, NOT_NEGATIVE
from nl_nodes.cases import positive, real
from nl_nodes.typing import Array


class BatchNormalization(Layer):
    """y = gamma (x - mean) / sqrt(var + eps) + beta, per feature of (N, D) or per channel of (N, C, H, W).

    If D is C H W, x (N, C, H, W) is flattened first in NCHW order, as in `Affine`; y is (N, D).

    Training uses the batch's mean and (biased) variance, over all axes but the feature or channel axis, and updates the
    running statistics as r = momentum r + (1 - momentum) batch; inference uses the running statistics. They start at 0
    and 1. The running variance does not include eps.

    Args:
        gamma: (D,) or (C,).
        beta: (D,) or (C,).
        momentum: decay of the running statistics at each pass.
        eps: added to the variance.

    Raises:
        ShapeError: where x, gamma and beta do not fit, and in training on one value per feature: its variance is 0, so
            no gradient reaches x, and running_var would decay to 0.
        UserError: for a momentum outside [0, 1], or a negative eps.

    Source: Ioffe and Szegedy, Batch Normalization (2015), algorithms 1 and 2; Deep Learning from Scratch, 6.3.
    """

    def __init__(self, gamma: Array, beta: Array, momentum: float = 0.9, eps: float = 1e-5) -> None:
        super().__init__()
        FRACTION.check("BatchNormalization", momentum=momentum)
        NOT_NEGATIVE.check("BatchNormalization", eps=eps)
        self.gamma = Parameter(gamma, "gamma")
        self.beta = Parameter(beta, "beta")
        self.running_mean = Buffer.filled(0.0, self.gamma.value, "running_mean")
        self.running_var = Buffer.filled(1.0, self.gamma.value, "running_var")
        self.momentum, self.eps = momentum, eps
        shapes = (tuple(self.gamma.value.shape), tuple(self.beta.value.shape))
        if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
            raise ShapeError(f"BatchNormalization: gamma and beta must both be (D,), got {shapes[0]} and {shapes[1]}")

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> centre -> scale by Power -> Mul by gamma -> Add beta."""
        x = inputs[0]
        features = self.gamma.value.shape[0]
        if x.shape is not None and len(x.shape) > 2 and x.shape[1] != features == prod(x.shape[1:]):
            x = Reshape(x, (0, -1))
        if x.shape is None or len(x.shape) not in (2, 4) or x.shape[1] != features:
            raise ShapeError(f"BatchNormalization: gamma ({features},) needs (N, {features}[, H, W]), got {x.shape}")
        form = (1, -1, 1, 1)[: len(x.shape)]
        var: Node
        if mode.train:
            axes = tuple(a for a in range(len(x.shape)) if a != 1)
            if prod(x.shape[a] for a in axes) == 1:
                raise ShapeError(
                    f"BatchNormalization: one value per feature in {x.shape} has no variance to train on: "
                    "give batches of 2 or more, or leave batch norm out"
                )
            mean = Mean(x, axes, keepdims=True)
            centred = x - mean
            var = Mean(centred * centred, axes, keepdims=True)
            for running, batch in ((self.running_mean, mean), (self.running_var, var)):
                before = mode.updates.get(running, running)  # of an earlier use in the same pass
                mode.updates[running] = before * self.momentum + Reshape(batch, (-1,)) * (1 - self.momentum)
        else:
            centred = x - Reshape(self.running_mean, form)
            var = Reshape(self.running_var, form)
        normal = centred * (var + self.eps) ** -0.5
        return normal * Reshape(self.gamma, form) + Reshape(self.beta, form)

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Features, images and flattened images, in training and in inference."""
        for train, kind in ((True, "train"), (False, "infer")):
            yield LayerCase(
                f"features, {kind}", lambda draw: cls(draw(positive(4)), draw(real(4))), (real(5, 4),), train
            )
            yield LayerCase(
                f"images, {kind}", lambda draw: cls(draw(real(3)), draw(real(3))), (real(4, 3, 2, 3),), train
            )
            yield LayerCase(
                f"flattened, {kind}", lambda draw: cls(draw(real(6)), draw(real(6))), (real(5, 3, 1, 2),), train
            )
