"""Convolution by tiles where kernels are many and images few: the workers share the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nl_nodes.compiler.fused.conv.winograd import Winograd, WinogradSpec
from nl_nodes.compiler.fused.workspace import cache_chunk, pieces
from nl_nodes.node import Context, WorkerGroup
from nl_nodes.typing import Array, Namespace, Shape

FILTER_PARALLEL_RATIO = 2
"""For so many kernels and channels to each row that all images give, a worker's are too few for its products."""

GEMM_MIN_COLUMNS = 128
"""Columns that each matrix product should have at least."""


def prefers_filter_parallel(tiles: WinogradSpec, x: Shape, outputs: Shape, group: WorkerGroup) -> bool:
    """Whether the workers should share the kernels of a convolution of x (H, W, N, C) to (OH, OW, K)."""
    n, c = x[2:]
    oh, ow, k = outputs
    return FILTER_PARALLEL_RATIO * tiles.count(oh) * tiles.count(ow) * group.global_batch(n) <= min(k, c)


class FilterParallelWinograd(Winograd):
    """Tiles; each worker transforms its own images, and multiplies those of all with its share of the kernels.

    So a product has the rows of all images, nobody transforms kernels for others, a part of them is used while it is
    in the cache, and their gradient is whole without an addition.

    Args:
        crew: who works on it.
        others: as for `Winograd`.
    """

    def __init__(
        self, group: WorkerGroup, tiles: WinogradSpec, pad: int, xp: Namespace, x: Shape, outputs: Shape, dtype: Any
    ) -> None:
        super().__init__(tiles, pad, xp, x, outputs, dtype)
        self.group = group
        count, everyone = self.th * self.tw, group.global_batch(self.n)
        mine = group.shard(everyone)
        self.own = slice(count * mine.start, count * mine.stop)
        self.maps = group.shared_empty((self.p**2, count * everyone, self.c), dtype)
        self.sums_of_all = group.shared_empty((self.p**2, count * everyone, self.k), dtype)

    def _fitting(self) -> tuple[int, int]:
        return self.n, self.k

    def weights(self, ctx: Context, w: Array, back: bool = False) -> Array:
        """The kernels as they are: each worker transforms what it uses."""
        return w

    def kernels(self, shape: Shape) -> Array:
        """The same for all, each of whom fills in a share."""
        return self.group.shared_empty(shape, self.dtype)

    def load(self, x: Array, dy: Array) -> None:
        """Both transformed, by every worker."""
        super().load(x, dy)
        self.group.barrier()

    def weight_gradient(self, dw: Array, add: bool) -> None:
        """Of this worker's share of the kernels, from all images."""
        for part in self._share(self.k):
            du = self._part((part.stop - part.start, self.c))
            self.xp.matmul(self.sums_of_all[:, :, part].transpose((0, 2, 1)), self.maps, du)
            self.xp.matmul(du.transpose((1, 2, 0)), self.gg, dw[part].reshape((-1, self.c, 9)))
        self.group.barrier()  # what comes next may read all of it

    def _products(self, u: Array, m: int) -> Array:
        self.group.barrier()
        nine = u.reshape((self.k, self.c, 9)).transpose((1, 2, 0))
        for part in self._share(self.k):
            self._multiply(self.maps, nine[:, :, part], self.sums_of_all[:, :, part])
        self.group.barrier()
        return self._outputs(m)

    def _transposed(self, u: Array, m: int) -> Array:
        nine = u.reshape((self.k, self.c, 9)).transpose((0, 2, 1))
        products = self.group.shared_empty(self.maps.shape, self.dtype)
        for part in self._share(self.c):
            self._multiply(self.sums_of_all, nine[:, :, part], products[:, :, part])
        self.group.barrier()
        return products[:, self.own]

    def _multiply(self, maps: Array, nine: Array, products: Array) -> None:
        """All maps times some kernels (I, 9, J), which are transformed for it."""
        u = self._part((nine.shape[0], nine.shape[2]))
        self.xp.matmul(self.gg, nine, u.transpose((1, 0, 2)))
        self.xp.matmul(maps, u, products)

    def _share(self, count: int) -> Iterator[slice]:
        """This worker's of so many kernels or channels, some at a time."""
        share = self.group.shard(count)
        size = share.stop - share.start
        for part in pieces(size, self._some(size)):
            yield slice(share.start + part.start, share.start + part.stop)

    def _some(self, size: int) -> int:
        """How many of so many to take at a time."""
        return cache_chunk(size, 4 * self.p**2 * max(self.c, self.k), GEMM_MIN_COLUMNS)

    def _part(self, shape: Shape) -> Array:
        """Transformed kernels, or their gradient."""
        return self.workspace.array("part", (self.p**2, *shape))

    def _inputs(self, m: int) -> Array:
        return self.maps[:, self.own]

    def _outputs(self, m: int) -> Array:
        return self.sums_of_all[:, self.own]
