"""A worker process, `python -m nl_nodes.runtime.worker_main LINK PARENT NUMBER COUNT [CORE]`, of `Processes`."""

from __future__ import annotations

import os
import select
import socket
import sys
from typing import Any

from nl_nodes.platform import pin
from nl_nodes.runtime import protocol
from nl_nodes.runtime.call import BoundCall
from nl_nodes.runtime.executor import Executor
from nl_nodes.runtime.shared_memory import SpinBarrier, attach, spin_limit

POLLS = 1000
"""Polls of the socket, half a millisecond, before a worker sleeps if there is a core for each: waking takes 40 us."""


class Worker(Executor):
    """The executor in a worker process: shared memory segments and call lists by number."""

    def __init__(self, parent: int, number: int, count: int) -> None:
        super().__init__()
        self.number, self.count, self.spins = number, count, spin_limit(count)
        self.segments: dict[int, Any] = {}
        self.lists: dict[int, list[BoundCall]] = {}
        self.spin_barrier: SpinBarrier | None = None
        self._parent = parent  # not `getppid`: it may have ended before this process ran

    def handle(self, message: dict[str, Any], descriptor: int | None) -> None:
        """Handle one message: run or load calls, map or free memory."""
        if "run" in message:
            self.run([self.lists[message["run"]]], message["pass"])
            self.barrier()
        elif "load" in message:
            calls = [(name, tuple(protocol.decode(a, self.segments) for a in args)) for name, args in message["load"]]
            self.lists.setdefault(message["number"], []).extend(self.bind(calls))
        elif "free" in message:
            # A list may have failed before its first part came.
            {"memory": self.segments, "load": self.lists}[message["free"]].pop(message["number"], None)
        else:
            assert descriptor is not None
            memory = self.segments[message["number"]] = attach(descriptor, message["memory"])
            os.close(descriptor)
            if self.spin_barrier is None:
                self.spin_barrier = SpinBarrier(memory, self.number, self.count, self._check_alive, self.spins)

    def barrier(self) -> None:
        """Wait until all workers have reached this call."""
        assert self.spin_barrier is not None
        self.spin_barrier.barrier()

    def _check_alive(self) -> None:
        if os.getppid() != self._parent:
            raise EOFError


def main(link: int, parent: int, number: int, count: int, core: int | None = None) -> None:
    """Handle messages until the other end closes."""
    worker = Worker(parent, number, count)
    if core is not None:
        pin([core])
    with socket.socket(fileno=link) as connection:
        readable = select.poll()
        readable.register(connection, select.POLLIN)
        polls = POLLS if worker.spins > 1 else 0
        while True:
            for _ in range(polls):
                if readable.poll(0):
                    break
            try:
                worker.handle(*protocol.receive(connection))
            except (EOFError, ConnectionError):
                return


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
