"""Winograd convolution: fewer products than the definition's, between three small linear transforms.

Along one axis, m outputs of a kernel of 3 follow from t inputs as y = A' ((G w) * (B' x)), with p products instead of
3 m. Along two axes the transforms are applied one after the other, and summed over channels the products are p^2
matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import ceil
from typing import Any

from nl_nodes.compiler.fused.conv.algorithm import Chunk, ConvAlgorithm
from nl_nodes.compiler.fused.conv.tile_transform import Transform
from nl_nodes.compiler.fused.conv.zero_windows import zero_windows
from nl_nodes.compiler.fused.epilogue import ALL
from nl_nodes.compiler.fused.workspace import cache_chunk, chunk_slices, flat_chunk
from nl_nodes.context import Context, WorkerGroup
from nl_nodes.errors import ShapeError
from nl_nodes.runtime.cut import BLOCK
from nl_nodes.typing import Array, Shape

GEMM_MIN_ROWS = 192
"""Minimum rows of each matrix product."""

LARGE_KERNELS = 2**16
"""Kernels times channels from which on their transforms take much memory."""

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class WinogradSpec:
    """The matrices of one Winograd algorithm.

    Attributes:
        name: its name.
        tile: m, the outputs of a tile along one axis.
        bt: B', (p, t).
        g: G, (p, 3).
        at: A', (m, p).
        padded: whether its matrices already account for the zeros around the maps.
    """

    name: str
    tile: int
    bt: Matrix
    g: Matrix
    at: Matrix
    padded: bool = False

    @property
    def product_count(self) -> int:
        """The number p of products along one axis."""
        return len(self.bt)

    def count(self, size: int) -> int:
        """Return the number of tiles along an axis of `size` outputs."""
        return ceil(size / self.tile)


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
    """Winograd convolution with 3x3 kernels, in chunks of rows of tiles and of images.

    Args:
        spec: the algorithm.
        pad: rows and columns of zero padding on every side.
        group, x, outputs, dtype: as for `ConvAlgorithm`.
    """

    scatters = True

    def __init__(self, spec: WinogradSpec, pad: int, group: WorkerGroup, x: Shape, outputs: Shape, dtype: Any) -> None:
        super().__init__(group, x, outputs, dtype)
        xp = self.xp
        if pad > 2 or (self.oh, self.ow) != tuple(n + 2 * pad - 2 for n in x[:2]):
            raise ShapeError(f"{spec.name}: maps {x[:2]} with a pad of {pad} do not give outputs {outputs[:2]}")
        self.spec, self.p, self.pad, self.h = spec, spec.product_count, pad, x[0]
        self.before = 0 if spec.padded else pad
        self.th, self.tw = spec.count(self.oh), spec.count(self.ow)
        self.tile_rows, self.images, self.kernel_chunk = self._chunk_sizes()
        real = dtype.type(0).real.dtype
        self.bt, self.at = xp.array(spec.bt, dtype=real), xp.array(spec.at, dtype=real)
        # Both axes at once: row (i, j) holds G[i, a] G[j, b] for each of the kernel's nine weights (a, b).
        both = tuple(tuple(p * q for p in gi for q in gj) for gi in spec.g for gj in spec.g)
        self.kernel_transform = xp.array(both, dtype=real)

    def _chunk_sizes(self) -> tuple[int, int, int]:
        """Return the rows of tiles and the images per chunk, and the kernels per chunk of their gradient.

        Rather many images than many rows: an image's row of tiles is transformed alike, in one inner loop.
        """
        row_bytes = 4 * self.p**2 * self.tw * (self.c + self.k)
        images = cache_chunk(self.group, self.n, row_bytes, ceil(GEMM_MIN_ROWS / self.tw))
        rows = cache_chunk(self.group, self.th, row_bytes * images, ceil(GEMM_MIN_ROWS / (self.tw * images)))
        return rows, images, cache_chunk(self.group, self.k, 4 * self.p**2 * self.c)

    def chunks(self, pool_stride: int) -> Iterator[Chunk]:
        """Yield chunks of rows of tiles and of images; an incomplete last row of tiles joins the one before."""
        for images in chunk_slices(self.n, self.images):
            for first, end in pairwise([*self._first_rows(), self.oh]):
                shape = (end - first, self.ow, images.stop - images.start, self.k)
                outputs = slice(first // pool_stride, end // pool_stride)
                inputs = slice(max(first - self.before, 0), min(end + 2 - self.before, self.h))
                yield Chunk((outputs, images), (inputs, ALL, images), shape, first)

    def _first_rows(self) -> list[int]:
        """Return the first row of outputs of each chunk."""
        tile = self.spec.tile
        return [tile * tiles.start for tiles in chunk_slices(self.oh // tile, self.tile_rows)] or [0]

    def _begin(self, chunk: Chunk) -> None:
        """Make the transforms of a chunk."""
        rows, _, self.m, _ = chunk.shape
        counts = self.spec.count(rows), self.tw
        self.tiles = counts[0] * self.tw
        make = partial(Transform, self.xp, counts=counts, stride=self.spec.tile, workspace=self.workspace)
        size = chunk.input[0].stop - chunk.input[0].start, self.ow + 2 - 2 * self.pad
        pads = max(self.before - chunk.first, 0), self.before
        self.input_transform = make(self.bt, pads=pads, size=size, last=chunk.first + rows == self.oh)
        self.output_transform = make(self.at.T, pads=(0, 0), size=(rows, self.ow))

    def transformed_kernels(self, ctx: Context, w: Array, back: bool = False) -> Array:
        """Return the transformed kernels of the filters K in panels, or with `back` of the channels C.

        Each worker transforms its shard. Not a transposed view: BLAS takes a fifth longer with a transposed factor.
        """
        self._wait_for_workspace(ctx)
        taps = w.reshape((self.k, self.c, 9)).transpose((0, 2, 1) if back else (1, 2, 0))
        rows, _, columns = taps.shape
        u = ctx.group.shared_empty(self._panelled(rows, columns), self.dtype)
        shard = ctx.group.shard(rows)
        self._transform_kernels(taps[shard], u[:, :, shard])
        ctx.group.barrier()
        return u

    def _panelled(self, rows: int, columns: int) -> Shape:
        """Return the shape (p^2, panels, rows, width) of transformed kernels.

        A panel has the columns that BLAS computes at once, with its rows adjacent; else they may be pages apart.
        """
        width = BLOCK if self.group.panels and columns % BLOCK == 0 else columns
        return self.p**2, columns // width, rows, width

    def _transform_kernels(self, taps: Array, u: Array) -> None:
        """Transform kernels (rows, 9, columns) to u (p^2, panels, rows, width)."""
        panels, width = u.shape[1], u.shape[3]
        of_panels = taps.reshape((*taps.shape[:2], panels, width)).transpose((2, 0, 1, 3))
        self.xp.matmul(self.kernel_transform, of_panels, u.transpose((1, 2, 0, 3)))

    def _multiply_panels(self, maps: Array, u: Array, products: Array) -> None:
        """Multiply maps (p^2, M, rows) by kernels in panels to products (p^2, M, columns)."""
        panels, width = u.shape[1], u.shape[3]
        columns = products.reshape((*products.shape[:2], panels, width)).transpose((0, 2, 1, 3))
        self.xp.matmul(maps[:, None], u, columns)

    def forward(self, chunk: Chunk, x: Array, u: Array, y: Array) -> None:
        """Transform, multiply, transform back; a window of zeros gives exactly zero."""
        self._begin(chunk)
        zero = self._zero_windows(chunk, x)
        self._transform_maps(x)
        for grid, sums in self._flattened(self._grid(self._products(u)), y):
            self.output_transform.scatter(grid, sums)
        self.xp.copyto(y, 0, where=zero)

    def _zero_windows(self, chunk: Chunk, x: Array) -> Array:
        """Return which windows hold only zeros, computed in the workspace of the transformed maps."""
        pads = max(self.pad - chunk.first, 0), self.pad
        return zero_windows(self.xp, x, pads, chunk.shape[:2], self.workspace.array("inputs", x.shape).real)

    def _products(self, u: Array) -> Array:
        """Return the products (p^2, tiles m, K) of the transformed maps of m images and the kernels."""
        products = self._transformed_outputs()
        self._multiply_panels(self._transformed_inputs(), u, products)
        return products

    def begin_backward(self, chunk: Chunk, x: Array, dy: Array) -> None:
        """Transform the maps and dy; transformed dy serves both gradients."""
        self._begin(chunk)
        self._transform_maps(x)
        for sums, grid in self._flattened(dy, self._grid(self._transformed_outputs())):
            self.output_transform.gather(sums, grid)

    def _wait_for_workspace(self, ctx: Context) -> None:
        """Barrier before large kernels, so that they can reuse the memory of the previous convolution's."""
        if self.k * self.c >= LARGE_KERNELS:
            ctx.group.barrier()

    def weight_gradient(self, dw: Array, add: bool) -> None:
        """Compute p^2 matrix products, then the transpose of the kernels' transform, in chunks of kernels."""
        inputs = self._transformed_inputs()
        outputs = self._transformed_outputs().transpose((0, 2, 1))
        for chunk in chunk_slices(self.k, self.kernel_chunk):
            du = self.workspace.array("du", (self.p**2, chunk.stop - chunk.start, self.c))
            self.xp.matmul(outputs[:, chunk], inputs, du)
            target, gradient = dw[chunk].reshape((-1, self.c, 9)), du.transpose((1, 2, 0))
            if add:
                term = self.workspace.array("dw", target.shape)
                self.xp.matmul(gradient, self.kernel_transform, term)
                self.xp.add(target, term, target)
            else:
                self.xp.matmul(gradient, self.kernel_transform, target)

    def data_gradient(self, u: Array, dx: Array) -> None:
        """Multiply by the transposed kernels, transform back.

        Comes after `weight_gradient`: the gradient takes the place of the transformed maps.
        """
        for grid, maps in self._flattened(self._grid(self._transformed_input_gradient(u)), dx):
            self.input_transform.scatter(grid, maps)

    def _transformed_input_gradient(self, u: Array) -> Array:
        """Return the transformed gradient (p^2, tiles m, C) of the maps of m images."""
        gradient = self._transformed_inputs()
        self._multiply_panels(self._transformed_outputs(), u, gradient)
        return gradient

    def _transform_maps(self, x: Array) -> None:
        """Transform a chunk of the maps."""
        for maps, grid in self._flattened(x, self._grid(self._transformed_inputs())):
            self.input_transform.gather(maps, grid)

    def _grid(self, transformed: Array) -> Array:
        """Return the view (p, p, tile rows, tile columns, m, channels) of (p^2, tiles m, channels)."""
        return transformed.reshape((self.p, self.p, -1, self.tw, self.m, transformed.shape[2]))

    def _flattened(self, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        """Yield views (..., flat) of arrays (..., m, channels), in chunks of images."""
        for images in chunk_slices(arrays[0].shape[-2], flat_chunk(self.group, arrays[0])):
            yield tuple(array[..., images, :].reshape((*array.shape[:-2], -1)) for array in arrays)

    def _transformed_inputs(self) -> Array:
        """Return workspace for the transformed maps of m images, then for their gradient, (p^2, tiles m, C)."""
        return self.workspace.array("inputs", (self.p**2, self.tiles * self.m, self.c))

    def _transformed_outputs(self) -> Array:
        """Return workspace for the transformed outputs, or their gradient, of m images, (p^2, tiles m, K)."""
        return self.workspace.array("outputs", (self.p**2, self.tiles * self.m, self.k))
