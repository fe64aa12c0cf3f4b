"""Shape and axis arithmetic."""

from __future__ import annotations

import math

from nl_nodes.errors import ShapeError
from nl_nodes.typing import Array, Axis, Shape


def normalise(axis: Axis, ndim: int) -> tuple[int, ...]:
    """Return the axes as sorted non-negative indices; None means all.

    >>> normalise((-1, 0), 3)
    (0, 2)
    """
    if axis is None:
        return tuple(range(ndim))
    axes = (axis,) if isinstance(axis, int) else axis
    found = sorted({a + ndim if a < 0 else a for a in axes})
    if len(found) != len(axes) or any(not 0 <= a < ndim for a in found):
        raise ShapeError(f"axis {axis} does not fit {ndim} axes")
    return tuple(found)


def reduced(shape: Shape, axes: tuple[int, ...], keepdims: bool) -> Shape:
    """Return the shape after a reduction over these (normalised) axes.

    >>> reduced((2, 3, 4), (0, 2), keepdims=True)
    (1, 3, 1)
    """
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def broadcast(*shapes: Shape) -> Shape:
    """Return the broadcast shape; raise `ValueError` where there is none.

    >>> broadcast((4, 1), (3,))
    (4, 3)
    """
    ndim = max(map(len, shapes))
    padded = [(1,) * (ndim - len(shape)) + shape for shape in shapes]
    return tuple(_common(sizes) for sizes in zip(*padded, strict=True))


def _common(sizes: tuple[int, ...]) -> int:
    others = {n for n in sizes if n != 1}
    if len(others) > 1:
        raise ValueError("no common shape")
    return others.pop() if others else 1


def unbroadcast(array: Array, shape: Shape) -> Array:
    """Sum a gradient of a broadcast shape to the shape before broadcasting."""
    if array.shape == shape:
        return array
    lead = array.ndim - len(shape)
    axes = tuple(i for i in range(array.ndim) if i < lead or shape[i - lead] == 1)
    return array.sum(axis=axes).reshape(shape)


def size(shape: Shape) -> int:
    """Return the number of elements."""
    return math.prod(shape)
