"""Backends: array libraries behind one interface, NumPy on the CPU and CuPy on a GPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from nl_nodes.errors import DeviceError
from nl_nodes.runtime.cuda import Card
from nl_nodes.typing import Array, Namespace


class Backend(ABC):
    """An array library: its functions, conversion to and from its arrays, and its random generator.

    Attributes:
        xp: the module of array functions.
        block: the number of values to process at a time so that temporaries fit in a cache; None for all.
        index: the index of the GPU that the process uses.
    """

    xp: Namespace
    block: int | None = None
    index: int = 0

    @property
    def card(self) -> Card | None:
        """The GPU that compiled plans run on; None where plans run on the CPU, or not at all."""
        return None

    @abstractmethod
    def owns(self, value: Any) -> bool:
        """Return whether the value is an array of this backend."""

    @abstractmethod
    def array(self, value: Any, dtype: Any = None) -> Array:
        """Convert a value to an array of this backend; an array that already fits is not copied."""

    @abstractmethod
    def host(self, array: Array) -> Any:
        """Convert an array to a `numpy.ndarray`."""

    @abstractmethod
    def random_bits(self, seed: int, stream: int, counter: int, count: int) -> Array:
        """Return `count` uint64 words of Philox4x64-10.

        The key is (seed, stream); words 4b to 4b + 3 are the block at counter (b, counter).
        """

    def tf32(self) -> AbstractContextManager[None]:
        """Return a `with` block in which float32 products may round their factors to TF32 (10 bits of mantissa).

        Raises:
            DeviceError: where the device has no TF32.
        """
        raise DeviceError("device.tf32=true is for a GPU: leave it out, or use device=gpu")


# One of each for the process: an array tells its library, but not which of two backends made it.
_BACKENDS: dict[str, Backend] = {}


def backends() -> dict[str, Backend]:
    """Return the registered backends by device name."""
    return _BACKENDS


def backend_of(values: Iterable[Any]) -> Backend:
    """Return the backend that owns these arrays; NumPy's where there are only numbers and lists."""
    values = list(values)
    found = {name for name, backend in _BACKENDS.items() if any(backend.owns(value) for value in values)}
    if len(found) > 1:
        raise DeviceError(f"arrays of different devices in one pass ({', '.join(sorted(found))}): move them to one")
    return _BACKENDS[found.pop()] if found else _BACKENDS["cpu"]


def backend(name: str, index: int = 0) -> Backend:
    """Return the backend of a device; raise `DeviceError` where it is unavailable."""
    if name == "gpu" and name not in _BACKENDS:
        from nl_nodes.device.gpu import CupyBackend

        _BACKENDS[name] = CupyBackend(index)
    if name not in _BACKENDS:
        raise DeviceError(f"device {name!r} is unknown: use one of {', '.join(sorted({*_BACKENDS, 'gpu'}))}")
    if name == "gpu" and index != _BACKENDS[name].index:
        raise DeviceError(f"device.index={index}: this process uses GPU {_BACKENDS[name].index}; start another process")
    return _BACKENDS[name]
