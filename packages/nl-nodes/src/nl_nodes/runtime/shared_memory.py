"""Memory that several processes see, and a place in it where they meet."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from nl_nodes.platform import cpu_count, let_others_run

LINE_WORDS = 8
"""Numbers of 8 bytes in a cache line: each worker's counter has a line of its own."""

SPINS = 2000
"""How often to look before letting others run; where workers share a core, once."""


def create(size: int) -> tuple[int, Any]:
    """New cleared memory: its file descriptor and its bytes."""
    descriptor = os.memfd_create("nl-nodes")
    os.ftruncate(descriptor, max(size, 1))
    return descriptor, open_memory(descriptor, size)


def open_memory(descriptor: int, size: int) -> Any:
    """The bytes behind a file descriptor; behind -1 new cleared ones of this process alone."""
    return np.frombuffer(mmap.mmap(descriptor, max(size, 1)), np.uint8, size)


class SpinBarrier:
    """Counters in shared memory: a worker counts up its own, then looks until the others have come as far.

    Looking is a loop, which within a step is shorter than any sleep; when it takes long, others are let run, and
    `alive` is asked, which raises when somebody is gone.
    """

    def __init__(self, memory: Any, number: int, count: int, alive: Callable[[], None], spins: int) -> None:
        # A view of plain numbers: NumPy's own indexing costs several times as much.
        self._counters = memoryview(memory).cast("q")
        self._mine = number * LINE_WORDS
        self._others = [n * LINE_WORDS for n in range(count) if n != number]
        self._alive = alive
        self._spins = spins

    @property
    def arrivals(self) -> int:
        """How often this worker has come."""
        return self._counters[self._mine]

    def barrier(self) -> None:
        """Wait for the others."""
        self.advance_to(self.arrivals + 1)

    def advance_to(self, arrivals: int) -> None:
        """Come as often as that at once, and wait until the others have."""
        counters = self._counters
        counters[self._mine] = arrivals
        for other in self._others:
            looks = 0
            while counters[other] < arrivals:
                looks += 1
                if not looks % self._spins:
                    let_others_run()
                if not looks % SPINS:
                    self._alive()


def spins(count: int) -> int:
    """How often each of so many workers looks before it lets others run; to be asked before one is bound to a core."""
    return SPINS if cpu_count() >= count else 1


def counters(count: int) -> int:
    """Bytes that a meeting of so many needs."""
    return count * LINE_WORDS * 8
