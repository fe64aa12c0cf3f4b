"""The memory plan: blocks, their live ranges, and the offsets that let blocks share memory."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any

import numpy as np

from nl_nodes.platform import refuse_beyond_memory
from nl_nodes.runtime.executor import SMALLER

ALIGNMENT = 64
"""Bytes of a cache line: every block is aligned to one."""

CHUNK = 2**28
"""Bytes of address space to map at a time."""


@dataclass(eq=False)
class Block:
    """A range of memory that is planned as one.

    Attributes:
        memory: placeholder while tracing; only its address range is used.
        persistent: whether it keeps its offset from step to step and shares it with no other block.
        external: whether it is the caller's own array, outside the arena.
        value: its initial contents, if they matter.
        alias: an array of another block whose memory it uses.
        buffer: of an external block of another device, the array that owns its memory there.
        users: the first and last call of each worker that uses it.
        rounds: the first and last round in which any worker uses it; a barrier separates two rounds.
        number: how many blocks were made before it.
        start: the address of `memory`.
    """

    memory: Any
    persistent: bool = False
    external: bool = False
    value: Any = None
    alias: Any = None
    buffer: Any = None
    users: dict[int, tuple[int, int]] = field(default_factory=dict)
    rounds: tuple[int, int] = (0, 0)
    number: int = 0

    def __post_init__(self) -> None:
        self.start: int = self.memory.ctypes.data

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self.memory.nbytes)

    @property
    def live_range(self) -> tuple[int, int, int, int, int]:
        """(worker, first call, last call, first round, last round); used by several workers, (-1, rounds, rounds)."""
        several = len(self.users) > 1
        worker, calls = (-1, self.rounds) if several else next(iter(self.users.items()))
        return (worker, *calls, *self.rounds)


class Memory:
    """The blocks of a plan, found by address."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._starts: list[int] = []
        self._constants: dict[tuple[Any, ...], Any] = {}
        self._buffers: dict[int, Block] = {}
        self._free: Any = ()

    def allocate(self, size: int, persistent: bool = False) -> Block:
        """Return a new block of `size` bytes; untouched pages take no physical memory."""
        size = max(size, 1)
        if size > len(self._free):
            refuse_beyond_memory(size, "one array of the plan for this batch", SMALLER)
            self._free = np.frombuffer(mmap(-1, max(size, CHUNK)), np.uint8)
        memory, self._free = self._free[:size], self._free[_round(size) :]
        return self._add(Block(memory, persistent))

    def external(self, array: Any) -> Any:
        """Register an array of the caller, such as a parameter, and return it; an empty one becomes a constant.

        Of another device's array it returns a placeholder, at its offset in one for the array that owns its memory.
        """
        if not array.size:
            return self.constant(np.zeros(array.shape, array.dtype))
        if not isinstance(array, np.ndarray):
            return self._placeholder(array)
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        flat = base.ravel().view(np.uint8) if base.flags.c_contiguous else _span(array)
        if self.find(flat) is None:
            self._add(Block(flat, persistent=True, external=True))
        return array

    def _placeholder(self, array: Any) -> Any:
        owner = array if array.base is None else array.base
        address = owner.data.ptr
        if address not in self._buffers:
            block = self._buffers[address] = self.allocate(owner.nbytes, persistent=True)
            block.external, block.buffer = True, owner
        block = self._buffers[address]
        return np.ndarray(array.shape, array.dtype, block.memory, array.data.ptr - address, array.strides)

    def constant(self, array: Any) -> Any:
        """Return a placeholder for an array of known values; equal arrays share one."""
        key = (array.shape, array.dtype.str, array.tobytes())
        if key not in self._constants:
            block = self.allocate(array.nbytes, persistent=True)
            block.value = array
            self._constants[key] = np.ndarray(array.shape, array.dtype, block.memory)
        return self._constants[key]

    def find(self, array: Any) -> Block | None:
        """Return the block that contains an array, or None."""
        address = array.ctypes.data
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        block = self.blocks[at]
        return block if address < block.start + block.size else None

    def block(self, array: Any) -> Block:
        """Return the block that contains an array.

        Raises:
            LookupError: if no block does.
        """
        found = self.find(array)
        if found is None:
            raise LookupError("the array is in no block of the plan")
        return found

    def _add(self, block: Block) -> Block:
        block.number = len(self.blocks)
        at = bisect_right(self._starts, block.start)
        self._starts.insert(at, block.start)
        self.blocks.insert(at, block)
        return block


def _span(array: Any) -> Any:
    """Return the bytes from an array's lowest address to its highest, whatever its strides."""
    low, high = np.lib.array_utils.byte_bounds(array)
    first = array[tuple(slice(-1 if stride < 0 else 0, None) for stride in array.strides)]
    one = first[tuple(slice(0, 1) for _ in array.shape)].reshape(-1).view(np.uint8)
    return np.lib.stride_tricks.as_strided(one, (high - low,), (1,))


def record_use(memory: Memory, worker: int, number: int, round_: int, array: Any) -> None:
    """Extend the live range of an array's block to a worker's call and its round."""
    block = memory.block(array)
    begin, end = block.rounds if block.users else (round_, round_)
    block.rounds = (min(begin, round_), max(end, round_))
    first, _ = block.users.get(worker, (number, number))
    block.users[worker] = (first, number)


def assign_offsets(blocks: list[Block]) -> tuple[dict[Block, int], int]:
    """Return each block's offset in the arena, and the arena's size.

    A persistent block shares its memory with none; others share it where their live ranges do not overlap.
    """
    offsets: dict[Block, int] = {}
    end = 0
    for block in blocks:
        if block.persistent and not block.external:
            offsets[block] = end
            end = _round(end + block.size)
    begin = end
    # First fit: each at the lowest offset that is free throughout its live range.
    transient = sorted((b for b in blocks if b.users and not b.persistent and b.alias is None), key=_priority)
    live_ranges = np.array([b.live_range for b in transient])
    for number, block in enumerate(transient):
        overlapping = [transient[i] for i in np.flatnonzero(_overlaps(live_ranges[:number], block.live_range))]
        offset = begin
        for other in sorted(overlapping, key=offsets.__getitem__):
            if offset + block.size <= offsets[other]:
                break
            offset = max(offset, _round(offsets[other] + other.size))
        offsets[block] = offset
        end = max(end, _round(offset + block.size))
    return offsets, end


def _priority(block: Block) -> tuple[Any, ...]:
    """Sort key: largest first, then longest live, then earliest; not by address, which differs from run to run."""
    begin, end = block.rounds
    return -block.size, begin - end, begin, sorted(block.users.items())


def _overlaps(live_ranges: Any, live_range: tuple[int, int, int, int, int]) -> Any:
    """Return which live ranges overlap this one: by calls within one worker, by rounds across workers."""
    worker, first, last, begin, end = live_range
    calls = (live_ranges[:, 1] <= last) & (first <= live_ranges[:, 2])
    rounds = (live_ranges[:, 3] <= end) & (begin <= live_ranges[:, 4])
    return np.where(live_ranges[:, 0] == worker, calls, rounds)


def _round(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
