"""Recording: a graph, run once on arrays that write down what is done, for each worker's share of the samples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from nl_nodes.compiler.lower.memory import Block, Memory
from nl_nodes.compiler.lower.trace import Tape, Traced
from nl_nodes.graph import Graph
from nl_nodes.node import PARTIAL_SUM, Context, Node, WorkerGroup
from nl_nodes.nodes.leaves import Constant, Input, Leaf
from nl_nodes.shapes import unbroadcast
from nl_nodes.typing import Shape

REDUCE_ALONE_MIN_SIZE = 2**20
"""Elements from which on a gradient is added up by itself, as soon as its parts are there."""

PerWorker = list[Any]
"""One array for each worker."""

Axes = dict[Node, int | None]
"""Along which axis each node's samples lie."""


class TracedWorker(WorkerGroup):
    """One worker of several, while its calls are recorded."""

    def __init__(self, tape: Tape, number: int, count: int, batch: int, common: dict[Any, Any]) -> None:
        super().__init__(tape.xp)
        self.tape, self.number, self.count, self.batch, self.common = tape, number, count, batch, common
        self.place: Any = None
        self._asked = itertools.count()

    def at(self, node: Node | None, direction: str) -> None:
        """Begin a node's forward or backward: what is shared there is told apart by its order."""
        self.tape.owner = (node, direction)
        self.place, self._asked = (node, direction), itertools.count()

    def shard(self, count: int) -> slice:
        """This worker's of so many pieces."""
        return slice(count * self.number // self.count, count * (self.number + 1) // self.count)

    def single(self) -> TracedWorker:
        """The same worker, at what every worker does alike."""
        return TracedWorker(self.tape, 0, 1, self.batch, {})

    def global_batch(self, batched: int) -> int:
        """The whole batch."""
        return self.batch if self.count > 1 else batched

    def shared_empty(self, shape: Shape, dtype: Any) -> Traced:
        """The same memory for all."""
        key = (self.place, next(self._asked))
        if key not in self.common:
            self.common[key] = self.tape.empty(shape, dtype)
        return self.tape.of(np.asarray(self.common[key]))

    def persistent_zeros(self, shape: Shape, dtype: Any) -> Traced:
        """Memory of its own, cleared once."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.tape.on(self.tape.memory.allocate(size, persistent=True), shape, dtype)

    def all_reduce_sum(self, x: Traced) -> Traced:
        """Every worker puts its own into a common array, and adds up all."""
        if self.count > 1:
            slots = self.shared_empty((self.count, *x.shape), x.dtype)
            slots[self.number] = x
            self.barrier()
            x = np.add.reduce(slots, axis=0)
        return x

    def barrier(self) -> None:
        """Wait for the others."""
        if self.count > 1:
            self.tape.write("barrier")

    def random_bits(self, start: int) -> Any:
        """A node's random words, from the first of this worker's share on."""

        def random_bits(seed: int, stream: int, pass_index: int, count: int) -> Traced:
            target = self.tape.empty((count,), np.uint64)
            self.tape.write("random_bits", seed, stream, start, target)
            return target

        return random_bits


class Lowering:
    """The calls of every worker for one pass, forward and, where gradients are wanted, backward.

    Args:
        graph: what is run.
        feeds: shape and dtype of each input.
        samples: the inputs whose first axis is that of the samples.
        workers: how many workers share them.
        gradients: arrays of the caller that take the leaves' gradients; None for a pass without backward.

    Attributes:
        tapes: each worker's calls.
        inputs: the arrays to be fed.
        results: the graph's outputs.
        updates: the new value of each buffer.
        grads: the leaves' gradients.

    Raises:
        SamplesMix: when the samples cannot be shared.
    """

    def __init__(
        self,
        graph: Graph,
        feeds: Mapping[str, tuple[Shape, Any]],
        batched: frozenset[str],
        workers: int,
        gradients: Mapping[str, Any] | None,
    ) -> None:
        self.graph = graph
        self.memory = Memory()
        self.tapes = [Tape(self.memory) for _ in range(workers)]
        common: dict[Any, Any] = {}
        batch = next((feeds[name][0][0] for name in batched), 0)
        self.group = [TracedWorker(tape, w, workers, batch, common) for w, tape in enumerate(self.tapes)]
        self.shapes = graph.shapes({name: shape for name, (shape, _) in feeds.items()})
        self.axes = self._propagate_batch_axis(batched) if workers > 1 else dict.fromkeys(graph.order)
        self.inputs: dict[str, Any] = {}
        self._values: dict[Node, PerWorker] = {}
        self._contexts: dict[Node, list[Context]] = {}
        self._forward(feeds)
        self.results = [self._gather(node, self._values[node]) for node in graph.outputs]
        self.updates = {b: self._gather(node, self._values[node]) for b, node in graph.updates.items()}
        self.grads: dict[str, Any] = {}
        self._others: dict[Block, PerWorker] = {}
        self._waiting: list[tuple[Any, PerWorker]] = []
        if gradients is not None:
            self._backward(gradients)

    def _propagate_batch_axis(self, batched: frozenset[str]) -> Axes:
        """Along which axis each node's samples lie; None where it has none, or all workers hold the same."""
        axes: Axes = {}
        for node in self.graph.order:
            if isinstance(node, Leaf):
                axes[node] = 0 if node.name in batched and isinstance(node, Input) else None
                continue
            held = tuple(None if axes[n] == PARTIAL_SUM else axes[n] for n in node.inputs)
            shapes = tuple(self.shapes[n] for n in node.inputs)
            axes[node] = None if all(a is None for a in held) else node.batch_axis(shapes, held)
        return axes

    def _forward(self, feeds: Mapping[str, tuple[Shape, Any]]) -> None:
        for node in self.graph.order:
            if isinstance(node, Leaf):
                self._values[node] = self._leaf(node, feeds)
                continue
            parts = []
            for member in self.group:
                member.at(node, "forward")
                inputs = tuple(self._values[n][member.number] for n in node.inputs)
                y = self._run(node, member, inputs)
                parts.append(member.all_reduce_sum(y) if self.axes[node] == PARTIAL_SUM else y)
            self._values[node] = parts

    def _leaf(self, leaf: Leaf, feeds: Mapping[str, tuple[Shape, Any]]) -> PerWorker:
        if isinstance(leaf, Constant):
            whole = self.memory.constant(np.array(leaf.value, order="C"))
        elif leaf.name in feeds:
            shape, dtype = feeds[leaf.name]
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            whole = self.tapes[0].on(self.memory.allocate(size, persistent=True), shape, dtype)
            self.inputs[leaf.name] = whole
        else:
            whole = self.memory.external(leaf.value)
        return [tape.of(np.asarray(whole))[self._part(leaf, m)] for tape, m in zip(self.tapes, self.group, strict=True)]

    def _part(self, node: Node, member: TracedWorker) -> tuple[slice, ...]:
        """The place of a worker's samples in a node's whole value."""
        axis = self.axes[node]
        if axis is None or axis == PARTIAL_SUM:
            return ()
        return (slice(None),) * axis + (member.shard(self.shapes[node][axis]),)

    def _run(self, node: Node, member: TracedWorker, inputs: tuple[Traced, ...]) -> Any:
        ctx = Context()
        alike = all(self.axes[n] in (None, PARTIAL_SUM) for n in node.inputs)
        ctx.xp, ctx.group = member.xp, member.single() if alike else member
        ctx.shapes = tuple(x.shape for x in inputs)
        ctx.needs = tuple(n in self.graph.needs for n in node.inputs)
        first = self._part(node, member)[0].start if self.axes[node] == 0 else 0
        ctx.random_bits = member.random_bits(first * int(np.prod(self.shapes[node][1:])))
        ctx.pass_index = 0
        y = node.forward(ctx, *inputs)
        ctx.inputs, ctx.output = inputs, y
        self._contexts.setdefault(node, []).append(ctx)
        return y

    def _gather(self, node: Node, parts: PerWorker, direction: str = "forward") -> Any:
        """Where all of a value comes together; it stays until the next pass."""
        shape, dtype = self.shapes[node], parts[0].dtype
        size = int(np.prod(shape)) * dtype.itemsize
        whole = self.tapes[0].on(self.memory.allocate(size, persistent=True), shape, dtype)
        for member, part in zip(self.group, parts, strict=True):
            where = self._part(node, member)
            member.at(node, direction)
            if where or member is self.group[0]:
                member.tape.of(np.asarray(whole))[where] = part
        return whole

    def _backward(self, gradients: Mapping[str, Any]) -> None:
        grads: dict[Node, PerWorker] = {}
        output = self.graph.outputs[0]
        for member in self.group:
            member.at(output, "backward")
        grads[output] = [
            member.xp.ones(part.shape, part.dtype)
            for member, part in zip(self.group, self._values[output], strict=True)
        ]
        partial: dict[Node, PerWorker] = {}
        for node in reversed(self.graph.order):
            if isinstance(node, Leaf):  # all that uses it lies behind
                if node.trainable:
                    self._leaf_gradient(node, gradients, grads, partial)
            elif node in grads and node in self.graph.needs:
                self._node_backward(node, gradients, grads, partial)
        for member in self.group:
            member.at(None, "backward")
        self._reduce_gradients()
        self.grads = {name: self.grads[name] for name in self.graph.leaves if name in self.grads}

    def _node_backward(
        self, node: Node, gradients: Mapping[str, Any], grads: dict[Node, PerWorker], partial: dict[Node, PerWorker]
    ) -> None:
        """One node's backward, by each worker."""
        dys = grads.pop(node)
        found: list[tuple[Any, ...]] = []
        for member, ctx, dy in zip(self.group, self._contexts[node], dys, strict=True):
            member.at(node, "backward")
            dxs = node.backward(ctx, dy)
            found.append(dxs if isinstance(dxs, tuple) else (dxs,))
        for i, n in enumerate(node.inputs):
            if n not in self.graph.needs or found[0][i] is None:
                continue
            parts = [unbroadcast(dxs[i], x.shape) for dxs, x in zip(found, self._values[n], strict=True)]
            summed = (
                self.axes[node] not in (None, PARTIAL_SUM)
                and self.axes[n] in (None, PARTIAL_SUM)
                and not _is_shared(parts)
            )
            if summed and isinstance(n, Leaf) and n.name in gradients:
                _accumulate(partial, n, parts)
            else:
                if summed:
                    parts = [member.all_reduce_sum(dx) for member, dx in zip(self.group, parts, strict=True)]
                _accumulate(grads, n, parts)

    def _leaf_gradient(
        self, leaf: Leaf, gradients: Mapping[str, Any], grads: dict[Node, PerWorker], partial: dict[Node, PerWorker]
    ) -> None:
        """Bring a leaf's gradient to where the caller wants it."""
        for member in self.group:
            member.at(leaf, "backward")
        if leaf.name not in gradients:
            held = zip(self.group, self._values[leaf], strict=True)
            found = grads.get(leaf) or [member.xp.zeros(x.shape, x.dtype) for member, x in held]
            self.grads[leaf.name] = self._gather(leaf, found, "backward")
            return
        target = self.grads[leaf.name] = self.tapes[0].of(self.memory.external(gradients[leaf.name]))
        parts = partial.get(leaf, [])
        if leaf in grads:  # what all workers know alike counts once
            first = grads[leaf][0]
            parts = [parts[0] + first, *parts[1:]] if parts else [first]
        if parts:
            self._sum_into(parts, target)
        else:
            target[...] = 0

    def _sum_into(self, parts: PerWorker, target: Traced) -> None:
        """The workers' parts of a gradient, added up: a large one at once, so that its parts' memory serves others."""
        others = parts[1:]
        self._alias_or_copy(parts[0], target)
        if not others or not target.size:
            return
        block = self.memory.block(target)
        if block.size < REDUCE_ALONE_MIN_SIZE * target.itemsize:  # one addition for all that is in it
            if block not in self._others:
                count, dtype = block.size // target.itemsize, target.dtype
                wholes = [tape.on(self.memory.allocate(block.size, True), (count,), dtype) for tape in self.tapes[1:]]
                self._others[block] = wholes
                self._waiting.append((block.memory.view(dtype), wholes))
            for part, whole in zip(others, self._others[block], strict=True):
                self._alias_or_copy(part, _beside(target, block, whole))
            return
        self._waiting.append((target, others))
        if target.size >= REDUCE_ALONE_MIN_SIZE:
            self._reduce_gradients()

    def _alias_or_copy(self, source: Traced, target: Traced) -> None:
        """Let a value be written where it is wanted, or copy it there."""
        block = self.memory.block(source)
        fits = source.flags.c_contiguous and source.nbytes == block.size
        alike = target.flags.c_contiguous and source.dtype == target.dtype
        if fits and alike and not block.persistent and block.alias is None:
            block.alias = target
        else:
            target[...] = source

    def _reduce_gradients(self) -> None:
        """Add the other workers' parts to the first one's, when all are there; each worker adds its share."""
        for member in self.group:
            member.barrier()
            for whole, parts in self._waiting:
                mine, *others = (member.tape.of(np.atleast_1d(np.asarray(a))) for a in (whole, *parts))
                share = member.shard(len(mine))
                for other in others:
                    np.add(mine[share], other[share], out=mine[share])
        self._waiting = []


def _is_shared(parts: PerWorker) -> bool:
    """Whether the workers' parts are one array, which they filled together."""
    return len({part.ctypes.data for part in parts}) < len(parts)


def _beside(target: Traced, block: Block, other: Traced) -> Any:
    """The place in another block that a target has in its own."""
    at = (target.ctypes.data - block.start) // target.itemsize
    return other.tape.xp.as_strided(other[at:], target.shape, target.strides)


def _accumulate(grads: dict[Node, PerWorker], node: Node, parts: PerWorker) -> None:
    grads[node] = [a + b for a, b in zip(grads[node], parts, strict=True)] if node in grads else parts
