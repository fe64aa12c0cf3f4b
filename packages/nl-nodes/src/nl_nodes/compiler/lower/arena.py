"""The arena: one piece of memory in which every block of a recording has its place."""

from __future__ import annotations

from typing import Any

import numpy as np

from nl_nodes.compiler.lower.memory import SMALLER, Block, Memory, assign_offsets
from nl_nodes.compiler.lower.trace import Call
from nl_nodes.platform import refuse_beyond_memory
from nl_nodes.runtime import Executor
from nl_nodes.typing import Shape


class Arena:
    """The memory of a plan; it is needed only until all that the plan calls has its place.

    Args:
        memory: the blocks, of which is noted who uses them when.
        team: who needs to see the arena.

    Attributes:
        size: its bytes.
    """

    def __init__(self, memory: Memory, executor: Executor) -> None:
        self._memory = memory
        self._places, self.size = assign_offsets(memory.blocks)
        refuse_beyond_memory(self.size, "the plan for this batch", SMALLER)
        self._bytes = executor.memory(self.size)  # begins with a page, and so on a cache line
        for block in self._places:
            if block.value is not None:
                self._at(block, 0, block.value.shape, block.value.dtype, block.value.strides)[...] = block.value

    def relocate_call(self, call: Call) -> Call:
        """A call on arrays at their places."""
        name, args = call
        return name, tuple(self.relocate(a) if isinstance(a, np.ndarray) else a for a in args)

    def relocate(self, array: Any) -> Any:
        """An array at its place."""
        block = self._memory.block(array)
        at = array.ctypes.data - block.start
        if block.alias is not None:
            home = self._memory.block(block.alias)
            at, block = at + block.alias.ctypes.data - home.start, home
        return self._at(block, at, array.shape, array.dtype, array.strides)

    def _at(self, block: Block, at: int, shape: Shape, dtype: Any, strides: tuple[int, ...]) -> Any:
        if block.external:
            return np.ndarray(shape, dtype, block.memory, at, strides)
        return np.ndarray(shape, dtype, self._bytes, self._places[block] + at, strides)
