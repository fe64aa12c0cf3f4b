"""Shared memory and the spin barrier."""

import mmap
import os
import re
from pathlib import Path

import numpy as np
import pytest

from nl_nodes.runtime import shared_memory


def test_all_who_open_a_descriptor_see_the_same_cleared_memory() -> None:
    descriptor, memory = shared_memory.create(100)
    other = shared_memory.attach(descriptor, 100)
    assert os.fstat(descriptor).st_size == memory.nbytes == other.nbytes == 100
    os.close(descriptor)
    assert not memory.any()
    memory[99] = 7
    assert other[99] == 7


def test_memory_of_no_size_can_be_shared() -> None:
    descriptor, memory = shared_memory.create(0)
    assert memory.nbytes == shared_memory.attach(descriptor, 0).nbytes == 0
    os.close(descriptor)


def test_memory_of_one_process_is_its_own() -> None:
    for size in (0, 1, 5000):
        first, second = (shared_memory.private(size) for _ in range(2))
        first[:] = 7
        assert second.nbytes == size
        assert not second.any()


def in_huge_pages(address: int) -> int:
    """Return the bytes in huge pages of this process's map that holds an address."""
    entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]
    for entry in entries:
        begin, end = (int(bound, 16) for bound in entry.split()[0].split("-"))
        if begin <= address < end:
            return 1024 * int(re.search(r"ShmemPmdMapped: +(\d+)", entry)[1])  # type: ignore[index]
    raise AssertionError(f"nothing is mapped at {address:x}")


@pytest.mark.parametrize("more", [0, 100])
def test_large_memory_is_on_huge_pages_for_all_who_open_it(more: int) -> None:
    huge = (1 + bool(more)) * shared_memory.HUGE_PAGE
    size = huge + more
    descriptor, memory = shared_memory.create(size)
    other = shared_memory.attach(descriptor, size)
    taken = os.fstat(descriptor).st_blocks * 512
    os.close(descriptor)
    assert not memory.any()
    memory[-1] = 7
    assert other[-1] == 7
    assert not other[:-1].any()  # and all is mapped now
    for one in (memory, other):
        assert one.nbytes == size
        assert one.ctypes.data % shared_memory.HUGE_PAGE == 0
    pages = mmap.mmap(-1, 3 * shared_memory.HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages[:] = bytes(len(pages))
    try:
        pages.madvise(shared_memory.COLLAPSE)
    except OSError as error:
        pytest.skip(f"this system makes no pages huge: {error}")
    assert taken == huge + bool(more) * mmap.PAGESIZE
    for one in (memory, other):
        assert in_huge_pages(one.ctypes.data) == huge


def test_without_huge_pages_memory_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "COLLAPSE", 2**20)  # an advice that no system knows
    descriptor, memory = shared_memory.create(shared_memory.HUGE_PAGE)
    os.close(descriptor)
    assert not memory.any()


def counters(memory: np.ndarray, count: int) -> np.ndarray:
    """Each worker's counter, at the beginning of a cache line of its own."""
    return memory.view(np.int64).reshape(count, shared_memory.LINE_WORDS)[:, 0]


def test_a_worker_at_a_barrier_waits_for_each_of_the_others() -> None:
    memory = np.zeros(shared_memory.counter_bytes(3), np.uint8)
    arrivals = counters(memory, 3)
    seen = []

    def another_arrives() -> None:
        seen.append(arrivals.tolist())
        assert len(seen) < 10
        arrivals[0 if len(seen) % 2 else 2] = arrivals[1]

    spin_barrier = shared_memory.SpinBarrier(memory, 1, 3, another_arrives, 1)
    spin_barrier.barrier()
    assert spin_barrier.arrivals == 1
    spin_barrier.barrier()
    spin_barrier.advance_to(7)
    assert seen == [[0, 1, 0], [1, 1, 0], [1, 2, 1], [2, 2, 1], [2, 7, 2], [7, 7, 2]]
    arrivals[:] = 9, 8, 9
    spin_barrier.barrier()  # the others are ahead
    assert arrivals.tolist() == [9, 9, 9]
    assert len(seen) == 6


@pytest.mark.parametrize("spins", [1, 500, shared_memory.SPINS])
def test_polling_yields_the_core_and_checks_that_the_others_are_alive(
    spins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It yields every `spins` polls, and checks every `SPINS` polls."""
    memory = np.zeros(shared_memory.counter_bytes(2), np.uint8)
    yields, checks = [], []

    def check_alive() -> None:
        checks.append(len(yields))
        assert len(checks) < 5
        counters(memory, 2)[0] = len(checks) // 3

    monkeypatch.setattr(shared_memory, "yield_core", lambda: yields.append(None))
    shared_memory.SpinBarrier(memory, 1, 2, check_alive, spins).barrier()
    assert checks == [n * (shared_memory.SPINS // spins) for n in (1, 2, 3)]


def test_workers_that_share_a_core_poll_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "cpu_count", lambda: 3)
    assert [shared_memory.spin_limit(count) for count in (2, 3, 4)] == [shared_memory.SPINS, shared_memory.SPINS, 1]
