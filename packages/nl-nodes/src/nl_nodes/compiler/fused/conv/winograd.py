"""Convolution by tiles: fewer products than the definition's, between three small linear transforms.

Along one axis, m outputs of a kernel of 3 follow from t inputs as y = A' ((G w) * (B' x)), with p products instead of
3 m; along two axes the transforms are applied one after the other, and over channels the products become p^2 matrix
products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from nl_nodes.compiler.fused.conv.algorithm import Chunk, ConvAlgorithm
from nl_nodes.compiler.fused.conv.tile_transform import Transform
from nl_nodes.compiler.fused.conv.zero_windows import zero_windows
from nl_nodes.compiler.fused.epilogue import ALL
from nl_nodes.compiler.fused.workspace import cache_chunk, pieces, run_chunk
from nl_nodes.errors import ShapeError
from nl_nodes.node import Context
from nl_nodes.typing import Array, Namespace, Shape

GEMM_MIN_ROWS = 192
"""Rows that each matrix product of a piece should have at least."""

LARGE_KERNELS = 2**16
"""Kernels, of one channel each, whose transforms take much memory."""

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class WinogradSpec:
    """One such algorithm.

    Attributes:
        name: what it is called.
        step: m, the outputs of a tile along one axis.
        bt: B', (p, t).
        g: G, (p, 3).
        at: A', (m, p).
        padded: whether it knows of the zeros around the maps, as that for maps of 2x2 does.
    """

    name: str
    step: int
    bt: Matrix
    g: Matrix
    at: Matrix
    padded: bool = False

    @property
    def products(self) -> int:
        """P."""
        return len(self.bt)

    def count(self, size: int) -> int:
        """How many tiles give so many outputs."""
        return ceil(size / self.step)


# Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016), section 4.3.
F4 = WinogradSpec(
    "winograd 4x4",
    4,
    bt=(
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
    g=(
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    at=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
)

# Two outputs of two inputs between zeros: y0 = w1 (x0 + x1) + (w2 - w1) x1, y1 = w1 (x0 + x1) + (w0 - w1) x0.
F2_PAD1 = WinogradSpec(
    "9 products for 2x2",
    2,
    bt=((1, 1), (0, 1), (1, 0)),
    g=((0, 1, 0), (0, -1, 1), (1, -1, 0)),
    at=((1, 1, 0), (1, 0, 1)),
    padded=True,
)


class Winograd(ConvAlgorithm):
    """Convolution with kernels of 3x3 by tiles.

    Args:
        tiles: the algorithm.
        pad: rows and columns of zeros that the convolution sees on every side.
        others: as for `ConvAlgorithm`.
    """

    scatters = True

    def __init__(self, tiles: WinogradSpec, pad: int, xp: Namespace, x: Shape, outputs: Shape, dtype: Any) -> None:
        super().__init__(xp, x, outputs, dtype)
        if pad > 2 or (self.oh, self.ow) != tuple(n + 2 * pad - 2 for n in x[:2]):
            raise ShapeError(f"{tiles.name}: maps {x[:2]} with a pad of {pad} do not give outputs {outputs[:2]}")
        self.tiles, self.p, self.pad = tiles, tiles.products, pad
        counts = self.th, self.tw = tiles.count(self.oh), tiles.count(self.ow)
        self.images, self.few = self._fitting()
        real = dtype.type(0).real.dtype
        bt, at = xp.array(tiles.bt, dtype=real), xp.array(tiles.at, dtype=real)
        before = 0 if tiles.padded else pad
        self.maps_of = Transform(xp, bt, counts, tiles.step, before, x[:2], self.workspace)
        self.sums_of = Transform(xp, at.T, counts, tiles.step, 0, outputs[:2], self.workspace)
        # Both axes at once: row (i, j) holds G[i, a] G[j, b] for each of the kernel's nine weights (a, b).
        both = tuple(tuple(p * q for p in gi for q in gj) for gi in tiles.g for gj in tiles.g)
        self.gg = xp.array(both, dtype=real)

    def _fitting(self) -> tuple[int, int]:
        """How many images make a piece, and how many kernels have their gradient calculated at a time."""
        count = self.th * self.tw
        images = cache_chunk(self.n, 4 * self.p**2 * count * (self.c + self.k), ceil(GEMM_MIN_ROWS / count))
        return images, cache_chunk(self.k, 4 * self.p**2 * self.c)

    def parts(self, step: int) -> Iterator[Chunk]:
        """Some images at a time."""
        for images in pieces(self.n, self.images):
            shape = (self.oh, self.ow, images.stop - images.start, self.k)
            yield Chunk((ALL, images), (ALL, ALL, images), shape)

    def weights(self, ctx: Context, w: Array, back: bool = False) -> Array:
        """(p^2, C, K), or back (p^2, K, C), each worker a share of it.

        In the order in which they multiply: BLAS takes a fifth longer with a transposed factor.
        """
        self._wait_for_workspace(ctx)
        nine = w.reshape((self.k, self.c, 9)).transpose((0, 2, 1) if back else (1, 2, 0))
        u = ctx.group.shared_empty((self.p**2, nine.shape[0], nine.shape[2]), self.dtype)
        share = ctx.group.shard(nine.shape[0])
        self.xp.matmul(self.gg, nine[share], u.transpose((1, 0, 2))[share])
        ctx.group.barrier()
        return u

    def forward(self, x: Array, u: Array, y: Array) -> None:
        """Transform, multiply, transform back; a window without input gets exactly zero."""
        blank = self._zero_windows(x)
        self._maps(x)
        for grid, sums in self._runs(self._grid(self._products(u, x.shape[2])), y):
            self.sums_of.scatter(grid, sums)
        self.xp.copyto(y, 0, where=blank)

    def _zero_windows(self, x: Array) -> Array:
        """Which windows see zeros alone; found in memory that the transformed maps take next."""
        return zero_windows(self.xp, x, self.pad, self.workspace.array("inputs", x.shape).real)

    def _products(self, u: Array, m: int) -> Array:
        """The transformed maps of m images times the kernels, (p^2, tiles m, K)."""
        products = self._outputs(m)
        self.xp.matmul(self._inputs(m), u, products)
        return products

    def load(self, x: Array, dy: Array) -> None:
        """Both transformed; that of dy serves both gradients."""
        self._maps(x)
        self._loaded = x.shape[2]
        for sums, grid in self._runs(dy, self._grid(self._outputs(self._loaded))):
            self.sums_of.gather(sums, grid)

    def _wait_for_workspace(self, ctx: Context) -> None:
        """Meet, so that large kernels may lie where those of the convolution before did."""
        if self.k * self.c >= LARGE_KERNELS:
            ctx.group.barrier()

    def weight_gradient(self, dw: Array, add: bool) -> None:
        """One product for each of the p^2, then through the kernels' transform backwards, some kernels at a time."""
        inputs = self._inputs(self._loaded)
        outputs = self._outputs(self._loaded).transpose((0, 2, 1))
        for part in pieces(self.k, self.few):
            du = self.workspace.array("du", (self.p**2, part.stop - part.start, self.c))
            self.xp.matmul(outputs[:, part], inputs, du)
            found, products = dw[part].reshape((-1, self.c, 9)), du.transpose((1, 2, 0))
            if add:
                rest = self.workspace.array("dw", found.shape)
                self.xp.matmul(products, self.gg, rest)
                self.xp.add(found, rest, found)
            else:
                self.xp.matmul(products, self.gg, found)

    def data_gradient(self, u: Array, dx: Array) -> None:
        """Multiply, transform back."""
        for grid, maps in self._runs(self._grid(self._transposed(u, self._loaded)), dx):
            self.maps_of.scatter(grid, maps)

    def _transposed(self, u: Array, m: int) -> Array:
        """The transformed gradient of m images' outputs times the kernels, (p^2, tiles m, C)."""
        products = self._inputs(m)
        self.xp.matmul(self._outputs(m), u, products)
        return products

    def _maps(self, x: Array) -> None:
        """A piece of the maps, transformed."""
        for maps, grid in self._runs(x, self._grid(self._inputs(x.shape[2]))):
            self.maps_of.gather(maps, grid)

    def _grid(self, products: Array) -> Array:
        """Of (p^2, tiles m, channels) the view (p, p, tile rows, tile columns, m, channels)."""
        return products.reshape((self.p, self.p, self.th, self.tw, -1, products.shape[2]))

    def _runs(self, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        """Of arrays (..., m, channels) views (..., run), some images at a time."""
        for part in pieces(arrays[0].shape[-2], run_chunk(arrays[0])):
            yield tuple(array[..., part, :].reshape((*array.shape[:-2], -1)) for array in arrays)

    def _inputs(self, m: int) -> Array:
        """The transformed maps of m images, (p^2, tiles m, C)."""
        return self.workspace.array("inputs", (self.p**2, self.th * self.tw * m, self.c))

    def _outputs(self, m: int) -> Array:
        """The products, or the transformed gradient of the outputs, (p^2, tiles m, K)."""
        return self.workspace.array("outputs", (self.p**2, self.th * self.tw * m, self.k))
