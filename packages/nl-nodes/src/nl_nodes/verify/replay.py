"""Replay: run the calls of a lowered graph one after another in this process, with separate memory for each block.

Training runs the same calls on several workers, in an arena where blocks share memory. Both must agree bit for bit.
A replay shares no code with the memory planner and the executor, and so checks them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nl_nodes.compiler.lower.lower import Lowering
from nl_nodes.runtime.call import Call
from nl_nodes.runtime.cut import ProductCut, cut_product
from nl_nodes.runtime.executor import BUFFER
from nl_nodes.verify.rounding import ROUGH

# The calls whose results are rounded; the others choose, compare and copy.
ARITHMETIC = {
    "add", "add.reduce", "divide", "exp", "log", "log1p", "matmul", "multiply", "power", "subtract", "tanh",
}  # fmt: skip


class Replay:
    """Runs passes of a lowered graph.

    Args:
        lowered: the lowered graph; its blocks are the memory, so it can't be replayed twice at the same time.
        cut: how the plan's large products are cut, if at all.

    Attributes:
        results: the graph's outputs, valid until the next pass.
        grads: the leaves' gradients, valid until the next pass.
        updates: the new value of each buffer, valid until the next pass.
    """

    def __init__(self, lowered: Lowering, cut: ProductCut | None = None) -> None:
        self._memory = lowered.memory
        for block in lowered.memory.blocks:
            if block.value is not None:
                np.ndarray(block.value.shape, block.value.dtype, block.memory)[...] = block.value
        self._lists = [[cut_product(self._bound(call), cut) for call in tape.calls] for tape in lowered.tapes]
        self._inputs = {name: self._plain(array) for name, array in lowered.inputs.items()}
        self.results = tuple(map(self._plain, lowered.results))
        self.grads = {name: self._plain(array) for name, array in lowered.grads.items()}
        self.updates = {buffer: self._plain(array) for buffer, array in lowered.updates.items()}

    def run(self, feeds: Mapping[str, Any], pass_index: int) -> None:
        """Run one pass: up to each barrier, one worker after another.

        The order of the workers is reversed after each pass, so that a missing barrier changes the results.
        """
        for name, array in self._inputs.items():
            array[...] = feeds[name]
        waiting = [iter(calls) for calls in self._lists]
        self._lists.reverse()
        with np.errstate(all="ignore"):
            np.setbufsize(BUFFER)
            while waiting:
                waiting = [calls for calls in waiting if self._reaches_barrier(calls, pass_index)]

    def _reaches_barrier(self, calls: Iterator[Call], pass_index: int) -> bool:
        """Run one worker's calls up to its next barrier; return False if there was none."""
        for name, args in calls:
            if name == "barrier":
                return True
            self._call(name, args, pass_index)
        return False

    def _call(self, name: str, args: tuple[Any, ...], pass_index: int) -> None:
        call(name, args, pass_index)

    def _bound(self, call: Call) -> Call:
        name, args = call
        return name, tuple(self._plain(a) if isinstance(a, np.ndarray) else a for a in args)

    def _plain(self, array: Any) -> Any:
        """Return a real array for a traced one, in the memory of its block or of that block's alias."""
        block = self._memory.block(array)
        if block.alias is None:
            return array.view(np.ndarray)
        home = self._memory.block(block.alias)
        at = array.ctypes.data - block.start + block.alias.ctypes.data - home.start
        return np.ndarray(array.shape, array.dtype, home.memory, at, array.strides)


class RoughReplay(Replay):
    """A replay in which every result of arithmetic has a random relative error up to `ROUGH`.

    Args:
        lowered: the lowered graph, in float64.
        seed: seed of the random errors.
    """

    def __init__(self, lowered: Lowering, seed: int) -> None:
        super().__init__(lowered)
        self._rng = np.random.default_rng(seed)

    def _call(self, name: str, args: tuple[Any, ...], pass_index: int) -> None:
        call(name, args, pass_index)
        target = args[3] if name == "add.reduce" else args[-1]
        if name in ARITHMETIC and target.dtype.kind == "f":
            target *= 1 + ROUGH["float64"] * self._rng.uniform(-1, 1, target.shape)


def call(name: str, args: tuple[Any, ...], pass_index: int) -> None:
    """Run one call."""
    if name == "random_bits":
        seed, stream, start, target = args
        # Philox4x64-10 gives four words per counter value, and NumPy increments the counter before it draws.
        counter = ((pass_index << 64) + start // 4 - 1) % 2**256
        words = np.random.Philox(counter=counter, key=(stream << 64) + seed).random_raw(start % 4 + target.size)
        target[...] = words[start % 4 :]
    elif name == "copyto":
        np.copyto(*args)
    elif name.endswith(".reduce"):
        x, axes, _, target, keepdims = args
        getattr(np, name.removesuffix(".reduce")).reduce(x, axis=axes, out=target, keepdims=keepdims)
    else:
        getattr(np, name)(*args[:-1], out=args[-1])
