"""Processes on shared memory: no interpreter lock between them, so that short calls run side by side too."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from itertools import count as count_from
from typing import Any
from weakref import finalize

import numpy as np

from nl_nodes.compiler.lower.trace import Call
from nl_nodes.errors import DeviceError
from nl_nodes.platform import bind, cores, cpu_count
from nl_nodes.runtime import protocol, shared_memory
from nl_nodes.runtime.executor import BoundCall, Executor, merge_calls, parallel_workers
from nl_nodes.signals import DeferSignals


class Processes(Executor):
    """The calling process and others beside it.

    Each starts as a module of its own, which imports NumPy and nothing of the caller's, and ends when its connection
    does: with this team or with this process, however that ends. Between steps it waits without using the processor.

    Attributes:
        children: the other processes.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, processes = count, parallel_workers(count)
        self._links: list[socket.socket] = []
        # Every segment's address and size by number, and the numbers of segments and lists that nothing uses any more.
        self._segments: dict[int, tuple[int, int]] = {}
        self._numbers = count_from(0)
        self._unused: deque[tuple[str, int]] = deque()
        # Where the team has the whole machine, each worker has a core of its own during a step: woken, the second
        # would else begin on the first one's core, and stay there for several steps.
        self._cores = cores()
        self._pinned = len(self._cores) == processes <= cpu_count()
        children: list[subprocess.Popen[bytes]] = []
        self.children = children
        for number in range(1, processes):
            here, there = socket.socketpair()
            children.append(_start(there, number, processes, self._cores[number] if self._pinned else None))
            self._links.append(here)
        self.close = finalize(self, _end, self._links, children)  # type: ignore[method-assign]

        def alive() -> None:
            for child in children:
                if child.poll() is not None:
                    raise DeviceError(f"a worker process ended (code {child.returncode}): use device.workers=threads")

        self._alive = alive
        self._spin_barrier = shared_memory.SpinBarrier(
            self.memory(shared_memory.counters(processes)), 0, processes, alive, shared_memory.spins(processes)
        )

    def memory(self, size: int) -> Any:
        """Memory that all workers see, for as long as this process uses it."""
        with self.lock, DeferSignals():
            self._release_unused()
            number = next(self._numbers)
            descriptor, memory = shared_memory.create(size)
            for link in self._links:
                self._send(link, {"memory": size, "number": number}, descriptor)
            os.close(descriptor)
            self._segments[number] = memory.ctypes.data, max(memory.nbytes, 1)
            finalize(memory, self._unused.append, ("memory", number))
            return memory

    def load(self, calls: Sequence[Sequence[Call]]) -> Any:
        """Send each worker its calls."""
        calls = merge_calls(calls, len(self.children) + 1)
        loaded = _Loaded(self.steps(calls[0]), sum(name == "barrier" for name, _ in calls[0]) + 1)
        if len(calls) == 1:
            return loaded
        with self.lock, DeferSignals():
            self._release_unused()
            number = loaded.number = next(self._numbers)
            for link, one in zip(self._links, calls[1:], strict=True):
                encoded = [[name, [self._encode(a) for a in args]] for name, args in one]
                self._send(link, {"load": encoded, "number": number})
            finalize(loaded, self._unused.append, ("load", number))
            return loaded

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run what was loaded, the first list in this process."""
        if loaded.number is None:
            super().run([loaded.own], pass_index)
            return
        last = self._spin_barrier.arrivals + loaded.barriers
        try:
            if self._pinned:
                bind(self._cores[:1])
            for link in self._links:
                self._send(link, {"run": loaded.number, "pass": pass_index})
            super().run([loaded.own], pass_index)
            self.barrier()
        except BaseException:
            # The others must not wait for this worker, nor it leave before they are done.
            self._spin_barrier.advance_to(last)
            raise
        finally:
            if self._pinned:
                bind(self._cores)

    @property
    def complete(self) -> bool:
        """Whether no process has ended."""
        return all(child.poll() is None for child in self.children)

    def abandon(self) -> None:
        """Leave the workers to the process that has forked this one, and close this one's copies of the sockets."""
        self.close.detach()  # type: ignore[attr-defined]
        for link in self._links:
            link.close()
        for child in self.children:
            child.poll()  # which finds no child of this process, so that nothing waits for it

    def barrier(self) -> None:
        """Wait for the others."""
        self._spin_barrier.barrier()

    def _send(self, link: socket.socket, message: dict[str, Any], descriptor: int | None = None) -> None:
        try:
            protocol.send(link, message, descriptor)
        except OSError:
            self._alive()
            raise

    def _release_unused(self) -> None:
        """Let the workers free what nothing uses here; not at once, since a collector may run at any moment."""
        while self._unused:
            kind, number = self._unused.popleft()
            self._segments.pop(number, None)
            for link in self._links:
                self._send(link, {"free": kind, "number": number})

    def _encode(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return protocol.encode(value)
        address = value.ctypes.data
        for number, (begin, size) in self._segments.items():
            if begin <= address < begin + size:
                return {"array": [number, address - begin, value.shape, value.strides, value.dtype.str]}
        raise DeviceError("an array of the plan lies outside of the workers' memory: make it with Device.zeros")


class _Loaded:
    """This process's list, how often all meet, and the number of the others' lists, None where they have none."""

    def __init__(self, own: list[BoundCall], barriers: int) -> None:
        self.own, self.barriers = own, barriers
        self.number: int | None = None


def _start(link: socket.socket, number: int, count: int, core: int | None) -> subprocess.Popen[bytes]:
    # -P: else what the working directory holds would come before Python's own modules, unlike in this process.
    command = [sys.executable, "-P", "-m", "nl_nodes.runtime.worker_main"]
    command += [str(n) for n in (link.fileno(), number, count, core) if n is not None]
    # One thread for BLAS; and the packages where this process found them.
    places = os.pathsep.join(place or os.curdir for place in sys.path)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": places}
    with link:
        return subprocess.Popen(command, pass_fds=[link.fileno()], env=environment, stdin=subprocess.DEVNULL)


def _end(links: Sequence[socket.socket], children: Sequence[subprocess.Popen[bytes]]) -> None:
    for link in links:
        link.close()
    for child in children:
        child.terminate()
        child.wait()
