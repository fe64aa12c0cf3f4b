"""A worker process: `python -m nl_nodes.runtime.worker_main LINK NUMBER COUNT [CORE]`, started by `Processes`."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any

from nl_nodes.platform import bind
from nl_nodes.runtime import protocol, shared_memory
from nl_nodes.runtime.executor import BoundCall, Executor


class Worker(Executor):
    """What this process knows: the memory, and the lists that it was sent."""

    def __init__(self, number: int, count: int) -> None:
        super().__init__()
        self.number, self.count, self.spins = number, count, shared_memory.spins(count)
        self.segments: dict[int, Any] = {}
        self.lists: dict[int, list[BoundCall]] = {}
        self.spin_barrier: shared_memory.SpinBarrier | None = None
        self._parent = os.getppid()

    def take(self, message: dict[str, Any], descriptor: int | None) -> None:
        """Do what a message says."""
        if "run" in message:
            self.run([self.lists[message["run"]]], message["pass"])
            self.barrier()
        elif "load" in message:
            calls = [(name, tuple(protocol.decode(a, self.segments) for a in args)) for name, args in message["load"]]
            self.lists[message["number"]] = self.steps(calls)
        elif "free" in message:
            del {"memory": self.segments, "load": self.lists}[message["free"]][message["number"]]
        else:
            assert descriptor is not None
            memory = self.segments[message["number"]] = shared_memory.open_memory(descriptor, message["memory"])
            os.close(descriptor)
            if self.spin_barrier is None:
                self.spin_barrier = shared_memory.SpinBarrier(memory, self.number, self.count, self._alive, self.spins)

    def barrier(self) -> None:
        """Wait for the others."""
        assert self.spin_barrier is not None
        self.spin_barrier.barrier()

    def _alive(self) -> None:
        if os.getppid() != self._parent:
            raise EOFError


def main(link: int, number: int, count: int, core: int | None = None) -> None:
    """Serve until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    worker = Worker(number, count)
    if core is not None:
        bind([core])
    with socket.socket(fileno=link) as connection:
        while True:
            try:
                worker.take(*protocol.receive(connection))
            except (EOFError, ConnectionError):
                return


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
