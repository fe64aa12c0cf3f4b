"""The affine (dense) layer."""

from __future__ import annotations

from collections.abc import Iterator

from nl_layers.module import Layer, LayerCase, Mode
from nl_nodes import Node, Parameter, Reshape, ShapeError
from nl_nodes.cases import real
from nl_nodes.typing import Array


class Affine(Layer):
    """y = x W + b.

    Args:
        weight: (in, out).
        bias: (out,), or None.

    x is (N, in) or (N, ...), which is flattened in NCHW order; y is (N, out).

    Raises:
        ShapeError: where the flattened x, weight and bias do not fit.

    Source: Deep Learning from Scratch, 5.6.2.
    """

    def __init__(self, weight: Array, bias: Array | None = None) -> None:
        super().__init__()
        self.weight = Parameter(weight, "weight")
        self.bias = None if bias is None else Parameter(bias, "bias")
        shape = self.weight.value.shape
        if len(shape) != 2 or (self.bias is not None and self.bias.value.shape != shape[1:]):
            got = None if self.bias is None else tuple(self.bias.value.shape)
            raise ShapeError(f"Affine: weight must be (in, out) and bias (out,), got {tuple(shape)} and {got}")

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> Reshape -> Dot -> Add."""
        y = Reshape(inputs[0], (0, -1)) @ self.weight
        return y if self.bias is None else y + self.bias

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Features and images, with and without bias."""
        yield LayerCase("features", lambda draw: cls(draw(real(4, 5)), draw(real(5))), (real(3, 4),))
        yield LayerCase("images", lambda draw: cls(draw(real(12, 4)), draw(real(4))), (real(2, 3, 2, 2),))
        yield LayerCase("no bias", lambda draw: cls(draw(real(4, 5))), (real(3, 4),))
