"""Affine indices, the spaces of threads they range over, and the demands that refine a space.

An index is a tuple: a constant, then one coefficient for each axis of a space. Axis `a` has coefficient `index[a + 1]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from operator import add as plus

Index = tuple[int, ...]
Rewrite = Callable[[Index], Index]
"""Turns an index in one space into the same index in a refined one."""


class Demand(Exception):
    """Raised where a question has no single answer for all threads: the space must be refined along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__(axis)
        self.axis = axis


class Unroll(Demand):
    """Every thread must go over the whole axis itself."""


class Factor(Demand):
    """The axis must be replaced by two, the inner one of a given size."""

    def __init__(self, axis: int, inner: int) -> None:
        super().__init__(axis)
        self.inner = inner


class Split(Demand):
    """The axis must be cut in two, for different threads."""

    def __init__(self, axis: int, at: int) -> None:
        super().__init__(axis)
        self.at = at


class Opaque(Exception):
    """Raised where a call's result cannot be expressed in the reader's thread: it needs memory.

    Args:
        call: the number of the call.
        reason: why, for a person who debugs the compiler.
    """

    def __init__(self, call: int, reason: str) -> None:
        super().__init__(f"call {call}: {reason}")
        self.call = call


@dataclass(frozen=True)
class Space:
    """The axes that a kernel's threads range over.

    Attributes:
        sizes: the size of each axis.
        loops: the axes that a reduction goes over.
        unrolled: the axes that every thread goes over itself, in straight-line code.
    """

    sizes: tuple[int, ...]
    loops: frozenset[int] = frozenset()
    unrolled: frozenset[int] = frozenset()

    def index(self, axis: int | None, coefficient: int = 1) -> Index:
        """Return the index that is an axis's own, or 0."""
        return (0, *(coefficient if a == axis else 0 for a in range(len(self.sizes))))

    def unroll(self, axis: int) -> Space:
        """Return the space with an axis unrolled."""
        return replace(self, unrolled=self.unrolled | {axis})

    def factor(self, axis: int, inner: int) -> tuple[Space, Rewrite]:
        """Return the space with an axis replaced by an outer and an inner one."""
        at = axis + 1

        def rewrite(x: Index) -> Index:
            return (*x[:at], x[at] * inner, *x[at:])

        def moved(axes: frozenset[int]) -> frozenset[int]:
            both = {axis, at} if axis in axes else set()
            return frozenset({a + (a > axis) for a in axes - {axis}} | both)

        sizes = (*self.sizes[:axis], self.sizes[axis] // inner, inner, *self.sizes[at:])
        return Space(sizes, moved(self.loops), moved(self.unrolled)), rewrite

    def cut(self, axis: int, begin: int, end: int) -> tuple[Space, Rewrite]:
        """Return the region of the space between two places on an axis."""
        at, single = axis + 1, end - begin == 1

        def rewrite(x: Index) -> Index:
            return (x[0] + x[at] * begin, *x[1:at], 0 if single else x[at], *x[at + 1 :])

        return replace(self, sizes=(*self.sizes[:axis], end - begin, *self.sizes[at:])), rewrite


def add(x: Index, y: Index) -> Index:
    """Return x + y."""
    return tuple(map(plus, x, y))


def at_place(x: Index, axis: int, number: int) -> Index:
    """Return the index at one place of an axis."""
    at = axis + 1
    return (x[0] + x[at] * number, *x[1:at], 0, *x[at + 1 :]) if x[at] else x


def combine(offset: int, indices: Iterable[Index], strides: Iterable[int], axes: int) -> Index:
    """Return the address offset + sum of index * stride."""
    total = [offset] + [0] * axes
    for x, stride in zip(indices, strides, strict=True):
        if stride:
            for i, k in enumerate(x):
                if k:
                    total[i] += k * stride
    return tuple(total)
