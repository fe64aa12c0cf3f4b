"""Worker processes on shared memory, which run short calls in parallel too, without a common interpreter lock."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from itertools import count as count_from
from typing import Any
from weakref import finalize, ref

import numpy as np

from nl_nodes.errors import DeviceError
from nl_nodes.platform import cores, cpu_count, pin
from nl_nodes.runtime import protocol, shared_memory
from nl_nodes.runtime.call import BoundCall, Call
from nl_nodes.runtime.cut import ProductCut
from nl_nodes.runtime.executor import Executor, merge_calls, parallel_workers
from nl_nodes.signals import DeferSignals

CALLS = 256
"""Calls of a message: encoded, those of a large plan would take more memory than the calls themselves."""


class Processes(Executor):
    """The executor on the calling process and child processes.

    Each child runs `worker_main`, imports nothing of the caller's script, and ends when its socket closes: with this
    executor, or with this process however that ends. Between passes it polls its socket for half a millisecond, where
    there is a core for each process, then blocks.

    Attributes:
        children: the child processes.
    """

    def __init__(self, count: int, product_cut: ProductCut | None = None) -> None:
        super().__init__(product_cut)
        self.count, processes = count, parallel_workers(count)
        self._links: list[socket.socket] = []
        # By number: address and size of each memory segment, all that the workers hold, and what of it is unused.
        self._segments: dict[int, tuple[int, int]] = {}
        self._numbers = count_from(0)
        self._held: dict[int, _Held] = {}
        self._unused: deque[_Held] = deque()
        # Where there is exactly one core for each process, pin them during a pass: the scheduler would wake the second
        # on the first one's core, and leave it there for several passes.
        self._cores = cores()
        self._pinned = len(self._cores) == processes <= cpu_count()
        children: list[subprocess.Popen[bytes]] = []
        self.children = children
        for number in range(1, processes):
            link, remote = socket.socketpair()
            children.append(_start(remote, number, processes, self._cores[number] if self._pinned else None))
            self._links.append(link)
        self.close = finalize(self, _end, self._links, children)  # type: ignore[method-assign]

        def check_alive() -> None:
            for child in children:
                if child.poll() is not None:
                    raise DeviceError(f"a worker process ended (code {child.returncode}): use device.workers=threads")

        self._check_alive = check_alive
        counters = self.memory(shared_memory.counter_bytes(processes))
        spins = shared_memory.spin_limit(processes)
        self._spin_barrier = shared_memory.SpinBarrier(counters, 0, processes, check_alive, spins)

    def memory(self, size: int) -> Any:
        """Allocate zeroed memory shared by all workers, freed when this process drops it."""
        with self.lock, DeferSignals():
            self._release_unused()
            number = next(self._numbers)
            try:
                descriptor, memory = shared_memory.create(size)
            except OSError as error:
                raise DeviceError(f"no shared memory of {size:,} bytes ({error}): use device.workers=threads") from None
            try:
                for link in self._links:
                    self._send(link, {"memory": size, "number": number}, descriptor)
            finally:
                os.close(descriptor)
            self._segments[number] = memory.ctypes.data, max(memory.nbytes, 1)
            self._hold(memory, "memory", number)
            return memory

    def load(self, calls: Sequence[Sequence[Call]]) -> Any:
        """Send each worker its calls; return the argument of `run`."""
        calls = merge_calls(calls, len(self.children) + 1)
        loaded = _Loaded(self.bind(calls[0]), sum(name == "barrier" for name, _ in calls[0]) + 1)
        if len(calls) == 1:
            return loaded
        with self.lock, DeferSignals():
            self._release_unused()
            number = loaded.number = next(self._numbers)
            self._hold(loaded, "load", number)  # first, so that parts sent before one that fails are freed
            for link, one in zip(self._links, calls[1:], strict=True):
                for start in range(0, len(one) or 1, CALLS):  # a worker without calls too
                    part = one[start : start + CALLS]
                    encoded = [[name, [self._encode(a) for a in args]] for name, args in part]
                    self._send(link, {"load": encoded, "number": number})
            return loaded

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run loaded calls once, the first worker's in this process."""
        if loaded.number is None:
            super().run([loaded.own], pass_index)
            return
        self._release_unused()
        final = self._spin_barrier.arrivals + loaded.barriers
        message = {"run": loaded.number, "pass": int(pass_index)}
        pinned = self._pinned and cores() == self._cores  # not if the caller has chosen others
        started = False
        try:
            if pinned:
                pin(self._cores[:1])
            for link in self._links:
                self._send(link, message)
                started = True
            super().run([loaded.own], pass_index)
            self.barrier()
        except BaseException:
            if started:  # release the others from their barriers, and wait until they have finished
                self._spin_barrier.advance_to(final)
            raise
        finally:
            if pinned:
                pin(self._cores)

    @property
    def complete(self) -> bool:
        """Whether all processes are running."""
        return all(child.poll() is None for child in self.children)

    def abandon(self) -> None:
        """Leave the workers to the parent, in a forked process, and close its copies of the sockets."""
        self.close.detach()  # type: ignore[attr-defined]
        for link in self._links:
            link.close()
        for child in self.children:
            child.poll()  # finds no such child, so that Popen will not wait for it

    def barrier(self) -> None:
        """Wait until all workers have reached this call."""
        self._spin_barrier.barrier()

    def _send(self, link: socket.socket, message: dict[str, Any], descriptor: int | None = None) -> None:
        try:
            protocol.send(link, message, descriptor)
        except OSError as error:
            self._check_alive()
            raise DeviceError(f"a worker process is ending ({error}): use device.workers=threads") from error

    def _hold(self, owner: Any, kind: str, number: int) -> None:
        """Note that the workers hold this until it is dropped here.

        The callback is not a Python function: the exception of a signal that comes in one is lost, and with it the rest
        of the function.
        """
        self._held[number] = _Held(owner, self._unused.append)
        self._held[number].free = {"free": kind, "number": number}

    def _release_unused(self) -> None:
        """Tell the workers to free unused memory and calls; not in callbacks, which may run in mid-message."""
        while self._unused:
            message = self._unused.popleft().free
            del self._held[message["number"]]
            self._segments.pop(message["number"], None)
            for link in self._links:
                self._send(link, message)

    def _encode(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return protocol.encode(value)
        address = value.ctypes.data
        for number, (start, size) in self._segments.items():
            if start <= address < start + size:
                return {"array": [number, address - start, value.shape, value.strides, value.dtype.str]}
        raise DeviceError("an array of the plan is not in shared memory: create it with Device.zeros")


class _Held(ref[Any]):
    """A weak reference to what the workers hold, with the message that frees it."""

    free: dict[str, Any]


class _Loaded:
    """The calls of this process, the number of barriers, and the number of the children's calls (None: no children)."""

    def __init__(self, own: list[BoundCall], barriers: int) -> None:
        self.own, self.barriers = own, barriers
        self.number: int | None = None


def _start(link: socket.socket, number: int, count: int, core: int | None) -> subprocess.Popen[bytes]:
    # -P keeps the working directory out of the module path, where it could shadow the standard library.
    command = [sys.executable, "-P", "-m", "nl_nodes.runtime.worker_main"]
    command += [str(n) for n in (link.fileno(), os.getpid(), number, count, core) if n is not None]
    # One BLAS thread, and this process's module path.
    path = os.pathsep.join(folder or os.curdir for folder in sys.path if isinstance(folder, str))
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path}
    # Ctrl-C reaches all processes of a terminal, and only this one handles it; the child inherits what is blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with link:
            return subprocess.Popen(command, pass_fds=[link.fileno()], env=environment, stdin=subprocess.DEVNULL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(links: Sequence[socket.socket], children: Sequence[subprocess.Popen[bytes]]) -> None:
    for link in links:
        link.close()
    for child in children:
        child.terminate()
        child.wait()
