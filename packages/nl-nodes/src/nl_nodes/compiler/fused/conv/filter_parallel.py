"""Winograd convolution split over the filters, for many kernels and few images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nl_nodes.compiler.fused.conv.algorithm import Chunk
from nl_nodes.compiler.fused.conv.winograd import Winograd, WinogradSpec
from nl_nodes.compiler.fused.workspace import cache_chunk, chunk_slices
from nl_nodes.context import Context, WorkerGroup
from nl_nodes.typing import Array, Shape

FILTER_PARALLEL_RATIO = 2
"""Split the kernels over the workers where kernels and channels are this many times the tiles of the batch."""

GEMM_MIN_COLUMNS = 128
"""Minimum columns of each matrix product."""


def prefers_filter_parallel(spec: WinogradSpec, x: Shape, outputs: Shape, group: WorkerGroup) -> bool:
    """Whether to split the kernels of a convolution of x (H, W, N, C) to (OH, OW, K) over the workers."""
    n, c = x[2:]
    oh, ow, k = outputs
    return FILTER_PARALLEL_RATIO * spec.count(oh) * spec.count(ow) * group.global_batch(n) <= min(k, c)


class FilterParallelWinograd(Winograd):
    """Winograd convolution; each worker transforms its own images, and multiplies all images by its shard of kernels.

    So each product has the rows of the whole batch, kernels are transformed in chunks that stay in the cache, and their
    gradient needs no all-reduce.

    Args:
        spec, pad, group, x, outputs, dtype: as for `Winograd`.
    """

    def __init__(self, spec: WinogradSpec, pad: int, group: WorkerGroup, x: Shape, outputs: Shape, dtype: Any) -> None:
        super().__init__(spec, pad, group, x, outputs, dtype)
        count, batch = self.th * self.tw, group.global_batch(self.n)
        images = group.shard(batch)
        self.own_tiles = slice(count * images.start, count * images.stop)
        self.all_inputs = group.shared_empty((self.p**2, count * batch, self.c), dtype)
        self.all_outputs = group.shared_empty((self.p**2, count * batch, self.k), dtype)

    def _chunk_sizes(self) -> tuple[int, int, int]:
        return self.th, self.n, self.k

    def transformed_kernels(self, ctx: Context, w: Array, back: bool = False) -> Array:
        """Return w: each worker transforms the chunks that it uses."""
        return w

    def kernels_gradient(self, shape: Shape) -> Array:
        """Return memory that all workers share; each writes its shard."""
        return self.group.shared_empty(shape, self.dtype)

    def begin_backward(self, chunk: Chunk, x: Array, dy: Array) -> None:
        """Transform the maps and dy, and wait for the other workers: each gradient takes all images."""
        super().begin_backward(chunk, x, dy)
        self.group.barrier()

    def weight_gradient(self, dw: Array, add: bool) -> None:
        """Write the gradient of this worker's shard of the kernels, from the whole batch."""
        for chunk in self._shard_chunks(self.k):
            du = self._kernel_workspace((chunk.stop - chunk.start, self.c))
            self.xp.matmul(self.all_outputs[:, :, chunk].transpose((0, 2, 1)), self.all_inputs, du)
            self.xp.matmul(du.transpose((1, 2, 0)), self.kernel_transform, dw[chunk].reshape((-1, self.c, 9)))
        self.group.barrier()  # the whole gradient may be read from here on

    def _products(self, u: Array) -> Array:
        """Multiply all images by this worker's kernels; a barrier before and after, as each needs the others' parts."""
        self.group.barrier()
        taps = u.reshape((self.k, self.c, 9)).transpose((1, 2, 0))
        for chunk in self._shard_chunks(self.k):
            self._multiply(self.all_inputs, taps[:, :, chunk], self.all_outputs[:, :, chunk])
        self.group.barrier()
        return self._transformed_outputs()

    def _transformed_input_gradient(self, u: Array) -> Array:
        """Compute this worker's channels for all images; after the barrier, return all channels of its own images."""
        taps = u.reshape((self.k, self.c, 9)).transpose((0, 2, 1))
        gradient = self.group.shared_empty(self.all_inputs.shape, self.dtype)
        for chunk in self._shard_chunks(self.c):
            self._multiply(self.all_outputs, taps[:, :, chunk], gradient[:, :, chunk])
        self.group.barrier()
        return gradient[:, self.own_tiles]

    def _multiply(self, maps: Array, taps: Array, products: Array) -> None:
        """Transform a chunk of kernels (I, 9, J), and multiply all maps by it."""
        u = self.workspace.array("kernels", self._panelled(taps.shape[0], taps.shape[2]))
        self._transform_kernels(taps, u)
        self._multiply_panels(maps, u, products)

    def _shard_chunks(self, count: int) -> Iterator[slice]:
        """Yield chunks of this worker's shard of `count` kernels or channels."""
        shard = self.group.shard(count)
        size = shard.stop - shard.start
        for chunk in chunk_slices(size, self._chunk_size(size)):
            yield slice(shard.start + chunk.start, shard.start + chunk.stop)

    def _chunk_size(self, size: int) -> int:
        return cache_chunk(self.group, size, 4 * self.p**2 * max(self.c, self.k), GEMM_MIN_COLUMNS)

    def _kernel_workspace(self, shape: Shape) -> Array:
        """Return workspace for transformed kernels, or their gradient."""
        return self.workspace.array("kernels", (self.p**2, *shape))

    def _transformed_inputs(self) -> Array:
        return self.all_inputs[:, self.own_tiles]

    def _transformed_outputs(self) -> Array:
        return self.all_outputs[:, self.own_tiles]
