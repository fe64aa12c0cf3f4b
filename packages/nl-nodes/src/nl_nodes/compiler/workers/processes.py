"""Processes on shared memory: no interpreter lock between them, so that short calls run side by side too."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any
from weakref import finalize

import numpy as np

from nl_nodes.compiler.trace import Call
from nl_nodes.compiler.workers import messages, shared
from nl_nodes.compiler.workers.team import Team
from nl_nodes.errors import DeviceError


class Processes(Team):
    """The calling process and others beside it.

    Each starts as a module of its own, which imports NumPy and nothing of the caller's, and ends when its connection
    does: with this team or with this process, however that ends. Between steps it waits without using the processor.

    Attributes:
        children: the other processes.
    """

    blas_threads = 1

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self._segments: list[Any] = []
        self._loaded = 0
        self._links: list[socket.socket] = []
        # Where the team has the whole machine, each worker has a core of its own during a step: woken, the second
        # would else begin on the first one's core, and stay there for several steps.
        self._cores = sorted(os.sched_getaffinity(0))
        self._pinned = len(self._cores) == count
        children: list[subprocess.Popen[bytes]] = []
        self.children = children
        for number in range(1, count):
            here, there = socket.socketpair()
            children.append(_start(there, number, count, self._cores[number] if self._pinned else None))
            self._links.append(here)
        self.close = finalize(self, _end, self._links, children)  # type: ignore[method-assign]

        def alive() -> None:
            for child in children:
                if child.poll() is not None:
                    raise DeviceError(f"a worker process ended (code {child.returncode}): use device.workers=threads")

        self._alive = alive
        self._meeting = shared.Meeting(self.memory(shared.counters(count)), 0, count, alive, shared.spins(count))

    def memory(self, size: int) -> Any:
        """Memory that all workers see."""
        descriptor, memory = shared.create(size)
        for link in self._links:
            messages.send(link, {"memory": size}, descriptor)
        os.close(descriptor)
        self._segments.append(memory)
        return memory

    def load(self, calls: Sequence[Sequence[Call]]) -> Any:
        """Send each worker its calls."""
        own = self.steps(calls[0])
        if len(calls) == 1:
            return own, None, 0
        for link, one in zip(self._links, calls[1:], strict=True):
            messages.send(link, {"load": [[name, [self._encode(a) for a in args]] for name, args in one]})
        self._loaded += 1
        return own, self._loaded - 1, sum(name == "meet" for name, _ in calls[0]) + 1

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run what was loaded, the first list in this process."""
        own, number, meetings = loaded
        if number is None:
            super().run([own], pass_index)
            return
        self._alive()
        if self._pinned:
            os.sched_setaffinity(0, self._cores[:1])
        last = self._meeting.turn + meetings
        for link in self._links:
            messages.send(link, {"run": number, "pass": pass_index})
        try:
            super().run([own], pass_index)
            self.meet()
        except BaseException:
            # An interrupt, say. The others must not wait for this worker, nor it leave before they are done.
            self._meeting.skip_to(last)
            raise
        finally:
            if self._pinned:
                os.sched_setaffinity(0, self._cores)

    def abandon(self) -> None:
        """Leave the workers to the process that has forked this one, and close this one's copies of the sockets."""
        self.close.detach()  # type: ignore[attr-defined]
        for link in self._links:
            link.close()
        for child in self.children:
            child.poll()  # which finds no child of this process, so that nothing waits for it

    def meet(self) -> None:
        """Wait for the others."""
        self._meeting.meet()

    def _encode(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return messages.encode(value)
        address = value.ctypes.data
        for number, memory in enumerate(self._segments):
            at = address - memory.ctypes.data
            if 0 <= at < max(memory.nbytes, 1):
                return {"array": [number, at, value.shape, value.strides, value.dtype.str]}
        raise DeviceError("an array of the plan lies outside of the workers' memory: make it with Device.zeros")


def _start(link: socket.socket, number: int, count: int, core: int | None) -> subprocess.Popen[bytes]:
    # -P: else what the working directory holds would come before Python's own modules, unlike in this process.
    command = [sys.executable, "-P", "-m", "nl_nodes.compiler.workers.worker"]
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
