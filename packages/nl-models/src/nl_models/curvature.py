"""`Curvature`: the Hessian or Gauss-Newton matrix of a network's loss on a set of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from nl_layers import FlatDict
from nl_nodes import Device, Graph, ShapeError, UserError, backend_of
from nl_nodes.arguments import COUNT, near
from nl_nodes.curvature import (
    Density,
    Trace,
    eigenvalues,
    gauss_newton_product,
    hessian_product,
    spectral_density,
    trace,
)
from nl_nodes.device.blas import BlasThreads
from nl_nodes.platform import cpu_count
from nl_nodes.typing import Array

if TYPE_CHECKING:
    from nl_models.network import Network

Piece = tuple[Graph, dict[str, Array], float]
"""A graph, its feeds, and its share of the images."""


class Curvature:
    """The Hessian of a network's mean training loss on images x with labels t, known by its products with vectors.

    The weights are copied when this is created. All is computed from them in double precision, node by node, on the
    CPU. The loss is that of training: with dropout, and with the batch's statistics in batch norms. The set is cut into
    pieces that differ by at most one image, and each core takes one at a time. Their products are averaged by number of
    images, as in a step on several batches: a batch norm has the statistics of each piece, and piece k the dropout
    masks of pass `net.passes + k`, the same in every product.

    Args:
        net: the network; it is not changed.
        x: images (N, C, H, W).
        t: labels, as in `Network.step`.
        batch_size: the most images per piece; None for all in one.
        gauss_newton: take the generalised Gauss-Newton matrix instead of the Hessian.

    Attributes:
        shapes: shape of each parameter by name.
        size: number of rows and columns.

    >>> import numpy as np
    >>> from nl_models import mlp
    >>> net = mlp(hidden=[5], input_shape=(3,), classes=2)
    >>> hessian = Curvature(net, np.eye(3), np.array([0, 1, 0]))
    >>> hessian.size, hessian.product(np.ones(hessian.size)).shape
    (32, (32,))
    """

    def __init__(self, net: Network, x: Any, t: Any, batch_size: int | None = 100, gauss_newton: bool = False) -> None:
        self._cores = net.device.threads or cpu_count()
        self._net = net.on(Device(dtype="float64", compile=False))
        self._multiply = gauss_newton_product if gauss_newton else hessian_product
        self.shapes = self._net.params.shapes()
        self.size = int(self._net.params.flat.size)
        x, t = self._net.batch(_host(x), _host(t))
        size = len(x) if batch_size is None else batch_size
        COUNT.check("Curvature", batch_size=size)
        self._pieces = list(self._cut(x, t, size))

    def _cut(self, x: Array, t: Array, most: int) -> Iterator[Piece]:
        """Yield pieces that differ by at most one image."""
        count = -(-len(x) // most)
        for number in range(count):
            part = slice(number * len(x) // count, (number + 1) * len(x) // count)
            feeds = {"x": x[part], "t": t[part]}
            graph = self._wired(len(feeds["x"]), t, len(x), most)
            graph.passes = self._net.passes + number
            yield graph, feeds, len(feeds["x"]) / len(x)

    def _wired(self, images: int, t: Array, of: int, most: int) -> Graph:
        try:
            return self._net.wire(images, train=True, rows=t.ndim == 2)
        except ShapeError as error:
            raise ShapeError(f"{error}; batch_size={most} cuts {of} images into pieces of {images} and more") from None

    def named_product(self, v: Mapping[str, Any]) -> FlatDict:
        """Return the product with a vector, both by parameter name; parameters that are not named count as 0."""
        for name in v:
            if name not in self.shapes:
                raise UserError(f"{self._net.name} has no parameter {name!r}: {near(name, self.shapes)}")
        v = {name: _host(array) for name, array in v.items()}
        total = self._zeros()
        workers = min(self._cores, len(self._pieces))
        with BlasThreads(self._cores // workers), ThreadPoolExecutor(workers) as pool:
            products = pool.map(lambda piece: self._multiply(piece[0], piece[1], v), self._pieces)
            for (_, _, share), product in zip(self._pieces, products, strict=True):
                for name, array in product.items():
                    total[name] += share * array
        return total

    def product(self, v: Array) -> Array:
        """Return the product with a vector (size,), both in the order of `Network.params.flat`."""
        named = self._zeros()
        named.flat = _host(v)
        return self.named_product(named).flat

    def eigenvalues(self, count: int = 1, end: str = "largest", tolerance: float = 1e-3, seed: int = 0) -> Array:
        """Return eigenvalues at an end of the spectrum; see `nl_nodes.curvature.eigenvalues`."""
        return eigenvalues(self.product, self.size, count, end, tolerance, seed)

    def trace(self, probes: int = 10, seed: int = 0) -> Trace:
        """Return an estimate of the trace with its standard error; see `nl_nodes.curvature.trace`."""
        return trace(self.product, self.size, probes, seed)

    def density(self, steps: int = 80, probes: int = 1, seed: int = 0) -> Density:
        """Return the density of all eigenvalues; see `nl_nodes.curvature.spectral_density`."""
        return spectral_density(self.product, self.size, steps, probes, seed)

    def _zeros(self) -> FlatDict:
        return FlatDict(self.shapes, self._net.device.zeros)


def _host(values: Any) -> Any:
    return backend_of([values]).host(values)
