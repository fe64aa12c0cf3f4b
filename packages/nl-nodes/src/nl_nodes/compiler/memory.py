"""The memory plan: blocks of memory, when each is in use, and where each comes to lie."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LINE = 64
"""Bytes of a cache line, on which every block begins."""


@dataclass(eq=False)
class Block:
    """Some memory that the plan uses.

    Attributes:
        memory: stands for it while recording; never touched.
        start: the address of that.
        lasting: whether it keeps its place from step to step, so that nothing else may lie there.
        outside: whether it is an array of somebody else, which stays where it is.
        value: what it holds at the beginning, if that matters.
        alias: an array of another block that takes its place.
        users: the first and last call of each worker that uses it.
        rounds: the first and last round in which anybody does; workers meet between two rounds.
    """

    memory: Any
    start: int
    lasting: bool = False
    outside: bool = False
    value: Any = None
    alias: Any = None
    users: dict[int, tuple[int, int]] = field(default_factory=dict)
    rounds: tuple[int, int] = (0, 0)

    @property
    def size(self) -> int:
        """Bytes."""
        return int(self.memory.nbytes)


class Memory:
    """All blocks of a plan, found by address."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._starts: list[int] = []
        self._constants: dict[tuple[Any, ...], Any] = {}

    def allocate(self, size: int, lasting: bool = False) -> Block:
        """A new block of so many bytes."""
        return self._add(Block(np.empty(max(size, 1), np.uint8), 0, lasting))

    def outside(self, array: Any) -> Any:
        """An array that somebody else holds, such as a parameter."""
        base = array
        while base.base is not None and isinstance(base.base, np.ndarray):
            base = base.base
        flat = base.reshape(-1).view(np.uint8) if base.flags.c_contiguous else array.reshape(-1).view(np.uint8)
        if self._find(flat.ctypes.data) is None:
            self._add(Block(flat, 0, lasting=True, outside=True))
        return array

    def constant(self, array: Any) -> Any:
        """An array whose values the plan begins with; equal ones are one."""
        key = (array.shape, array.dtype.str, array.tobytes())
        if key not in self._constants:
            block = self.allocate(array.nbytes, lasting=True)
            block.value = array
            self._constants[key] = np.ndarray(array.shape, array.dtype, block.memory)
        return self._constants[key]

    def block(self, array: Any) -> Block:
        """The block in which an array lies."""
        found = self._find(array.ctypes.data)
        if found is None:
            raise LookupError("an array that the plan does not know")
        return found

    def _find(self, address: int) -> Block | None:
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        block = self.blocks[at]
        return block if address < block.start + max(block.size, 1) else None

    def _add(self, block: Block) -> Block:
        block.start = block.memory.ctypes.data
        at = bisect_right(self._starts, block.start)
        self._starts.insert(at, block.start)
        self.blocks.insert(at, block)
        return block


def use(memory: Memory, worker: int, number: int, round_: int, array: Any) -> None:
    """Note that a worker's call, in a round between two meetings, uses an array."""
    block = memory.block(array)
    begin, end = block.rounds if block.users else (round_, round_)
    block.rounds = (min(begin, round_), max(end, round_))
    first, _ = block.users.get(worker, (number, number))
    block.users[worker] = (first, number)


def place(blocks: list[Block]) -> tuple[dict[Block, int], int]:
    """Where each block comes to lie, and how much memory that takes.

    A lasting block has a place of its own. Others may share one when they are never in use at once: those of one worker
    by its calls, those of several by their rounds.
    """
    places: dict[Block, int] = {}
    end = 0
    used = [b for b in blocks if b.users and not b.outside and b.alias is None]
    for block in used:
        if block.lasting:
            places[block] = end
            end = _round(end + block.size)
    passing = [b for b in used if not b.lasting]
    end = _overlay([b for b in passing if len(b.users) > 1], lambda b: b.rounds, end, places)
    for worker in sorted({w for block in passing for w in block.users}):
        own = [b for b in passing if set(b.users) == {worker}]
        end = _overlay(own, lambda b: next(iter(b.users.values())), end, places)
    return places, end


def _overlay(
    blocks: list[Block], life: Callable[[Block], tuple[int, int]], begin: int, places: dict[Block, int]
) -> int:
    """Largest first, each at the lowest place that is free throughout its life."""
    end = begin
    placed: list[Block] = []
    # Of the same size the first used first: blocks come by address, which is another in each process.
    for block in sorted(blocks, key=lambda b: (-b.size, life(b), sorted(b.users.items()))):
        first, last = life(block)
        rivals = [b for b in placed if life(b)[0] <= last and first <= life(b)[1]]
        at = begin
        for other in sorted(rivals, key=lambda b: places[b]):
            if at + block.size <= places[other]:
                break
            at = max(at, _round(places[other] + other.size))
        places[block] = at
        placed.append(block)
        end = max(end, _round(at + block.size))
    return end


def _round(size: int) -> int:
    return -(-size // LINE) * LINE
