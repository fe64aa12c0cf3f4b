"""The directional check: compare a gradient's inner product with a direction with the complex step along it.

It costs one forward pass, whatever the number of elements and leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from nl_nodes.graph import Graph
from nl_nodes.verify.numeric import derivative

Term = tuple[Graph, Mapping[str, Any], Any]
"""A graph, its float64 feeds, and the upstream gradient of its first output."""


@dataclass(frozen=True)
class Product:
    """The inner product of a gradient and a direction, analytic and numerical.

    Attributes:
        analytic: the product with the gradient under test.
        numeric: the directional derivative from the complex step.
        size: the typical size of the product of this gradient with a random direction.
    """

    analytic: float = 0.0
    numeric: float = 0.0
    size: float = 0.0

    @property
    def difference(self) -> float:
        """Absolute difference of the two values."""
        return abs(self.analytic - self.numeric)

    @property
    def residual(self) -> float:
        """The difference in units of the product's size; 0 if all values are 0, NaN if any is."""
        size = float(np.maximum(self.size, abs(self.numeric)))
        return self.difference / size if size else 0.0


@dataclass(frozen=True)
class DirectionalCheck:
    """Compares gradients of a sum of outputs, such as the losses of a batch's slices, with the complex step.

    Attributes:
        terms: the terms of the sum.
    """

    terms: Sequence[Term]

    def along(self, grads: Mapping[str, Any], direction: Mapping[str, Any]) -> Product:
        """Return the product with a direction, given as one array for each leaf that it moves."""
        analytic = sum(float(np.sum(grads[name] * u)) for name, u in direction.items())
        numeric = sum(derivative(graph, feeds, direction, dy) for graph, feeds, dy in self.terms)
        return Product(analytic, numeric, _size([grads[name] for name in direction]))

    def along_each(self, name: str, grad: Any, directions: Iterable[Any]) -> list[Product]:
        """Return one leaf's products with several directions, up to the first that is not finite.

        An empty gradient has none.
        """
        products: list[Product] = []
        for direction in directions if grad.size else ():
            products.append(self.along({name: grad}, {name: direction}))
            if not isfinite(products[-1].residual):
                break
        return products


def worst(products: Sequence[Product]) -> tuple[int, Product]:
    """Return the index and value of the product with the largest residual; NaN and infinity rank above all."""

    def rank(numbered: tuple[int, Product]) -> tuple[bool, float, int]:
        number, product = numbered
        return not isfinite(product.residual), product.residual, number

    return max(enumerate(products), key=rank, default=(0, Product()))


def leaf_size(grad: Any) -> float:
    """Return the typical size of a leaf's product with a random direction: `|g|_1 / sqrt(n)`."""
    return float(np.abs(grad).sum() / np.sqrt(max(grad.size, 1)))


def _size(grads: Sequence[Any]) -> float:
    """Return the size of a product; for several leaves, whose elements differ by orders of magnitude, the 2-norm."""
    if len(grads) == 1:
        return leaf_size(grads[0])
    return float(np.sqrt(sum(np.sum(grad * grad) for grad in grads)))
