"""Shared memory, and a barrier in it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from nl_nodes.platform import cpu_count, yield_core

LINE_WORDS = 8
"""Words of 8 bytes in a cache line; each worker's counter has its own line, to avoid false sharing."""

SPINS = 2000
"""Polls of a spin barrier before it yields the core."""


HUGE_PAGE = 2**21
"""Bytes of a huge page; smaller memory is on pages of the usual size."""

COLLAPSE = 25
"""Linux's `MADV_COLLAPSE`, of which Python 3.11 has no name: make pages huge, whatever the default of shared memory."""


def create(size: int) -> tuple[int, Any]:
    """Allocate zeroed shared memory, on huge pages where the system has them; return its file descriptor and bytes.

    Raises:
        OSError: where there is no descriptor or memory left.
    """
    descriptor = os.memfd_create("nl-nodes")
    try:
        os.ftruncate(descriptor, max(size, 1) if size < HUGE_PAGE else size + 2 * HUGE_PAGE)
        pages, begin = _map(descriptor, size)
        memory = np.frombuffer(pages, np.uint8, size, begin)
        memory[::HUGE_PAGE] = 0  # there must be a page to collapse
        with suppress(OSError):
            pages.madvise(COLLAPSE, begin, size)  # whole huge pages alone
        return descriptor, memory
    except BaseException:
        os.close(descriptor)
        raise


def attach(descriptor: int, size: int) -> Any:
    """Map the memory that `create` has allocated in another process."""
    pages, begin = _map(descriptor, size)
    return np.frombuffer(pages, np.uint8, size, begin)


def private(size: int) -> Any:
    """Allocate zeroed memory of this process alone, on pages of its own."""
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8, size)


def _map(descriptor: int, size: int) -> tuple[mmap.mmap, int]:
    """Map a file of `create`; return the map, and where the memory begins in it.

    Huge pages need the same alignment in the file and in memory. So the memory begins at the first huge page of the
    file, with space for one before and one behind it that nothing touches. Maps of one length get one address if
    nothing else is mapped in between: a first map finds the address, and a second has the offset that fits it.
    """
    if size < HUGE_PAGE:
        return mmap.mmap(descriptor, max(size, 1)), 0
    length = size + HUGE_PAGE
    offset = np.frombuffer(mmap.mmap(descriptor, length), np.uint8).ctypes.data % HUGE_PAGE
    return mmap.mmap(descriptor, length, offset=offset), HUGE_PAGE - offset


class SpinBarrier:
    """A barrier on counters in shared memory: a worker increments its own and polls until the others' are as high.

    Polling has less latency than sleeping.

    Args:
        memory: `counter_bytes(count)` bytes of shared memory.
        number: this worker.
        count: the number of workers.
        check_alive: called from time to time while polling; raises where a worker has ended.
        spins: polls before the core is yielded.
    """

    def __init__(self, memory: Any, number: int, count: int, check_alive: Callable[[], None], spins: int) -> None:
        # A memoryview, whose indexing costs a fraction of NumPy's.
        self._counters = memoryview(memory).cast("q")
        self._own = number * LINE_WORDS
        self._others = [n * LINE_WORDS for n in range(count) if n != number]
        self._check_alive = check_alive
        self._spins = spins

    @property
    def arrivals(self) -> int:
        """This worker's counter."""
        return self._counters[self._own]

    def barrier(self) -> None:
        """Wait until all workers have reached this call."""
        self.advance_to(self.arrivals + 1)

    def advance_to(self, arrivals: int) -> None:
        """Set this worker's counter and wait until the others' are as high."""
        counters = self._counters
        counters[self._own] = arrivals
        for other in self._others:
            polls = 0
            while counters[other] < arrivals:
                polls += 1
                if not polls % self._spins:
                    yield_core()
                if not polls % SPINS:
                    self._check_alive()


def spin_limit(count: int) -> int:
    """Return the polls before a worker yields: 1 where workers share a core. Call it before pinning."""
    return SPINS if cpu_count() >= count else 1


def counter_bytes(count: int) -> int:
    """Return the size of the counters of `count` workers."""
    return count * LINE_WORDS * 8
