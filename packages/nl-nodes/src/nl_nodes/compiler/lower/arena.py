"""The arena: one allocation that holds every block of a plan at its offset."""

from __future__ import annotations

from typing import Any

import numpy as np

from nl_nodes.compiler.lower.memory import Block, Memory, assign_offsets
from nl_nodes.runtime import Executor
from nl_nodes.runtime.call import Call
from nl_nodes.typing import Shape


class Arena:
    """The memory of a plan, needed only until its calls are relocated.

    Args:
        memory: the blocks, with their live ranges.
        executor: allocates the arena so that all its workers see it, and makes its views.

    Attributes:
        size: bytes.
        shared: the bytes from the first block on that shares its memory with others.
    """

    def __init__(self, memory: Memory, executor: Executor) -> None:
        self._memory = memory
        self._offsets, self.size = assign_offsets(memory.blocks)
        executor.refuse_beyond_memory(self.size)
        self._executor = executor
        self._bytes = executor.memory(self.size)  # page-aligned, so cache-line-aligned
        begin = min((offset for block, offset in self._offsets.items() if not block.persistent), default=self.size)
        self.shared = executor.view(self._bytes, (self.size - begin,), np.uint8, begin, (1,))
        for block in self._offsets:
            if block.value is not None:
                view = self._view(block, 0, block.value.shape, block.value.dtype, block.value.strides)
                executor.write(view, block.value)

    def relocate_call(self, call: Call) -> Call:
        """Return a call whose arrays are views of the arena."""
        name, args = call
        return name, tuple(self.relocate(a) if isinstance(a, np.ndarray) else a for a in args)

    def relocate(self, array: Any) -> Any:
        """Return the view of the arena, or of external memory, that replaces a traced array."""
        block = self._memory.block(array)
        offset = array.ctypes.data - block.start
        if block.alias is not None:
            aliased = self._memory.block(block.alias)
            offset, block = offset + block.alias.ctypes.data - aliased.start, aliased
        return self._view(block, offset, array.shape, array.dtype, array.strides)

    def _view(self, block: Block, offset: int, shape: Shape, dtype: Any, strides: tuple[int, ...]) -> Any:
        if block.external:
            memory = block.memory if block.buffer is None else block.buffer
        else:
            memory, offset = self._bytes, self._offsets[block] + offset
        return self._executor.view(memory, shape, dtype, offset, strides)
