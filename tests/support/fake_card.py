"""A strict stand-in for a GPU's memory, stream and capture, which runs kernels and products through g++.

Its arrays are those of the fake device. During capture it forbids what CuPy 14 forbids: an allocation, a wait, a copy
between host and device, CuPy's own products.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from hashlib import sha256
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

from nl_nodes.errors import DeviceError
from nl_nodes.runtime.cuda import Card, OutOfMemory, Refused
from nl_nodes.runtime.cuda.cublaslt import WORKSPACE, CublasLt, Matmul
from support.fake_device import EVENTS, TO_DEVICE, WAIT, FakeArray, FakeBackend
from support.kernels.executor import CACHE, COMPILER, compiled, faults

LIBRARY = Path(__file__).parent / "kernels" / "cublaslt.cpp"
LAUNCH, PRODUCT, GRAPH = "a launch", "a product", "a graph"


class FakeCard(Card):
    """A GPU on the processor.

    Attributes:
        limit: bytes that can be allocated at once.
        timed: how many algorithms were timed.
        broken: a function whose launch fails, as a GPU says only when it is waited for.
    """

    kind = "Fake sm_90 1"

    def __init__(self) -> None:
        super().__init__()
        self.lt = CublasLt(str(fake_cublaslt()))
        self.limit, self.broken, self._error = 2**31, "", ""
        self._libraries: list[Any] = []
        self._graph: list[Callable[[], None]] | None = None
        self._workspace = np.zeros(WORKSPACE, np.uint8)
        self.timed = 0

    def free(self) -> int:
        return self.limit

    def zeros(self, size: int) -> FakeArray:
        if size > self.limit:
            raise OutOfMemory(size, self.limit)
        return FakeArray(np.frombuffer(mmap(-1, size), np.uint8))  # aligned, as a GPU's memory is

    def view(self, memory: FakeArray, shape: Any, dtype: Any, offset: int, strides: Any) -> FakeArray:
        return FakeArray(np.ndarray(shape, dtype, memory._data, offset, strides))

    def address(self, array: Any) -> int:
        if not isinstance(array, FakeArray):
            raise TypeError(f"{type(array).__name__} is no array of the device")
        return int(array.data.ptr)

    def write(self, array: FakeArray, value: Any) -> None:
        if not isinstance(value, FakeArray):
            EVENTS.record(TO_DEVICE)
        np.copyto(array._data, value._data if isinstance(value, FakeArray) else value)

    def fill(self, array: FakeArray, number: float) -> None:
        self._enqueue(LAUNCH, partial(array._data.fill, number))

    def load(self, sources: Sequence[Any]) -> dict[str, Any]:
        library = compiled(sources)
        self._libraries.append(library)
        return {source.name: getattr(library, f"run_{source.name}") for source in sources}

    def launch(self, function: Any, blocks: tuple[int, int], threads: int, arrays: Sequence[Any]) -> None:
        if function.__name__ == f"run_{self.broken}":
            self._error = "cudaErrorIllegalAddress: an illegal memory access was encountered"
        places = (ctypes.c_void_p * len(arrays))(*map(self.address, arrays))
        lengths = (ctypes.c_longlong * len(arrays))(*(array.size for array in arrays))
        self._enqueue(LAUNCH, partial(function, places, lengths, *blocks))

    def multiply(self, matmul: Matmul, algorithm: bytes, addresses: tuple[int, ...]) -> None:
        self._enqueue(PRODUCT, partial(self.lt.run, matmul, algorithm, addresses, self._workspace.ctypes.data, 0))

    def _enqueue(self, kind: str, call: Callable[[], None]) -> None:
        EVENTS[kind] += 1
        if self._graph is not None:
            self._graph.append(call)
        else:
            call()

    def enqueuing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def capture(self, run: Callable[[], None]) -> Any:
        self._graph, EVENTS.capturing = [], True
        try:
            run()
            return self._graph
        except (RuntimeError, DeviceError, TypeError) as error:
            raise Refused(str(error)) from error
        finally:
            self._graph, EVENTS.capturing = None, False

    def replay(self, graph: Any) -> None:
        EVENTS[GRAPH] += 1
        for call in graph:
            call()
        self._check()

    def synchronize(self) -> None:
        EVENTS.record(WAIT)
        self._check()

    def _check(self) -> None:
        self._error = self._error or ", ".join(filter(None, map(faults, self._libraries)))
        if self._error:
            raise RuntimeError(self._error)

    def seconds(self, run: Callable[[], None]) -> float:
        """Return less time for each later algorithm."""
        run()
        self.timed += 1
        return 1 / self.timed


class FakeCardBackend(FakeBackend):
    """The fake device with a card, on which graphs are compiled."""

    def __init__(self) -> None:
        self._card = FakeCard()

    @property
    def card(self) -> FakeCard:
        return self._card

    def tf32(self) -> AbstractContextManager[None]:
        """Have TF32."""
        return nullcontext()


@cache
def fake_cublaslt() -> Path:
    """Return the path of the stand-in for cublasLt, compiled once for each text."""
    path = CACHE / f"cublaslt-{sha256(LIBRARY.read_bytes()).hexdigest()[:32]}.so"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        own = path.with_suffix(f".{os.getpid()}")
        subprocess.run([str(COMPILER), "-O2", "-w", "-shared", "-fPIC", str(LIBRARY), "-o", str(own)], check=True)
        own.replace(path)
    return path
