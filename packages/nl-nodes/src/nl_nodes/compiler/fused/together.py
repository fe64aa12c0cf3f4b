"""Convolution by tiles where kernels are many and images few: the workers share the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nl_nodes.compiler.fused.pieces import piece_of, pieces
from nl_nodes.compiler.fused.winograd import Tiles, Winograd
from nl_nodes.node import Crew, Kept
from nl_nodes.typing import Array, Namespace, Shape

MANY = 2
"""For so many kernels and channels to each row that all images give, a worker's are too few for its products."""

WIDE = 128
"""Columns that each matrix product should have at least."""


def suits(tiles: Tiles, x: Shape, outputs: Shape, crew: Crew) -> bool:
    """Whether the workers should share the kernels of a convolution of x (H, W, N, C) to (OH, OW, K)."""
    n, c = x[2:]
    oh, ow, k = outputs
    return MANY * tiles.count(oh) * tiles.count(ow) * crew.everyone(n) <= min(k, c)


class Together(Winograd):
    """Tiles; each worker transforms its own images, and multiplies those of all with its share of the kernels.

    So a product has the rows of all images, nobody transforms kernels for others, a part of them is used while it is
    in the cache, and their gradient is whole without an addition.

    Args:
        crew: who works on it.
        others: as for `Winograd`.
    """

    def __init__(self, crew: Crew, tiles: Tiles, pad: int, xp: Namespace, x: Shape, outputs: Shape, dtype: Any) -> None:
        super().__init__(tiles, pad, xp, x, outputs, dtype)
        self.crew = crew
        count, everyone = self.th * self.tw, crew.everyone(self.n)
        mine = crew.share(everyone)
        self.own = slice(count * mine.start, count * mine.stop)
        self.maps = crew.shared((self.p**2, count * everyone, self.c), dtype)
        self.sums_of_all = crew.shared((self.p**2, count * everyone, self.k), dtype)

    def _fitting(self) -> tuple[int, int]:
        return self.n, self.k

    def weights(self, kept: Kept, w: Array, back: bool = False) -> Array:
        """The kernels as they are: each worker transforms what it uses."""
        return w

    def kernels(self, shape: Shape) -> Array:
        """The same for all, each of whom fills in a share."""
        return self.crew.shared(shape, self.dtype)

    def load(self, x: Array, dy: Array) -> None:
        """Both transformed, by every worker."""
        super().load(x, dy)
        self.crew.meet()

    def weight_gradient(self, dw: Array, add: bool) -> None:
        """Of this worker's share of the kernels, from all images."""
        for part in self._share(self.k):
            du = self._part((part.stop - part.start, self.c))
            self.xp.matmul(self.sums_of_all[:, :, part].transpose((0, 2, 1)), self.maps, du)
            self.xp.matmul(du.transpose((1, 2, 0)), self.gg, dw[part].reshape((-1, self.c, 9)))
        self.crew.meet()  # what comes next may read all of it

    def _products(self, u: Array, m: int) -> Array:
        self.crew.meet()
        nine = u.reshape((self.k, self.c, 9)).transpose((1, 2, 0))
        for part in self._share(self.k):
            self._multiply(self.maps, nine[:, :, part], self.sums_of_all[:, :, part])
        self.crew.meet()
        return self._outputs(m)

    def _transposed(self, u: Array, m: int) -> Array:
        nine = u.reshape((self.k, self.c, 9)).transpose((0, 2, 1))
        products = self.crew.shared(self.maps.shape, self.dtype)
        for part in self._share(self.c):
            self._multiply(self.sums_of_all, nine[:, :, part], products[:, :, part])
        self.crew.meet()
        return products[:, self.own]

    def _multiply(self, maps: Array, nine: Array, products: Array) -> None:
        """All maps times some kernels (I, 9, J), which are transformed for it."""
        u = self._part((nine.shape[0], nine.shape[2]))
        self.xp.matmul(self.gg, nine, u.transpose((1, 0, 2)))
        self.xp.matmul(maps, u, products)

    def _share(self, count: int) -> Iterator[slice]:
        """This worker's of so many kernels or channels, some at a time."""
        share = self.crew.share(count)
        size = share.stop - share.start
        for part in pieces(size, self._some(size)):
            yield slice(share.start + part.start, share.start + part.stop)

    def _some(self, size: int) -> int:
        """How many of so many to take at a time."""
        return piece_of(size, 4 * self.p**2 * max(self.c, self.k), WIDE)

    def _part(self, shape: Shape) -> Array:
        """Transformed kernels, or their gradient."""
        return self.scratch.array("part", (self.p**2, *shape))

    def _inputs(self, m: int) -> Array:
        return self.maps[:, self.own]

    def _outputs(self, m: int) -> Array:
        return self.sums_of_all[:, self.own]
