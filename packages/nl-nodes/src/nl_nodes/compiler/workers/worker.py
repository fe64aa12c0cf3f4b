"""A worker process: `python -m nl_nodes.compiler.workers.worker LINK NUMBER COUNT [CORE]`, started by `Processes`."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any

from nl_nodes.compiler.workers import messages, shared
from nl_nodes.compiler.workers.team import Step, Team
from nl_nodes.platform import bind


class Worker(Team):
    """What this process knows: the memory, and the lists that it was sent."""

    def __init__(self, number: int, count: int) -> None:
        super().__init__()
        self.number, self.count, self.spins = number, count, shared.spins(count)
        self.segments: dict[int, Any] = {}
        self.lists: dict[int, list[Step]] = {}
        self.meeting: shared.Meeting | None = None
        self._parent = os.getppid()

    def take(self, message: dict[str, Any], descriptor: int | None) -> None:
        """Do what a message says."""
        if "run" in message:
            self.run([self.lists[message["run"]]], message["pass"])
            self.meet()
        elif "load" in message:
            calls = [(name, tuple(messages.decode(a, self.segments) for a in args)) for name, args in message["load"]]
            self.lists[message["number"]] = self.steps(calls)
        elif "free" in message:
            del {"memory": self.segments, "load": self.lists}[message["free"]][message["number"]]
        else:
            assert descriptor is not None
            memory = self.segments[message["number"]] = shared.open_memory(descriptor, message["memory"])
            os.close(descriptor)
            if self.meeting is None:
                self.meeting = shared.Meeting(memory, self.number, self.count, self._alive, self.spins)

    def meet(self) -> None:
        """Wait for the others."""
        assert self.meeting is not None
        self.meeting.meet()

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
                worker.take(*messages.receive(connection))
            except (EOFError, ConnectionError):
                return


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
