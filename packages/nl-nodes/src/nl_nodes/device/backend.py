"""A backend is an array library: NumPy on the CPU, CuPy on a GPU. All that differs between them is behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from nl_nodes.errors import DeviceError
from nl_nodes.typing import Array, Namespace


class Backend(ABC):
    """An array library with what its arrays are, how they come and go, and where its random words come from.

    Attributes:
        xp: its module of array functions.
        block: how many values to work on at a time, so that what is made of them stays in a cache; None for all.
    """

    xp: Namespace
    block: int | None = None

    @abstractmethod
    def owns(self, value: Any) -> bool:
        """Whether the value is an array of this backend."""

    @abstractmethod
    def array(self, value: Any, dtype: Any = None) -> Array:
        """The value as an array of this backend: itself where it fits, else a copy, as of host arrays and numbers."""

    @abstractmethod
    def host(self, array: Array) -> Any:
        """The array as a `numpy.ndarray`."""

    @abstractmethod
    def random_bits(self, seed: int, stream: int, counter: int, count: int) -> Array:
        """`count` words, uint64, of Philox4x64-10 with key (seed, stream): words 4b to 4b + 3 of block (b, counter)."""

    def use_tf32(self, wanted: bool) -> None:
        """Whether float32 products may be of factors rounded to TF32, 10 bits in place of 23, which only a GPU has."""
        if wanted:
            raise DeviceError("device.tf32=true is for a GPU: leave it out, or use device=gpu")


def backends() -> dict[str, Backend]:
    """The backends in use, by the name of their device; a new one adds itself."""
    return _BACKENDS


def backend_of(values: Iterable[Any]) -> Backend:
    """The backend that owns these arrays; plain numbers and lists belong to all, alone to NumPy."""
    values = list(values)
    found = {name for name, backend in _BACKENDS.items() if any(backend.owns(value) for value in values)}
    if len(found) > 1:
        raise DeviceError(f"arrays of different devices in one pass ({', '.join(sorted(found))}): move them to one")
    return _BACKENDS[found.pop()] if found else _BACKENDS["cpu"]


def backend(name: str, index: int = 0) -> Backend:
    """The backend of a device by name; raises `DeviceError` when it is not there."""
    if name == "gpu" and name not in _BACKENDS:
        from nl_nodes.device.gpu import CupyBackend

        _BACKENDS[name] = CupyBackend(index)
    if name not in _BACKENDS:
        raise DeviceError(f"device {name!r} is unknown: use one of {', '.join(sorted({*_BACKENDS, 'gpu'}))}")
    return _BACKENDS[name]


_BACKENDS: dict[str, Backend] = {}
