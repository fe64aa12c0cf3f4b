"""Convolution, by im2col."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from nl_layers.module import Drawing, Layer, LayerCase, Mode
from nl_nodes import Img2Matrix, Node, Parameter, Reshape, ShapeError, Transpose
from nl_nodes.arguments import COUNT, NATURAL
from nl_nodes.cases import real
from nl_nodes.typing import Array


class Convolution(Layer):
    """y[n, f] = sum over c, a, b of x[n, c, i s + a, j s + b] weight[f, c, a, b] + bias[f].

    Args:
        weight: (FN, C, FH, FW).
        bias: (FN,), or None.
        stride: the step between windows.
        pad: zero padding on every side.

    x is (N, C, H, W); y is (N, FN, OH, OW) with OH = floor((H + 2 pad - FH) / stride) + 1, OW likewise.

    Raises:
        ShapeError: where x, weight and bias do not fit.
        UserError: for a stride or padding that is no whole number in its range.

    Source: Deep Learning from Scratch, 7.2 and 7.4.3.
    """

    def __init__(self, weight: Array, bias: Array | None = None, stride: int = 1, pad: int = 0) -> None:
        super().__init__()
        COUNT.check("Convolution", stride=stride)
        NATURAL.check("Convolution", pad=pad)
        self.weight = Parameter(weight, "weight")
        self.bias = None if bias is None else Parameter(bias, "bias")
        self.stride, self.pad = stride, pad
        shape = self.weight.value.shape
        if len(shape) != 4 or (self.bias is not None and self.bias.value.shape != shape[:1]):
            got = None if self.bias is None else tuple(self.bias.value.shape)
            raise ShapeError(f"Convolution: weight must be (FN, C, FH, FW), bias (FN,), got {tuple(shape)} and {got}")

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> Img2Matrix -> Dot with the weight as a matrix -> Add -> Transpose."""
        x = inputs[0]
        fn, c, fh, fw = self.weight.value.shape
        if x.shape is None or len(x.shape) != 4 or x.shape[1] != c:
            raise ShapeError(f"Convolution: weight {(fn, c, fh, fw)} needs images (N, {c}, H, W), got {x.shape}")
        windows = Img2Matrix(x, fh, fw, self.stride, self.pad)
        y = Reshape(self.weight, (fn, c * fh * fw)) @ windows
        if self.bias is not None:
            y = y + Reshape(self.bias, (fn, 1, 1, 1))
        return Transpose(y, (3, 0, 1, 2))

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Filter sizes, strides and padding, also with a remainder of the stride."""
        for fh, fw, stride, pad in ((3, 3, 1, 1), (3, 3, 1, 0), (2, 3, 2, 1), (1, 1, 1, 0), (5, 5, 1, 2), (3, 3, 3, 2)):
            make = partial(cls._case, fh, fw, stride, pad)
            yield LayerCase(f"{fh}x{fw}, stride {stride}, pad {pad}", make, (real(2, 3, 5, 6),))
        yield LayerCase("no bias", lambda draw: cls(draw(real(2, 1, 3, 3)), pad=1), (real(2, 1, 4, 4),))

    @classmethod
    def _case(cls, height: int, width: int, stride: int, pad: int, draw: Drawing) -> Convolution:
        return cls(draw(real(2, 3, height, width)), draw(real(2)), stride, pad)
