"""The device of a network: backend, precision and workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import isfinite
from typing import Any

import numpy as np

from nl_nodes.arguments import check_init
from nl_nodes.device.backend import backend
from nl_nodes.device.blas import BlasThreads
from nl_nodes.device.cpu import NumpyBackend
from nl_nodes.device.product_cut import product_cut
from nl_nodes.errors import DeviceError, UserError
from nl_nodes.platform import can_share_memory, cpu_count
from nl_nodes.runtime import Executor, executor
from nl_nodes.runtime.cuda import Card, CudaExecutor
from nl_nodes.typing import Array, Namespace

DTYPES = ("float32", "float64")
WORKERS = ("auto", "threads", "processes")


@check_init
class Device:
    """The backend, precision and workers of a network.

    Args:
        name: "cpu" (NumPy) or "gpu" (CuPy).
        dtype: "float32" to train, "float64" to verify.
        compile: run compiled plans; False runs the reference, node by node.
        threads: the number of workers; None for one for each core, within a container's CPU quota.
        workers: "threads", "processes", or "auto": processes where they can share memory.
        index: the index of the GPU.
        tf32: whether a GPU may round float32 products to TF32.
        debug: whether a GPU runs each call of a plan by itself and waits for it, so that an error names its node.

    Raises:
        DeviceError: where the device is unavailable or lacks TF32.
        UserError: for an unknown argument or value.

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
        debug: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"device.dtype={dtype}: use one of {', '.join(DTYPES)}")
        if workers not in WORKERS:
            raise UserError(f"device.workers={workers}: use one of {', '.join(WORKERS)}")
        if threads is not None and threads < 1:
            raise UserError(f"device.threads={threads}: use 1 or more")
        self.backend = backend(name, index)
        if tf32:
            self.backend.tf32()  # raises where there is none
        if debug and isinstance(self.backend, NumpyBackend):
            raise DeviceError("device.debug=true is for a GPU: leave it out, or use device=gpu")
        self.name, self.dtype, self.compile = name, dtype, compile
        self.threads, self.workers, self.index, self.tf32, self.debug = threads, workers, index, tf32, debug
        self._executor: Executor | None = None
        self._cores = cpu_count()

    @property
    def compiles(self) -> bool:
        """Whether graphs are compiled: where `compile` is set, on NumPy and on a GPU."""
        return self.compile and (isinstance(self.backend, NumpyBackend) or self.backend.card is not None)

    @property
    def card(self) -> Card | None:
        """The GPU that plans run on; None on a CPU, and where graphs are not compiled."""
        return self.backend.card if self.compile else None

    @property
    def executor(self) -> Executor:
        """The executor of compiled graphs, created on first use and again after a fork."""
        if self._executor is None or self._executor.process != os.getpid():
            if self.backend.card is not None:
                self._executor = CudaExecutor(self.backend.card, self.tf32, self.debug)
                return self._executor
            kind, shares = self.workers, can_share_memory()
            if kind == "processes" and not shares:
                raise DeviceError("device.workers=processes: processes share no memory on this system: use threads")
            if kind == "auto":  # see docs/decisions/0007-processes.md
                kind = "processes" if shares else "threads"
            self._executor = executor(kind, self.threads or self._cores, product_cut())
        return self._executor

    def zeros(self, size: int) -> Array:
        """Return `size` zeros, in memory that all workers share."""
        if self.compiles:
            return self.executor.memory(size * np.dtype(self.dtype).itemsize).view(self.dtype)
        return self.xp.zeros(size, dtype=self.dtype)

    @property
    def xp(self) -> Namespace:
        """The module of the device's array functions."""
        return self.backend.xp

    def array(self, value: Any) -> Array:
        """Convert a value to an array of this device and dtype."""
        return self.backend.array(value, self.dtype)

    def feed(self, value: Any, dtype: str | None = None) -> Array:
        """Convert a value to an array that a pass takes: one of the host for a plan that copies it to a GPU itself.

        Raises:
            UserError: for values that `dtype` cannot represent, such as complex ones, or that are no numbers.
        """
        try:
            found = value.dtype if self.backend.owns(value) else np.asanyarray(value).dtype
            known = dtype is None or np.can_cast(found, dtype, "same_kind")
        except (TypeError, ValueError):
            found, known = type(value).__name__, False
        if not known:
            raise UserError(f"inputs must be real numbers, got {found}")
        copied = self.card is not None and not self.backend.owns(value)
        return np.asarray(value, dtype) if copied else self.backend.array(value, dtype)

    def labels(self, value: Any) -> Array:
        """Convert labels to an array of this device in their own dtype."""
        return self.backend.array(value)

    def host(self, array: Array) -> Any:
        """Convert an array to a `numpy.ndarray`."""
        return self.backend.host(array)

    def finite(self, *arrays: Array) -> bool:
        """Return whether all values of these arrays are finite."""
        # A finite sum of squares implies finite values, at a third of the cost.
        return all(isfinite(self.xp.vdot(a, a)) or bool(self.xp.isfinite(a).all()) for a in arrays)

    @contextmanager
    def limits(self) -> Iterator[None]:
        """Return a `with` block for passes.

        Within it BLAS has one thread if graphs are compiled, else `threads`; TF32 if set.
        """
        blas = BlasThreads(1 if self.compiles else self.threads or self._cores)
        with blas, self.backend.tf32() if self.tf32 else nullcontext():
            yield

    def __reduce__(self) -> tuple[Any, ...]:
        settings = (self.name, self.dtype, self.compile, self.threads, self.workers, self.index, self.tf32, self.debug)
        return type(self), settings

    def __repr__(self) -> str:
        return f"Device({self.name!r}, dtype={self.dtype!r})"
