"""Images as matrices: the node that turns convolution and pooling into matrix work."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, real
from nl_nodes.errors import UserError
from nl_nodes.node import Context, Node, NotShardable
from nl_nodes.typing import Array, Shape


class Img2Matrix(Node):
    """y = the windows of an image, each a column (im2col).

    Forward: y[(c, a, b), i, j, n] = xp[n, c, i s + a, j s + b], xp being x padded by `pad` on all sides with the number
    `fill`, or with copies of the nearest pixel where that is None: down a column the channels, then the window's rows,
    then its columns. Backward: dx = the sum, for each pixel, of dy at all the places it was copied to.
    Shapes: x (N, C, H, W), y (C FH FW, OH, OW, N) with OH = floor((H + 2 pad - FH) / stride) + 1, OW alike.
    Keeps: nothing. Kinks: none.
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
        """(C FH FW, OH, OW, N)."""
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
        """The images', which become the last axis."""
        if axes[0] != 0:
            raise NotShardable(type(self).__name__)
        return 3

    def forward(self, ctx: Context, *inputs: Array) -> Array:
        """The windows, each a column."""
        n, c, h, w = inputs[0].shape
        shape = self.infer(inputs[0].shape)
        p = self.pad
        # The images lie innermost: what is copied, here and below, are runs of whole batches.
        padded = ctx.xp.empty((c, h + 2 * p, w + 2 * p, n), dtype=inputs[0].dtype)
        padded[:, p : p + h, p : p + w] = inputs[0].transpose((1, 2, 3, 0))
        for _, beyond, edge in self._edges(padded):
            beyond[...] = edge if self.fill is None else self.fill
        y = ctx.xp.empty((c, self.height * self.width, *shape[1:]), dtype=padded.dtype)
        for tap, seen in enumerate(self._seen(padded, shape)):
            y[:, tap] = seen
        return y.reshape(shape)

    def backward(self, ctx: Context, dy: Array) -> Array:
        """Each pixel's sum over its copies."""
        n, c, h, w = ctx.shapes[0]
        p = self.pad
        columns = dy.reshape((c, self.height * self.width, *dy.shape[1:]))
        padded = ctx.xp.zeros((c, h + 2 * p, w + 2 * p, n), dtype=dy.dtype)
        for tap, seen in enumerate(self._seen(padded, dy.shape)):
            seen += columns[:, tap]
        for axis, beyond, edge in reversed(self._edges(padded)) if self.fill is None else ():
            edge += beyond.sum(axis=axis, keepdims=True)
        return padded[:, p : p + h, p : p + w].transpose((3, 0, 1, 2))

    def _edges(self, padded: Array) -> list[tuple[int, Array, Array]]:
        """The padding on each side: along which axis, what lies beyond the edge, and the edge."""
        p = self.pad
        sides = [
            (1, padded[:, :p], padded[:, p : p + 1]),
            (1, padded[:, -p:], padded[:, -p - 1 : -p]),
            (2, padded[:, :, :p], padded[:, :, p : p + 1]),
            (2, padded[:, :, -p:], padded[:, :, -p - 1 : -p]),
        ]
        return sides if p else []

    def _seen(self, padded: Array, shape: Shape) -> Iterator[Array]:
        """For each place in the window, row by row, the view of the pixels that all windows see there."""
        s = self.stride
        _, oh, ow, _ = shape
        for a in range(self.height):
            for b in range(self.width):
                yield padded[:, a : a + s * oh : s, b : b + s * ow : s]

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Windows, strides and pads, also where the stride does not divide."""
        for fh, fw, s, p in ((3, 3, 1, 0), (3, 3, 1, 1), (2, 2, 2, 0), (2, 3, 1, 2), (3, 2, 2, 1), (1, 1, 1, 0)):
            label = f"{fh}x{fw}, stride {s}, pad {p}"
            yield Case(label, lambda x, a=(fh, fw, s, p): cls(x, *a), (real(2, 3, 5, 4),), linear=True)
        yield Case("wide", lambda x: cls(x, 2, 3, pad=3), (real(2, 2, 3, 5),), linear=True)
        yield Case("pad 3", lambda x: cls(x, 4, 4, 3, 3), (real(1, 2, 4, 5),), linear=True)
        yield Case("ones around", lambda x: cls(x, 2, 2, pad=1, fill=1.0), (real(2, 2, 3, 2),))
        yield Case("nearest pixels", lambda x: cls(x, 3, 4, 1, 2, fill=None), (real(2, 2, 3, 4),), linear=True)
        yield Case("nearest, one pixel", lambda x: cls(x, 2, 2, 1, 1, fill=None), (real(2, 3, 1, 1),), linear=True)
