"""The directional check: a gradient's product with a direction beside the complex step along that direction.

It costs one forward pass, however many elements and leaves the direction moves.
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
    """The product of a gradient with a direction.

    Attributes:
        analytic: of the gradient that is checked.
        numeric: of the complex step.
        size: the size that such a product has.
    """

    analytic: float = 0.0
    numeric: float = 0.0
    size: float = 0.0

    @property
    def difference(self) -> float:
        """How far apart the two are."""
        return abs(self.analytic - self.numeric)

    @property
    def residual(self) -> float:
        """The difference in units of the product's size; 0 where all are 0, NaN where anything is."""
        size = float(np.maximum(self.size, abs(self.numeric)))
        return self.difference / size if size else 0.0


@dataclass(frozen=True)
class DirectionalCheck:
    """Compares gradients of a sum of outputs, such as the losses of a batch's slices, with the complex step.

    Attributes:
        terms: what is added up.
    """

    terms: Sequence[Term]

    def along(self, grads: Mapping[str, Any], direction: Mapping[str, Any]) -> Product:
        """The product with a direction that has an array for each leaf that moves."""
        analytic = sum(float(np.sum(grads[name] * u)) for name, u in direction.items())
        numeric = sum(derivative(graph, feeds, direction, dy) for graph, feeds, dy in self.terms)
        return Product(analytic, numeric, _size([grads[name] for name in direction]))

    def along_each(self, name: str, grad: Any, directions: Iterable[Any]) -> list[Product]:
        """One leaf's products with several directions, up to the first that is not finite; none of no elements."""
        products: list[Product] = []
        for direction in directions if grad.size else ():
            products.append(self.along({name: grad}, {name: direction}))
            if not isfinite(products[-1].residual):
                break
        return products


def worst(products: Sequence[Product]) -> tuple[int, Product]:
    """The number of the largest residual, and its product; nothing is larger than what is not finite."""

    def rank(numbered: tuple[int, Product]) -> tuple[bool, float, int]:
        number, product = numbered
        return not isfinite(product.residual), product.residual, number

    return max(enumerate(products), key=rank, default=(0, Product()))


def leaf_size(grad: Any) -> float:
    """The size that a leaf's product with a random direction has: |g|_1 / sqrt(n)."""
    return float(np.abs(grad).sum() / np.sqrt(max(grad.size, 1)))


def _size(grads: Sequence[Any]) -> float:
    """The size of a product: of several leaves, whose elements differ by orders, the root of the sum of squares."""
    if len(grads) == 1:
        return leaf_size(grads[0])
    return float(np.sqrt(sum(np.sum(grad * grad) for grad in grads)))
