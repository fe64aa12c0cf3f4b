"""Convolution of few channels by MEC: im2col along the columns alone, as windows of neighbouring rows overlap."""

from __future__ import annotations

from nl_nodes.compiler.fused.conv.algorithm import Chunk
from nl_nodes.compiler.fused.conv.im2col import Im2col
from nl_nodes.typing import Array

FEW_CHANNELS = 4
"""Up to this many channels, to copy a row of all images is faster than to copy each image's channels."""


class Mec(Im2col):
    """Convolution as a matrix product for each row of outputs.

    A chunk's rows are copied once for each column of the kernel, to (rows, FW, C, OW, N). The rows under a row of
    outputs are adjacent there: they are its matrix of windows (FH FW C, OW N), and the next row's starts `stride` rows
    later in the same memory.

    Source: Cho and Brand, MEC: Memory-efficient Convolution for Deep Neural Network (2017).
    """

    def _pixel_bytes(self, pool_stride: int) -> int:
        """Return the bytes for rows and outputs, without those of `data_gradient`: a first layer needs none."""
        return 4 * pool_stride * (self.stride * self.kernel[1] * self.c + self.k)

    def forward(self, chunk: Chunk, x: Array, u: Array, y: Array) -> None:
        """Multiply each row's windows by the kernels."""
        windows = self._copied_windows(chunk, x).transpose((0, 2, 1))
        self.xp.matmul(windows, u, y.reshape((chunk.shape[0], -1, self.k)))

    def begin_backward(self, chunk: Chunk, x: Array, dy: Array) -> None:
        """Copy the rows again, as in `forward`."""
        self._chunk, self._inputs = chunk, self._copied_windows(chunk, x)
        self._dy = dy.reshape((chunk.shape[0], -1, self.k))

    def weight_gradient(self, dw: Array, add: bool) -> None:
        """Multiply each row's windows by dy, and reorder the sum of all to (K, C, FH, FW)."""
        du = self.workspace.array("du", (self._chunk.shape[0], self.depth, self.k))
        self.xp.matmul(self._inputs, self._dy, du)
        self._store_kernels_gradient(du, dw, add)

    def data_gradient(self, u: Array, dx: Array) -> None:
        """Multiply the kernels by dy, and add each product to the pixel that it belongs to (col2im)."""
        rows = self._chunk.shape[0]
        gradient = self.workspace.array("gradient", (rows, self.depth, self.ow * self.n))
        self.xp.matmul(u, self._dy.transpose((0, 2, 1)), gradient)
        taps = gradient.reshape((rows, -1, self.c, self.ow, self.n))
        for number, (inside, pixels) in enumerate(self._pixels(self._chunk, dx)):
            self.xp.add(pixels, taps[:, number].transpose((0, 2, 3, 1))[inside], pixels)

    def _copied_windows(self, chunk: Chunk, x: Array) -> Array:
        """Return each row's windows (rows, FH FW C, OW N), zero where they extend beyond the maps."""
        rows = chunk.shape[0]
        copied = self.workspace.array(
            "rows", (self.stride * (rows - 1) + self.kernel[0], self.kernel[1], self.c, self.ow, self.n)
        )
        begin = self.stride * chunk.first - self.pad
        top = min(max(-begin, 0), len(copied))
        bottom = max(min(self.size[0] - begin, len(copied)), top)
        for padding in (slice(0, top), slice(bottom, None)):
            copied[padding] = 0
        for b in range(self.kernel[1]):
            tap = copied[top:bottom, b].transpose((0, 2, 3, 1))
            inside, across = self._inside(b, 0, self.ow, self.size[1])
            for padding in (slice(0, inside.start), slice(inside.stop, None)):
                tap[:, padding] = 0
            tap[:, inside] = x[begin + top : begin + bottom, across]
        row, _, channel, _, value = copied.strides
        strides = (self.stride * row, channel, value)
        return self.xp.lib.stride_tricks.as_strided(copied, (rows, self.depth, self.ow * self.n), strides)
