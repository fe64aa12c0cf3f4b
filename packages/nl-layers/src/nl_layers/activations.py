"""Activations: ReLU, sigmoid, tanh and softmax."""

from __future__ import annotations

from collections.abc import Iterator

from nl_layers.module import Layer, LayerCase, Mode
from nl_nodes import Exp, Max, Node, Sum, ValueMask, nodes
from nl_nodes.cases import away, real


class Relu(Layer):
    """y = max(x, 0). Any shape; the gradient at 0 is 0, and NaN propagates.

    Source: Nair and Hinton, Rectified Linear Units (2010); Deep Learning from Scratch, 5.5.1.
    """

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> ValueMask."""
        return ValueMask(inputs[0])

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Features and images."""
        yield LayerCase("features", lambda draw: cls(), (away(3, 4),))
        yield LayerCase("images", lambda draw: cls(), (away(2, 3, 4, 4),))


class Sigmoid(Layer):
    """y = 1 / (1 + e^-x). Any shape.

    Source: Deep Learning from Scratch, 5.5.2.
    """

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> Sigmoid."""
        return nodes.Sigmoid(inputs[0])

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Features and images."""
        yield LayerCase("features", lambda draw: cls(), (real(3, 4),))
        yield LayerCase("images", lambda draw: cls(), (real(2, 3, 4, 4),))


class Tanh(Layer):
    """y = tanh x. Any shape.

    Source: LeCun et al., Efficient BackProp (1998), section 4.4.
    """

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> Tanh."""
        return nodes.Tanh(inputs[0])

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Features and images."""
        yield LayerCase("features", lambda draw: cls(), (real(3, 4),))
        yield LayerCase("images", lambda draw: cls(), (real(2, 3, 4, 4),))


class Softmax(Layer):
    """y = e^x / sum e^x over the last axis; x is shifted by its maximum to avoid overflow. (N, K) or (K,).

    Source: Deep Learning from Scratch, 3.5.
    """

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> Max -> Add -> Exp -> Sum -> Reciprocal -> Mul."""
        e = Exp(shifted(inputs[0]))
        return e / Sum(e, axis=-1, keepdims=True)

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """A batch of rows, and one row alone."""
        yield LayerCase("rows", lambda draw: cls(), (real(3, 4),))
        yield LayerCase("vector", lambda draw: cls(), (real(5),))


def shifted(x: Node) -> Node:
    """Return `x - max(x)` over the last axis."""
    return x - Max(x, axis=-1, keepdims=True)
