"""Chunks of images, rows or kernels that fit in the cache, and the workspace that they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nl_nodes.context import WorkerGroup
from nl_nodes.shapes import size
from nl_nodes.typing import Array, Namespace, Shape

CACHE_BYTES = 3 * 2**20
"""Bytes that a chunk should take at most to stay in the processor's cache."""

FLAT_LENGTH = 4096
"""Contiguous elements to transform at once, at most: intermediate results take memory."""


def cache_chunk(group: WorkerGroup, count: int, item_bytes: int, least: int = 1) -> int:
    """Return the largest even chunk of `count` items that fits in the cache, or has at least `least`."""
    return even_chunk(count, max(CACHE_BYTES // item_bytes, least) if group.chunked else count)


def flat_chunk(group: WorkerGroup, array: Array) -> int:
    """Return how many images of (..., N, C) to flatten with their channels into one axis."""
    images, channels = array.shape[-2:]
    return even_chunk(images, FLAT_LENGTH // channels if group.chunked else images)


def even_chunk(count: int, most: int) -> int:
    """Return the chunk size of at most `most` that splits `count` items into chunks of nearly one size."""
    return -(-count // -(-count // max(most, 1))) if count else 1


def chunk_slices(count: int, chunk: int) -> Iterator[slice]:
    """Yield the slices that split `count` items into chunks; the last may be smaller."""
    for start in range(0, count, chunk):
        yield slice(start, min(start + chunk, count))


class Workspace:
    """Scratch memory by name, each block as large as the largest array asked of it; the first chunk is the largest.

    Args:
        xp: the device's array functions.
        dtype: of all arrays.
    """

    def __init__(self, xp: Namespace, dtype: Any) -> None:
        self.xp, self.dtype = xp, dtype
        self._blocks: dict[str, Array] = {}

    def array(self, name: str, shape: Shape) -> Array:
        """Return an uninitialised array in the block of this name."""
        count = size(shape)
        if name not in self._blocks or self._blocks[name].size < count:
            self._blocks[name] = self.xp.empty((count,), dtype=self.dtype)
        return self._blocks[name][:count].reshape(shape)
