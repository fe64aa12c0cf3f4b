"""Calls: the instructions of a compiled plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nl_nodes.errors import DeviceError

Call = tuple[str, tuple[Any, ...]]
"""The name of a function and its arguments: arrays, numbers, axes, and the array that it writes to."""

BoundCall = tuple[Callable[..., Any], tuple[Any, ...]]
"""A call whose name is resolved to the function."""


class CallFailed(DeviceError):
    """Raised by an executor that knows which call failed.

    Attributes:
        number: of the call in its worker's list.
        reason: what the device says.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"call {number} failed on the GPU: {reason}")
        self.number, self.reason = number, reason
