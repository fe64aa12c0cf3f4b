"""Random inputs and upstream gradients for verification."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nl_nodes.cases import Draw
from nl_nodes.shapes import size
from nl_nodes.typing import Shape

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


def draw(rng: np.random.Generator, what: Draw) -> Any:
    """Return a random array with the shape and domain of a `Draw`: float64, or int64 for labels."""
    shape = what.shape
    if what.domain == "labels":
        return rng.integers(0, what.classes, shape)
    if what.domain == "positive":
        return rng.uniform(0.5, 2.0, shape)
    if what.domain == "unit":
        return rng.uniform(0.1, 0.9, shape)
    if what.domain == "distinct":
        return (rng.permutation(size(shape)).reshape(shape) - size(shape) / 2) * 0.1
    values = rng.standard_normal(shape)
    if what.domain == "away":
        return what.point + values + np.where(values < 0, -0.1, 0.1)
    return values


def upstream(rng: np.random.Generator, shape: Shape) -> FloatArray:
    """Return a random upstream gradient with both signs, distinct elements and none near zero."""
    values = rng.uniform(0.5, 1.5, shape)
    signs = rng.choice([-1.0, 1.0], shape)
    return np.asarray(values * signs)


def through_all(rng: np.random.Generator, arrays: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Return one random direction through several arrays; its components differ, so that errors cannot cancel."""
    return {name: upstream(rng, array.shape) for name, array in arrays.items()}


def directions(rng: np.random.Generator, shape: Shape, draws: int) -> Iterator[FloatArray]:
    """Yield `draws` random directions, all of 2-norm near `sqrt(n)`.

    All but the last have components of +1 and -1, so that no single wrong element is missed. The last is Gaussian, so
    that the errors of several elements cannot cancel; its components are at least 0.1 in absolute value, so that no
    element is missed (after Chainer's gradient_check).
    """
    for _ in range(draws - 1):
        yield rng.choice([-1.0, 1.0], shape)
    gauss = rng.standard_normal(shape)
    yield np.copysign(np.maximum(np.abs(gauss), 0.1), gauss)
