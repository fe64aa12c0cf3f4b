"""Types of arrays, shapes and axes."""

from __future__ import annotations

from typing import Any

Array = Any
"""An array of the device: `numpy.ndarray`, `cupy.ndarray`, or the tests' strict fake."""

Namespace = Any
"""The module with the array functions: `numpy`, `cupy`."""

Shape = tuple[int, ...]
Axis = int | tuple[int, ...] | None
