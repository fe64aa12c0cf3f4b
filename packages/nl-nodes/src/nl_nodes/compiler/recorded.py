"""Array maths outside a graph, recorded once: the update of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from nl_nodes.compiler.cuda.fuse import fuse
from nl_nodes.compiler.lower.memory import Memory
from nl_nodes.compiler.lower.trace import Tape
from nl_nodes.compiler.plan import plan_memory
from nl_nodes.runtime import Executor


class Recorded:
    """A function that changes arrays in place, recorded for an executor of one worker.

    Args:
        function: takes the arrays, and the numbers as arrays without axes.
        arrays: what it reads and changes, of the executor's device.
        numbers: the names of the numbers, which differ from run to run.
        executor: runs the calls.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Any], Mapping[str, Any]], None],
        arrays: Sequence[Any],
        numbers: Sequence[str],
        executor: Executor,
    ) -> None:
        self._arrays, self._executor = tuple(arrays), executor
        memory, dtype = Memory(), np.dtype(arrays[0].dtype)
        tape = Tape(memory)
        inputs = {name: tape.on(memory.allocate(dtype.itemsize, persistent=True), (), dtype) for name in numbers}
        function([tape.of(memory.external(array)) for array in arrays], inputs)
        lowered: Any = SimpleNamespace(tapes=[tape], memory=memory, inputs=inputs, results=(), updates={}, grads={})
        if executor.fused:
            fuse(lowered)
        arena = plan_memory(lowered, executor)
        self._numbers = {name: arena.relocate(array) for name, array in inputs.items()}
        before = [array.copy() for array in arrays]
        try:
            self._loaded = executor.load([[arena.relocate_call(call) for call in tape.calls]])
        finally:  # loading may run the calls once
            for array, old in zip(arrays, before, strict=True):
                array[...] = old

    def run(self, numbers: Mapping[str, float]) -> None:
        """Run the function once with these numbers."""
        with self._executor.lock:
            for name, array in self._numbers.items():
                self._executor.write(array, numbers[name])
            self._executor.run(self._loaded, 0)
