"""The device of a network: where it computes, in what precision, and how."""

from __future__ import annotations

import os
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_nodes.device import cpu as _cpu
from nl_nodes.device.backend import backend
from nl_nodes.device.blas import BlasThreads
from nl_nodes.errors import DeviceError, UserError
from nl_nodes.platform import can_share_memory, cpu_count
from nl_nodes.typing import Array, Namespace

if TYPE_CHECKING:
    from nl_nodes.runtime import Executor

DTYPES = ("float32", "float64")
WORKERS = ("auto", "threads", "processes")


class Device:
    """Where a network computes, in what precision, and how.

    Args:
        name: "cpu" (NumPy) or "gpu" (CuPy).
        dtype: "float32" to train, "float64" to verify.
        compile: run the compiled form of a graph; False runs the reference, node by node.
        threads: how many threads compute, None for as many as there are cores, within a container's CPU quota.
        workers: whether these are "threads" or "processes"; "auto" decides.
        index: which GPU.
        tf32: whether a GPU may round float32 products to TF32.

    Raises:
        DeviceError: when the device is not there, or has no TF32 where that is asked for.

    >>> Device("cpu").array([1, 2]).dtype
    dtype('float32')
    """

    def __init__(
        self,
        name: str = "cpu",
        dtype: str = "float32",
        compile: bool = True,
        threads: int | None = None,
        workers: str = "auto",
        index: int = 0,
        tf32: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"device.dtype={dtype}: use one of {', '.join(DTYPES)}")
        if workers not in WORKERS:
            raise UserError(f"device.workers={workers}: use one of {', '.join(WORKERS)}")
        if threads is not None and threads < 1:
            raise UserError(f"device.threads={threads}: use 1 or more")
        self.backend = backend(name, index)
        self.backend.use_tf32(tf32)
        self.name, self.dtype, self.compile = name, dtype, compile
        self.threads, self.workers, self.index, self.tf32 = threads, workers, index, tf32
        self._executor: Executor | None = None
        self._cores = cpu_count()

    @property
    def compiles(self) -> bool:
        """Whether graphs run compiled here: asked for, and on NumPy."""
        return self.compile and isinstance(self.backend, _cpu.NumpyBackend)

    @property
    def executor(self) -> Executor:
        """Who runs compiled graphs; made when first asked for, and anew after a fork."""
        if self._executor is None or self._executor.process != os.getpid():
            # Late: the compiler knows nodes, and those know the device's backends.
            from nl_nodes.runtime import executor

            kind, shares = self.workers, can_share_memory()
            if kind == "processes" and not shares:
                raise DeviceError("device.workers=processes: processes share no memory on this system: use threads")
            if kind == "auto":  # see docs/decisions/0007-processes.md
                kind = "processes" if shares else "threads"
            self._executor = executor(kind, self.threads or self._cores)
        return self._executor

    def zeros(self, size: int) -> Array:
        """So many zeros, which every worker sees."""
        if self.compiles:
            return self.executor.memory(size * np.dtype(self.dtype).itemsize).view(self.dtype)
        return self.xp.zeros(size, dtype=self.dtype)

    @property
    def xp(self) -> Namespace:
        """The module with this device's array functions."""
        return self.backend.xp

    def array(self, value: Any) -> Array:
        """The value as an array of this device and dtype."""
        return self.backend.array(value, self.dtype)

    def labels(self, value: Any) -> Array:
        """Labels as an array of this device, in their own dtype."""
        return self.backend.array(value)

    def host(self, array: Array) -> Any:
        """The array as a `numpy.ndarray`."""
        return self.backend.host(array)

    def finite(self, *arrays: Array) -> bool:
        """Whether all values of these arrays are finite."""
        # A finite sum of squares implies finite values, and BLAS takes it in a third of the time.
        return all(isfinite(self.xp.vdot(a, a)) or bool(self.xp.isfinite(a).all()) for a in arrays)

    def limits(self) -> BlasThreads:
        """Hold BLAS to `threads` threads inside a `with` block, or to one where graphs run compiled, on workers."""
        return BlasThreads(1 if self.compiles else self.threads or self._cores)

    def __reduce__(self) -> tuple[Any, ...]:
        settings = (self.name, self.dtype, self.compile, self.threads, self.workers, self.index, self.tf32)
        return type(self), settings

    def __repr__(self) -> str:
        return f"Device({self.name!r}, dtype={self.dtype!r})"
