"""A worker while its calls are traced: what it does with others becomes calls, such as barriers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from nl_nodes.compiler.lower.trace import Tape, Traced
from nl_nodes.context import NotShardable, WorkerGroup
from nl_nodes.node import Node
from nl_nodes.typing import Shape

PASS_INDEX: Any = object()
"""Stands for the number of the pass, which is known when the calls run: arithmetic on it raises TypeError."""


class TracedWorker(WorkerGroup):
    """The group as one of several workers sees it while its calls are traced."""

    def __init__(
        self,
        tape: Tape,
        number: int,
        count: int,
        batch: int,
        shared: dict[Any, Any],
        chunked: bool = True,
        panels: bool = False,
    ) -> None:
        super().__init__(tape.xp)
        self.chunked, self.panels = chunked, panels
        self.tape, self.number, self.count, self.batch, self.shared = tape, number, count, batch, shared
        self._requests = itertools.count()

    def enter(self, node: Node | None, direction: str) -> None:
        """Begin a node's forward or backward."""
        self.tape.owner = (node, direction)

    def shard(self, count: int) -> slice:
        """Return this worker's slice of `count` items."""
        return slice(count * self.number // self.count, count * (self.number + 1) // self.count)

    def single(self) -> TracedWorker:
        """Return this worker as a group of one, for work that every worker repeats."""
        return TracedWorker(self.tape, 0, 1, self.batch, {}, self.chunked, self.panels)

    def global_batch(self, batched: int) -> int:
        """Return the batch size of all workers together."""
        return self.batch if self.count > 1 else batched

    def shared_empty(self, shape: Shape, dtype: Any) -> Traced:
        """Return uninitialised memory that all workers see; they make their requests in the same order."""
        key = next(self._requests)
        if key not in self.shared:
            self.shared[key] = self.tape.empty(shape, dtype)
        return self.tape.of(np.asarray(self.shared[key]))

    def persistent_zeros(self, shape: Shape, dtype: Any) -> Traced:
        """Return memory that keeps its place from pass to pass, zeroed once."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.tape.on(self.tape.memory.allocate(size, persistent=True), shape, dtype)

    def all_reduce_sum(self, x: Traced) -> Traced:
        """Return the sum of every worker's x: each writes its slot of a shared array, and sums all slots."""
        if self.count > 1:
            slots = self.shared_empty((self.count, *x.shape), x.dtype)
            slots[self.number] = x
            self.barrier()
            x = np.add.reduce(slots, axis=0)
        return x

    def barrier(self) -> None:
        """Wait until all workers have reached this barrier."""
        if self.count > 1:
            self.tape.write("barrier")

    def random_bits(self, shard: tuple[slice, ...]) -> Any:
        """Return a source of the random words of a node, of which the worker has this shard of the output.

        The words are those of the whole batch: as many for each sample.

        Raises:
            NotShardable: by the source, where the words cannot be divided among the samples.
        """

        def random_bits(seed: int, stream: int, pass_index: object, count: int) -> Traced:
            if pass_index is not PASS_INDEX:
                raise TypeError("random_bits takes ctx.pass_index itself: give numbers that differ as seed or stream")
            start = 0
            if shard:
                *outer, mine = shard
                samples = mine.stop - mine.start
                if outer or count % samples:
                    raise NotShardable(f"{count} random words for {samples} samples")
                start = mine.start * (count // samples)
            target = self.tape.empty((count,), np.uint64)
            self.tape.write("random_bits", seed, stream, start, target)
            return target

        return random_bits
