"""The interface between the executor of a GPU and an array library: memory, kernels, products, stream and capture."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from threading import RLock
from typing import Any

from nl_nodes.errors import DeviceError
from nl_nodes.platform import format_bytes
from nl_nodes.runtime.cuda.cublaslt import CublasLt, Matmul
from nl_nodes.typing import Shape


class Refused(Exception):
    """Raised where stream capture refuses a call."""


class OutOfMemory(DeviceError):
    """Raised where a GPU lacks memory.

    Attributes:
        needed, free: bytes.
    """

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"{format_bytes(needed)} are needed on the GPU, of which {format_bytes(free)} are free")
        self.needed, self.free = needed, free


class Card(ABC):
    """A GPU with one stream, on which all that an executor enqueues runs in order.

    Attributes:
        kind: what algorithms are valid for, such as "NVIDIA H200 sm_90 132".
        lt: the library of matrix products.
        process: the id of the process that uses it: a fork cannot.
        lock: held while work is enqueued, so that no other thread's work is captured with it.
    """

    kind: str
    lt: CublasLt

    def __init__(self) -> None:
        self.process, self.lock = os.getpid(), RLock()

    @abstractmethod
    def free(self) -> int:
        """Return the bytes that can be allocated."""

    @abstractmethod
    def zeros(self, size: int) -> Any:
        """Return an array of zero bytes; raise `OutOfMemory` where they are too many."""

    @abstractmethod
    def view(self, memory: Any, shape: Shape, dtype: Any, offset: int, strides: tuple[int, ...]) -> Any:
        """Return an array over the memory of another one, `offset` bytes from its first element."""

    @abstractmethod
    def address(self, array: Any) -> int:
        """Return the address of an array's first element; raise `TypeError` for an array of the host."""

    @abstractmethod
    def write(self, array: Any, value: Any) -> None:
        """Enqueue a copy of a value, of the host or of the GPU, to a contiguous array; it may be changed afterwards."""

    @abstractmethod
    def fill(self, array: Any, number: float) -> None:
        """Enqueue the setting of all elements to a number."""

    @abstractmethod
    def load(self, sources: Sequence[Any]) -> dict[str, Any]:
        """Return the functions of kernels by name, compiled where they are not in the cache folder."""

    @abstractmethod
    def launch(self, function: Any, blocks: tuple[int, int], threads: int, arrays: Sequence[Any]) -> None:
        """Enqueue a kernel that takes the addresses of arrays."""

    @abstractmethod
    def multiply(self, matmul: Matmul, algorithm: bytes, addresses: tuple[int, ...]) -> None:
        """Enqueue a matrix product."""

    @abstractmethod
    def enqueuing(self) -> AbstractContextManager[Any]:
        """Return a `with` block in which work is enqueued, after the caller's earlier work and before the later."""

    @abstractmethod
    def capture(self, run: Callable[[], None]) -> Any:
        """Return a graph of what `run` enqueues, without running it.

        Raises:
            Refused: where `run` allocates memory, synchronises, or makes a call that cannot be captured.
        """

    @abstractmethod
    def replay(self, graph: Any) -> None:
        """Enqueue a graph."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all enqueued work is done; raise `RuntimeError` where some has failed."""

    @abstractmethod
    def seconds(self, run: Callable[[], None]) -> float:
        """Return the time that the GPU takes for what `run` enqueues."""
