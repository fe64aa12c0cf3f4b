"""The memory plan: blocks of memory, when each is in use, and where each comes to lie."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any

import numpy as np

from nl_nodes.platform import refuse_beyond_memory

ALIGNMENT = 64
"""Bytes of a cache line, on which every block begins."""

CHUNK = 2**28
"""Bytes of address space to ask for at a time."""

SMALLER = "give smaller batches, or make the network narrower"
"""What to do where a plan needs more memory than there is."""


@dataclass(eq=False)
class Block:
    """Some memory that the plan uses.

    Attributes:
        memory: stands for it while recording; never touched.
        lasting: whether it keeps its place from step to step, so that nothing else may lie there.
        outside: whether it is an array of somebody else, which stays where it is.
        value: what it holds at the beginning, if that matters.
        alias: an array of another block that takes its place.
        users: the first and last call of each worker that uses it.
        rounds: the first and last round in which anybody does; workers meet between two rounds.
        start: the address of `memory`.
    """

    memory: Any
    persistent: bool = False
    external: bool = False
    value: Any = None
    alias: Any = None
    users: dict[int, tuple[int, int]] = field(default_factory=dict)
    rounds: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.start: int = self.memory.ctypes.data

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self.memory.nbytes)

    @property
    def live_range(self) -> tuple[int, int, int, int, int]:
        """The worker that uses it, its first and last call, and the rounds; of several, -1 and the rounds alone."""
        several = len(self.users) > 1
        worker, calls = (-1, self.rounds) if several else next(iter(self.users.items()))
        return (worker, *calls, *self.rounds)


class Memory:
    """All blocks of a plan, found by address."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._starts: list[int] = []
        self._constants: dict[tuple[Any, ...], Any] = {}
        self._free: Any = ()

    def allocate(self, size: int, persistent: bool = False) -> Block:
        """A new block of so many bytes; pages that nobody touches take no memory."""
        size = max(size, 1)
        if size > len(self._free):
            refuse_beyond_memory(size, "one array of the plan for this batch", SMALLER)
            self._free = np.frombuffer(mmap(-1, max(size, CHUNK)), np.uint8)
        memory, self._free = self._free[:size], self._free[_round(size) :]
        return self._add(Block(memory, persistent))

    def external(self, array: Any) -> Any:
        """An array that somebody else holds, such as a parameter; of an empty one nothing is read or written."""
        if not array.size:
            return self.constant(array)
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        flat = base.ravel().view(np.uint8) if base.flags.c_contiguous else _span(array)
        if self.find(flat) is None:
            self._add(Block(flat, persistent=True, external=True))
        return array

    def constant(self, array: Any) -> Any:
        """An array whose values the plan begins with; equal ones are one."""
        key = (array.shape, array.dtype.str, array.tobytes())
        if key not in self._constants:
            block = self.allocate(array.nbytes, persistent=True)
            block.value = array
            self._constants[key] = np.ndarray(array.shape, array.dtype, block.memory)
        return self._constants[key]

    def find(self, array: Any) -> Block | None:
        """The block in which an array lies, None where it lies in none."""
        address = array.ctypes.data
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        block = self.blocks[at]
        return block if address < block.start + block.size else None

    def block(self, array: Any) -> Block:
        """The block in which an array lies."""
        found = self.find(array)
        if found is None:
            raise LookupError("an array that the plan does not know")
        return found

    def _add(self, block: Block) -> Block:
        at = bisect_right(self._starts, block.start)
        self._starts.insert(at, block.start)
        self.blocks.insert(at, block)
        return block


def _span(array: Any) -> Any:
    """The bytes from an array's first to its last in memory, in whatever order its elements lie there."""
    low, high = np.lib.array_utils.byte_bounds(array)
    first = array[tuple(slice(-1 if stride < 0 else 0, None) for stride in array.strides)]
    one = first[tuple(slice(0, 1) for _ in array.shape)].reshape(-1).view(np.uint8)
    return np.lib.stride_tricks.as_strided(one, (high - low,), (1,))


def record_use(memory: Memory, worker: int, number: int, round_: int, array: Any) -> None:
    """Note that a worker's call, in a round between two meetings, uses an array."""
    block = memory.block(array)
    begin, end = block.rounds if block.users else (round_, round_)
    block.rounds = (min(begin, round_), max(end, round_))
    first, _ = block.users.get(worker, (number, number))
    block.users[worker] = (first, number)


def assign_offsets(blocks: list[Block]) -> tuple[dict[Block, int], int]:
    """Where each block comes to lie, and how much memory that takes.

    A lasting block has a place of its own; others may share one when they are never in use at once.
    """
    places: dict[Block, int] = {}
    end = 0
    for block in blocks:
        if block.persistent and not block.external:
            places[block] = end
            end = _round(end + block.size)
    begin = end
    # One by one, each at the lowest place that is free throughout its life.
    passing = sorted((b for b in blocks if b.users and not b.persistent and b.alias is None), key=_first)
    live_ranges = np.array([b.live_range for b in passing])
    for number, block in enumerate(passing):
        rivals = [passing[i] for i in np.flatnonzero(_overlaps(live_ranges[:number], block.live_range))]
        at = begin
        for other in sorted(rivals, key=places.__getitem__):
            if at + block.size <= places[other]:
                break
            at = max(at, _round(places[other] + other.size))
        places[block] = at
        end = max(end, _round(at + block.size))
    return places, end


def _first(block: Block) -> tuple[Any, ...]:
    """Sorts the largest first, of those the longest in use, then by use, as addresses differ from run to run."""
    begin, end = block.rounds
    return -block.size, begin - end, begin, sorted(block.users.items())


def _overlaps(live_ranges: Any, live_range: tuple[int, int, int, int, int]) -> Any:
    """Which lives meet this one: those of one worker by its calls, others by their rounds."""
    worker, first, last, begin, end = live_range
    calls = (live_ranges[:, 1] <= last) & (first <= live_ranges[:, 2])
    rounds = (live_ranges[:, 3] <= end) & (begin <= live_ranges[:, 4])
    return np.where(live_ranges[:, 0] == worker, calls, rounds)


def _round(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
