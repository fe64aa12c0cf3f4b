"""Strict memory: a mutant's reads of uninitialised memory and out-of-bounds views fail deterministically."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds


@contextmanager
def strict_memory() -> Iterator[None]:
    """Fill new memory with NaN, and require that views lie within their array."""
    empty, as_strided = np.empty, np.lib.stride_tricks.as_strided

    def filled(shape: Any, dtype: Any = float, **options: Any) -> Any:
        array = empty(shape, dtype, **options)
        if array.dtype.kind in "fcb":
            array.fill(np.nan)
        return array

    def within(x: Any, shape: Any, strides: Any) -> Any:
        reaches = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
        start, (low, high) = x.ctypes.data, byte_bounds(x)
        first, last = start + sum(min(r, 0) for r in reaches), start + sum(max(r, 0) for r in reaches) + x.itemsize
        if min(shape) < 0 or (all(shape) and not low <= first <= last <= high):
            raise IndexError(f"a view {shape} in steps of {strides} leaves an array {x.shape}")
        return as_strided(x, shape, strides)

    np.empty, np.lib.stride_tricks.as_strided = filled, within
    try:
        yield
    finally:
        np.empty, np.lib.stride_tricks.as_strided = empty, as_strided
