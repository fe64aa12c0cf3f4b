"""Calls: the instructions of a compiled plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Call = tuple[str, tuple[Any, ...]]
"""The name of a function and its arguments: arrays, numbers, axes, and the array that it writes to."""

BoundCall = tuple[Callable[..., Any], tuple[Any, ...]]
"""A call whose name is resolved to the function."""
