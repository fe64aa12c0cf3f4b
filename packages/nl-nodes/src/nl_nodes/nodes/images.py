"""Im2col, which turns convolution and pooling into matrix operations."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, real
from nl_nodes.context import Context, NotShardable
from nl_nodes.errors import UserError
from nl_nodes.node import Node
from nl_nodes.typing import Array, Shape


class Img2Matrix(Node):
    """The windows of an image as the columns of a matrix (im2col).

    Forward: y[(c, a, b), i, j, n] = xp[n, c, i s + a, j s + b], xp being x padded by `pad` on all sides with the number
    `fill`, or with the nearest pixel where that is None: a column runs over channels, then the window's rows, then its
    columns. Backward: dx = for each pixel the sum of dy over its copies.
    Shapes: x (N, C, H, W), y (C FH FW, OH, OW, N) with OH = floor((H + 2 pad - FH) / stride) + 1, OW likewise.
    Saves: nothing. Kinks: none.
    Errors: `ShapeError` for an x without four axes or smaller than the window; `UserError` for a window or stride
    below 1 or a negative pad. Source: Deep Learning from Scratch, 7.4.2.
    """

    def __init__(
        self, x: Node, height: int, width: int, stride: int = 1, pad: int = 0, fill: float | None = 0.0
    ) -> None:
        if min(height, width, stride) < 1 or pad < 0:
            raise UserError(
                f"Img2Matrix: window and stride must be 1 or more and pad 0 or more, "
                f"got window {height}x{width}, stride {stride}, pad {pad}"
            )
        self.height, self.width, self.stride, self.pad, self.fill = height, width, stride, pad, fill
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """Return `(C FH FW, OH, OW, N)`."""
        shape = shapes[0]
        if len(shape) != 4:
            raise self.misfit("needs images (N, C, H, W)", shape)
        n, c, h, w = shape
        oh = (h + 2 * self.pad - self.height) // self.stride + 1
        ow = (w + 2 * self.pad - self.width) // self.stride + 1
        if oh < 1 or ow < 1:
            window = f"a window of {self.height}x{self.width} with pad {self.pad}"
            raise self.misfit(f"{window} is larger than the image", shape)
        return (c * self.height * self.width, oh, ow, n)

    def batch_axis(self, shapes: tuple[Shape, ...], axes: tuple[int | None, ...]) -> int | None:
        """Return the last axis, which the images' axis becomes."""
        if axes[0] != 0:
            raise NotShardable(type(self).__name__)
        return 3

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """Return the windows as columns."""
        n, c, h, w = inputs[0].shape
        shape = self.infer(inputs[0].shape)
        p = self.pad
        # The batch is the innermost axis, so that copies here and below move contiguous runs of whole batches.
        padded = ctx.xp.empty((c, h + 2 * p, w + 2 * p, n), dtype=inputs[0].dtype)
        padded[:, p : p + h, p : p + w] = inputs[0].transpose((1, 2, 3, 0))
        for _, padding, edge in self._edges(padded):
            padding[...] = edge if self.fill is None else self.fill
        y = ctx.xp.empty((c, self.height * self.width, *shape[1:]), dtype=padded.dtype)
        for tap, pixels in enumerate(self._taps(padded, shape)):
            y[:, tap] = pixels
        return y.reshape(shape)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Return for each pixel the sum of `dy` over its copies."""
        n, c, h, w = ctx.shapes[0]
        p = self.pad
        columns = dy.reshape((c, self.height * self.width, *dy.shape[1:]))
        padded = ctx.xp.zeros((c, h + 2 * p, w + 2 * p, n), dtype=dy.dtype)
        for tap, pixels in enumerate(self._taps(padded, dy.shape)):
            pixels += columns[:, tap]
        for axis, padding, edge in reversed(self._edges(padded)) if self.fill is None else ():
            edge += padding.sum(axis=axis, keepdims=True)
        return padded[:, p : p + h, p : p + w].transpose((3, 0, 1, 2))

    def _edges(self, padded: Array) -> list[tuple[int, Array, Array]]:
        """Return for each side its axis and views of the padding and of the edge pixels next to it."""
        p = self.pad
        sides = [
            (1, padded[:, :p], padded[:, p : p + 1]),
            (1, padded[:, -p:], padded[:, -p - 1 : -p]),
            (2, padded[:, :, :p], padded[:, :, p : p + 1]),
            (2, padded[:, :, -p:], padded[:, :, -p - 1 : -p]),
        ]
        return sides if p else []

    def _taps(self, padded: Array, shape: Shape) -> Iterator[Array]:
        """Yield for each position in the window, row by row, a view of the pixels there in all windows."""
        s = self.stride
        _, oh, ow, _ = shape
        for a in range(self.height):
            for b in range(self.width):
                yield padded[:, a : a + s * oh : s, b : b + s * ow : s]

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Yield windows, strides and pads, including strides that do not divide the image."""
        for fh, fw, s, p in ((3, 3, 1, 0), (3, 3, 1, 1), (2, 2, 2, 0), (2, 3, 1, 2), (3, 2, 2, 1), (1, 1, 1, 0)):
            label = f"{fh}x{fw}, stride {s}, pad {p}"
            yield Case(label, lambda x, a=(fh, fw, s, p): cls(x, *a), (real(2, 3, 5, 4),), linear=True)
        yield Case("wide", lambda x: cls(x, 2, 3, pad=3), (real(2, 2, 3, 5),), linear=True)
        yield Case("pad 3", lambda x: cls(x, 4, 4, 3, 3), (real(1, 2, 4, 5),), linear=True)
        yield Case("ones around", lambda x: cls(x, 2, 2, pad=1, fill=1.0), (real(2, 2, 3, 2),))
        yield Case("nearest pixels", lambda x: cls(x, 3, 4, 1, 2, fill=None), (real(2, 2, 3, 4),), linear=True)
        yield Case("nearest, one pixel", lambda x: cls(x, 2, 2, 1, 1, fill=None), (real(2, 3, 1, 1),), linear=True)
