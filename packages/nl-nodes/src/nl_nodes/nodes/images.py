"""Images as matrices: the node that turns convolution and pooling into matrix work."""

from __future__ import annotations

from collections.abc import Iterator

from nl_nodes.cases import Case, real
from nl_nodes.errors import UserError
from nl_nodes.node import Kept, Node
from nl_nodes.typing import Array, Shape


class Img2Matrix(Node):
    """y = the windows of an image, each a row (im2col).

    Forward: y[n, i, j, (a, b, c)] = xp[n, c, i s + a, j s + b], xp being x padded by `pad` with `fill` on all sides:
    within a row the window's rows, then its columns, then the channels. Backward: dx = the sum, for each pixel, of dy
    at all the places it was copied to. Shapes: x (N, C, H, W), y (N, OH, OW, FH FW C) with
    OH = floor((H + 2 pad - FH) / stride) + 1, OW alike. Keeps: nothing. Kinks: none.
    Errors: `ShapeError` for an x without four axes or smaller than the window; `UserError` for a window or stride
    below 1 or a negative pad. Source: Deep Learning from Scratch, 7.4.2.
    """

    def __init__(self, x: Node, height: int, width: int, stride: int = 1, pad: int = 0, fill: float = 0.0) -> None:
        if min(height, width, stride) < 1 or pad < 0:
            raise UserError(
                f"Img2Matrix: window and stride must be 1 or more and pad 0 or more, "
                f"got window {height}x{width}, stride {stride}, pad {pad}"
            )
        self.height, self.width, self.stride, self.pad, self.fill = height, width, stride, pad, fill
        super().__init__(x)

    def infer(self, *shapes: Shape) -> Shape:
        """(N, OH, OW, FH FW C)."""
        shape = shapes[0]
        if len(shape) != 4:
            raise self.misfit("needs images (N, C, H, W)", shape)
        n, c, h, w = shape
        oh = (h + 2 * self.pad - self.height) // self.stride + 1
        ow = (w + 2 * self.pad - self.width) // self.stride + 1
        if oh < 1 or ow < 1:
            window = f"a window of {self.height}x{self.width} with pad {self.pad}"
            raise self.misfit(f"{window} is larger than the image", shape)
        return (n, oh, ow, self.height * self.width * c)

    def forward(self, kept: Kept, *inputs: Array) -> Array:
        """The windows, each a row."""
        shape = self.infer(inputs[0].shape)
        windows = self._lines(kept, self._padded(kept, inputs[0]), self.height)[:, :: self.stride]
        y = kept.xp.empty(windows.shape, dtype=windows.dtype)
        # One image at a time, here and below: its windows stay in the processor's cache.
        for n in range(shape[0]):
            y[n] = windows[n]
        return y.reshape(shape)

    def backward(self, kept: Kept, dy: Array) -> Array:
        """Each pixel's sum over its copies."""
        n, c, h, w = kept.shapes[0]
        p, s = self.pad, self.stride
        _, oh, ow, _ = dy.shape
        rows = dy.reshape((n, oh, ow, self.height, self.width * c))
        dx = kept.xp.zeros((n, h + 2 * p, w + 2 * p, c), dtype=dy.dtype)
        lines = self._lines(kept, dx, 1)[:, :, :ow, 0]
        apart = -(-self.width // s)  # so many windows further on, a line of windows overlaps no more
        for image in range(n):
            for a in range(self.height):
                for first in range(apart):
                    seen = lines[image, a : a + s * oh : s, first::apart]
                    seen += rows[image, :, first::apart, a]
        return dx[:, p : p + h, p : p + w, :].transpose((0, 3, 1, 2))

    def _padded(self, kept: Kept, x: Array) -> Array:
        """The images with their padding, channels innermost in memory (N, H, W, C)."""
        n, c, h, w = x.shape
        p = self.pad
        padded = kept.xp.full((n, h + 2 * p, w + 2 * p, c), self.fill, dtype=x.dtype)
        padded[:, p : p + h, p : p + w] = x.transpose((0, 2, 3, 1))
        return padded

    def _lines(self, kept: Kept, images: Array, height: int) -> Array:
        """A view (N, H - height + 1, OW, height, FW C) of images (N, H, W, C): a window's line is one run of pixels."""
        n, h, w, c = images.shape
        view = kept.xp.lib.stride_tricks.sliding_window_view
        lines = view(images.reshape((n, h, w * c)), (height, self.width * c), axis=(1, 2), writeable=True)
        return lines[:, :, :: self.stride * c]

    @classmethod
    def cases(cls) -> Iterator[Case]:
        """Windows, strides and pads, also where the stride does not divide."""
        for fh, fw, s, p in ((3, 3, 1, 0), (3, 3, 1, 1), (2, 2, 2, 0), (2, 3, 1, 2), (3, 2, 2, 1), (1, 1, 1, 0)):
            label = f"{fh}x{fw}, stride {s}, pad {p}"
            yield Case(label, lambda x, a=(fh, fw, s, p): cls(x, *a), (real(2, 3, 5, 4),), linear=True)
        yield Case("pad 3", lambda x: cls(x, 4, 4, 3, 3), (real(1, 2, 4, 5),), linear=True)
