"""Losses: the mean over a batch, with labels as class indices (N,) or rows (N, K), one-hot or soft."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from nl_layers.activations import shifted
from nl_layers.labels import checked_labels, shape_of
from nl_layers.module import Drawing, LayerCase, Mode, Module
from nl_nodes import (
    Exp,
    Log,
    MaskedMul,
    Mean,
    Node,
    OneHot,
    Reshape,
    Softplus,
    StopGradient,
    Sum,
    UserError,
)
from nl_nodes.arguments import NOT_NEGATIVE, SHARE
from nl_nodes.cases import labels, real, unit
from nl_nodes.typing import Array

GRADIENTS = ("stable", "exact", "textbook")


class Loss(Module, abstract=True):
    """Base of losses, which wire predictions and labels to a scalar.

    Attributes:
        largest: upper bound of the values in a row of labels, or None.
    """

    feeds = ("x", "t")
    largest: float | None = None

    def forward(self, x: Array, t: Any) -> Array:
        """Return the mean loss of predictions x (N, K) and labels t (N,) or (N, K).

        Raises:
            ShapeError, UserError: for invalid labels; see `nl_layers.labels.checked_labels`.
        """
        return self._forward((x, checked_labels(type(self).__name__, t, shape_of(x), self.largest)), train=True)

    def backward(self, dy: Any = 1) -> Array:
        """Return the gradient of the predictions, multiplied by the upstream gradient dy."""
        return self._backward(dy)


class CrossEntropy(Loss):
    """-mean over n of sum over k of t log(y + eta), of probabilities y (N, K); terms with t = 0 are 0.

    Args:
        eta: added to y, so that the logarithm is finite.

    Source: Deep Learning from Scratch, 4.2.2 and 4.2.4.
    """

    def __init__(self, eta: float = 1e-7) -> None:
        super().__init__()
        NOT_NEGATIVE.check("CrossEntropy", eta=eta)
        self.eta = eta

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """(y, t) -> AddConst -> Log -> MaskedMul by OneHot -> Sum -> Mean."""
        return cross_entropy(Log(inputs[0] + self.eta), inputs[1])

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Class indices and rows."""
        yield LayerCase("integers", lambda draw: cls(), (unit(4, 3), labels(4, classes=3)))
        yield LayerCase("rows", lambda draw: cls(), (unit(4, 3), labels(4, 3, classes=2)))


class SoftmaxWithLoss(Loss):
    """The cross-entropy of softmax(x), x (N, K), in one of three forms, equal in value up to eta.

    Args:
        gradient: "stable": -mean of log-softmax at the label, with its gradient (softmax(x) - t) / N;
            "exact": log(softmax(x) + eta), with its exact gradient, which vanishes where softmax(x) is below eta;
            "textbook": the same value with the gradient (softmax(x) - t) / N, which is not its own.
        eta: added inside the logarithm by "exact" and "textbook".
        label_smoothing: share e of each label that is spread evenly over the K classes in training: the labels are
            t (1 - e) + e / K, as in PyTorch. The loss of an evaluation has the labels as they are.

    Raises:
        UserError: for another value of `gradient`, a negative `eta`, or `label_smoothing` outside [0, 1).

    Source: Deep Learning from Scratch, 5.6.3 and appendix A; Szegedy et al., Rethinking the Inception Architecture
    (2016), section 7.
    """

    def __init__(self, gradient: str = "stable", eta: float = 1e-7, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if gradient not in GRADIENTS:
            raise UserError(f"SoftmaxWithLoss: gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
        NOT_NEGATIVE.check("SoftmaxWithLoss", eta=eta)
        SHARE.check("SoftmaxWithLoss", label_smoothing=label_smoothing)
        self.gradient, self.eta, self.label_smoothing = gradient, eta, label_smoothing

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """(x, t) -> shift -> log-softmax or log(softmax + eta) -> MaskedMul by OneHot, smoothed -> Sum -> Mean."""
        x, t = inputs
        smoothing = self.label_smoothing if mode.train else 0.0
        u = shifted(x)
        e = Exp(u)
        total = Sum(e, axis=-1, keepdims=True)
        stable = cross_entropy(u - Log(total), t, smoothing)
        if self.gradient == "stable":
            return stable
        exact = cross_entropy(Log(e / total + self.eta), t, smoothing)
        if self.gradient == "exact":
            return exact
        # The exact value with the stable form's gradient: the added term is exactly 0.
        return StopGradient(exact) + (stable - StopGradient(stable))

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Every form, on class indices and rows, as they are and smoothed."""
        for gradient in GRADIENTS:
            for kind, t in (("integers", labels(4, classes=3)), ("rows", labels(4, 3, classes=2))):
                for smoothing, suffix in ((0.0, ""), (0.1, ", smoothed")):
                    make, surrogate = partial(cls._case, gradient, smoothing), gradient == "textbook"
                    yield LayerCase(f"{gradient}, {kind}{suffix}", make, (real(4, 3), t), surrogate=surrogate)

    @classmethod
    def _case(cls, gradient: str, smoothing: float, draw: Drawing) -> SoftmaxWithLoss:
        return cls(gradient, label_smoothing=smoothing)


class SigmoidWithLoss(Loss):
    """The binary cross-entropy of sigmoid(x): mean over n of sum over k of t log(1 + e^-x) + (1 - t) log(1 + e^x).

    x is (N, K), (N, 1) or (N,); labels (N,) for predictions (N,) or (N, 1) are targets 0 or 1, or soft ones between,
    else class indices.

    Source: Deep Learning from Scratch 2, 4.2.3; the form from logits is elementary.
    """

    largest = 1

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """(x, t) -> Softplus of -x and of x -> MaskedMul by OneHot and by 1 - OneHot -> Add -> Sum -> Mean."""
        x = Reshape(inputs[0], (0, -1))
        t = OneHot(inputs[1], x)
        # Not Softplus(x) - t x: its terms cancel where x is large and correct.
        ones = MaskedMul(t, Softplus(-x))
        zeros = MaskedMul(1 - t, Softplus(x))
        return Mean(Sum(ones + zeros, axis=-1))

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """One value per sample, and several."""
        yield LayerCase("vector", lambda draw: cls(), (real(4), labels(4, classes=2)))
        yield LayerCase("one column", lambda draw: cls(), (real(4, 1), labels(4, classes=2)))
        yield LayerCase("classes", lambda draw: cls(), (real(4, 3), labels(4, classes=3)))
        yield LayerCase("rows", lambda draw: cls(), (real(4, 3), labels(4, 3, classes=2)))


def cross_entropy(logs: Node, t: Node, smoothing: float = 0.0) -> Node:
    """Return `-mean(sum(t * logs, axis=1))`, with `t (1 - smoothing) + smoothing / K` in place of the labels t."""
    rows: Node = OneHot(t, logs)
    if smoothing:
        rows = rows * (1 - smoothing) + smoothing / (logs.shape or ())[-1]
    return -Mean(Sum(MaskedMul(rows, logs), axis=1))
