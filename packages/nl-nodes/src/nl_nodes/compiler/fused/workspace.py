"""A piece at a time, of images, rows or kernels: how many make one, which, and the memory that all use in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nl_nodes.shapes import size
from nl_nodes.typing import Array, Namespace, Shape

CACHE_BYTES = 3 * 2**20
"""Bytes that a piece should take at most, so that it stays in the processor's cache."""

RUN_LENGTH = 4096
"""Numbers next to each other that are transformed at once, at most: in between they take memory."""


def cache_chunk(count: int, each: int, least: int = 1) -> int:
    """How many, of so many bytes each, make an even piece: what the cache holds, or at least so many."""
    return even_chunk(count, max(CACHE_BYTES // each, least))


def run_chunk(array: Array) -> int:
    """How many images of (..., N, C) make an even run, all their channels next to each other."""
    images, channels = array.shape[-2:]
    return even_chunk(images, RUN_LENGTH // channels)


def even_chunk(count: int, most: int) -> int:
    """How many of so many to take at a time, at most so many, so that all parts are nearly alike."""
    return -(-count // -(-count // max(most, 1))) if count else 1


def pieces(count: int, many: int) -> Iterator[slice]:
    """All, so many at a time; fewer are left for the last piece."""
    for start in range(0, count, many):
        yield slice(start, min(start + many, count))


class Workspace:
    """Memory by name, each as large as the largest array it was wanted for; the first piece wants the largest.

    Args:
        xp: the device's array functions.
        dtype: of everything.
    """

    def __init__(self, xp: Namespace, dtype: Any) -> None:
        self.xp, self.dtype = xp, dtype
        self._blocks: dict[str, Array] = {}

    def array(self, name: str, shape: Shape) -> Array:
        """An array of a shape there; what it holds is left from before."""
        count = size(shape)
        if name not in self._blocks or self._blocks[name].size < count:
            self._blocks[name] = self.xp.empty((count,), dtype=self.dtype)
        return self._blocks[name][:count].reshape(shape)
