"""Names for what flows through a graph."""

from __future__ import annotations

from typing import Any

Array = Any
"""An array of the device: `numpy.ndarray`, `cupy.ndarray`, or a strict stand-in in the tests."""

Namespace = Any
"""The module whose functions make and change such arrays: `numpy`, `cupy`."""

Shape = tuple[int, ...]
Axis = int | tuple[int, ...] | None
