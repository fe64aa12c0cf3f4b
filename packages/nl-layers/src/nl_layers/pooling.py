"""Max pooling and average pooling, by im2col, and the mean of each channel."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from nl_layers.module import Drawing, Layer, LayerCase, Mode
from nl_nodes import Img2Matrix, Max, Mean, Node, Reshape, ShapeError, Transpose, UserError
from nl_nodes.arguments import COUNT, NATURAL
from nl_nodes.cases import distinct, real


class Pooling(Layer):
    """y[n, c, i, j] = the maximum of x over a window.

    Padding is never the maximum; of tied values the first in row-major order is. NaN counts as the largest value.

    Args:
        height: the window's rows.
        width: the window's columns.
        stride: the step between windows.
        pad: padding on every side with copies of the nearest pixel, which the window always contains too.

    x is (N, C, H, W); y is (N, C, OH, OW) with OH = floor((H + 2 pad - height) / stride) + 1, OW likewise.

    Raises:
        UserError: for an argument out of its range, and where a window could be wholly in the padding.

    Source: Deep Learning from Scratch, 7.3 and 7.4.4.
    """

    def __init__(self, height: int, width: int, stride: int = 2, pad: int = 0) -> None:
        super().__init__()
        COUNT.check("Pooling", height=height, width=width, stride=stride)
        NATURAL.check("Pooling", pad=pad)
        if pad >= min(height, width):
            raise UserError(f"Pooling: pad {pad} must be smaller than the window {height}x{width}")
        self.height, self.width, self.stride, self.pad = height, width, stride, pad

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> Img2Matrix -> Transpose -> Reshape -> Max -> Transpose."""
        windows = Img2Matrix(inputs[0], self.height, self.width, self.stride, self.pad, fill=None)
        taps = Reshape(Transpose(windows, (3, 1, 2, 0)), (0, 0, 0, -1, self.height * self.width))
        return Transpose(Max(taps, axis=4), (0, 3, 1, 2))

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Adjacent, overlapping and spaced windows, with and without padding."""
        for h, w, stride, pad in ((2, 2, 2, 0), (3, 3, 2, 1), (2, 3, 1, 1), (2, 2, 3, 0), (3, 3, 1, 2)):
            make = partial(cls._case, h, w, stride, pad)
            yield LayerCase(f"{h}x{w}, stride {stride}, pad {pad}", make, (distinct(2, 2, 5, 6),))

    @classmethod
    def _case(cls, height: int, width: int, stride: int, pad: int, draw: Drawing) -> Pooling:
        return cls(height, width, stride, pad)


class AveragePooling(Layer):
    """y[n, c, i, j] = the mean of x over a window, in which padding counts as zeros.

    Args:
        height: the window's rows.
        width: the window's columns.
        stride: the step between windows.
        pad: zero padding on every side.

    x is (N, C, H, W); y is (N, C, OH, OW) with OH = floor((H + 2 pad - height) / stride) + 1, OW likewise.

    Raises:
        UserError: for an argument out of its range, and where a window could be wholly in the padding.

    Source: LeCun et al., Gradient-Based Learning Applied to Document Recognition (1998), II.A, without coefficients.
    """

    def __init__(self, height: int, width: int, stride: int = 2, pad: int = 0) -> None:
        super().__init__()
        COUNT.check("AveragePooling", height=height, width=width, stride=stride)
        NATURAL.check("AveragePooling", pad=pad)
        if pad >= min(height, width):
            raise UserError(f"AveragePooling: pad {pad} must be smaller than the window {height}x{width}")
        self.height, self.width, self.stride, self.pad = height, width, stride, pad

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> Img2Matrix -> Transpose -> Reshape -> Mean -> Transpose."""
        windows = Img2Matrix(inputs[0], self.height, self.width, self.stride, self.pad)
        taps = Reshape(Transpose(windows, (3, 1, 2, 0)), (0, 0, 0, -1, self.height * self.width))
        return Transpose(Mean(taps, axis=4), (0, 3, 1, 2))

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Adjacent, overlapping and spaced windows, with and without padding."""
        for h, w, stride, pad in ((2, 2, 2, 0), (3, 3, 2, 1), (2, 3, 1, 1), (2, 2, 3, 0), (3, 3, 1, 2)):
            make = partial(cls._case, h, w, stride, pad)
            yield LayerCase(f"{h}x{w}, stride {stride}, pad {pad}", make, (real(2, 2, 5, 6),))

    @classmethod
    def _case(cls, height: int, width: int, stride: int, pad: int, draw: Drawing) -> AveragePooling:
        return cls(height, width, stride, pad)


class GlobalAveragePooling(Layer):
    """y[n, c] = the mean of x over all pixels of a channel; x is (N, C, H, W), y is (N, C).

    Raises:
        ShapeError: where x is not (N, C, H, W).

    Source: Lin et al., Network In Network (2013), 3.2.
    """

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """x -> Mean."""
        x = inputs[0]
        if x.shape is None or len(x.shape) != 4:
            raise ShapeError(f"GlobalAveragePooling: needs images (N, C, H, W), got {x.shape}")
        return Mean(x, (2, 3))

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Images of several pixels, and of one."""
        for shape in ((2, 3, 4, 5), (3, 2, 1, 1)):
            yield LayerCase(f"{shape}", lambda draw: cls(), (real(*shape),))
