"""Lowering: trace a graph, forward and backward, into one list of calls per worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from nl_nodes.compiler.fused import Conv
from nl_nodes.compiler.lower.memory import Block, Memory
from nl_nodes.compiler.lower.trace import Tape, Traced
from nl_nodes.compiler.lower.traced_worker import PASS_INDEX, TracedWorker
from nl_nodes.context import PARTIAL_SUM, Context
from nl_nodes.errors import NotCompilable
from nl_nodes.graph import Graph, input_gradients
from nl_nodes.node import Node
from nl_nodes.nodes.leaves import Constant, Input, Leaf
from nl_nodes.typing import Shape

REDUCE_ALONE_MIN_SIZE = 2**20
"""Elements from which on a gradient is reduced on its own, as soon as every worker has its part."""

RECOMPUTE_MIN_BYTES = 2**23
"""Bytes of a worker's value that backward computes again, as Chen et al. (2016), Sublinear Memory Cost."""

RECOMPUTE_MAX_DEPTH = 4
"""Length of a chain of values that are computed again for its last."""

PerWorker = list[Any]
"""One array for each worker."""

Axes = dict[Node, int | None]
"""The batch axis of each node's output; None where the output is replicated."""


@dataclass(frozen=True)
class Update:
    """What a training pass does with its gradients where all of it is finite, such as an optimizer's step.

    Attributes:
        function: changes arrays in place, given the traced `gradient`, `arrays`, and numbers (arrays without axes).
        gradient: the gradients, which the function only reads.
        arrays: what it reads and changes, such as parameters; arrays of the executor's device, all of one dtype.
        numbers: the names of the numbers, which are fed to each pass.
        finite_so_far: an array without axes of the same device and dtype: 0, and NaN from the first pass on that was
            not finite. No pass changes anything then, until the caller sets it to 0 again.
    """

    function: Callable[[Any, Sequence[Any], Mapping[str, Any]], None]
    gradient: Any
    arrays: Sequence[Any]
    numbers: Sequence[str]
    finite_so_far: Any


@dataclass(frozen=True)
class CompileSpec:
    """What a graph is compiled for.

    Attributes:
        feeds: shape and dtype of each input.
        batched: the inputs whose first axis is the batch axis, which the workers share.
        gradients: arrays of the caller for the gradients of these leaves; all others' are arrays of the plan, and the
            upstream gradient is 1. None for a pass without backward.
        update: for an executor whose passes check themselves, what a pass does last; None for nothing.
    """

    feeds: Mapping[str, tuple[Shape, Any]]
    batched: frozenset[str] = frozenset()
    gradients: Mapping[str, Any] | None = None
    update: Update | None = None

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each input."""
        return {name: shape for name, (shape, _) in self.feeds.items()}


class Lowering:
    """Every worker's calls for one pass: forward and, where gradients are wanted, backward.

    Each worker computes gradients from its shard of the batch. They come together in one of four ways:

    - A parameter's gradients are partial sums (`_sum_into`): worker 0 writes its own to the caller's array, the others
      to buffers; after one barrier each worker adds the buffers to the caller's array, on its shard of the elements.
      Gradients of at least `REDUCE_ALONE_MIN_SIZE` elements are added at once, all others at the end of the pass.
    - Partial sums for the output of another node, and sums within a node such as those of batch norm, are completed at
      once by `all_reduce_sum`: all workers go on with the total.
    - A replicated gradient, which every worker computes alike, is taken once, from worker 0.
    - A gradient that the workers write together into one array is complete: nothing is summed.

    Args:
        graph: the graph to trace.
        spec: what the graph is compiled for.
        workers: the number of workers that share the batch.
        chunked: whether fused nodes work in chunks that stay in the cache, or on the whole batch at once.
        panels: whether fused nodes store right factors in panels of columns.

    Attributes:
        tapes: each worker's calls.
        inputs: the arrays to be fed.
        results: the graph's outputs.
        updates: the new value of each buffer.
        grads: the leaves' gradients.

    Raises:
        NotShardable: if the batch cannot be split among the workers.
    """

    def __init__(
        self, graph: Graph, spec: CompileSpec, workers: int, chunked: bool = True, panels: bool = False
    ) -> None:
        self.graph, self.spec = graph, spec
        self.memory = Memory()
        self.tapes = [Tape(self.memory) for _ in range(workers)]
        self._shared: dict[Any, Any] = {}
        batch = next((spec.feeds[name][0][0] for name in spec.batched), 0)
        self.group = [
            TracedWorker(tape, worker, workers, batch, self._shared, chunked, panels)
            for worker, tape in enumerate(self.tapes)
        ]
        self.shapes = graph.shapes(spec.shapes)
        self.axes = self._propagate_batch_axis() if workers > 1 else dict.fromkeys(graph.order)
        self.inputs: dict[str, Any] = {}
        self._values: dict[Node, PerWorker] = {}
        self._contexts: dict[Node, list[Context]] = {}
        self._forward()
        self._dropped = self._drop_large_values()
        self.results = [self._gather(node, self._values[node]) for node in graph.outputs]
        self.updates = {b: self._gather(node, self._values[node]) for b, node in graph.updates.items()}
        self.grads: dict[str, Any] = {}
        self._partials: dict[Block, PerWorker] = {}
        self._pending: list[tuple[Any, PerWorker]] = []
        self._targets: Mapping[str, Any] = spec.gradients or {}
        if spec.gradients is not None:
            self._backward()

    def _propagate_batch_axis(self) -> Axes:
        axes: Axes = {}
        for node in self.graph.order:
            if isinstance(node, Leaf):
                axes[node] = 0 if node.name in self.spec.batched and isinstance(node, Input) else None
                continue
            of_inputs = tuple(None if axes[n] == PARTIAL_SUM else axes[n] for n in node.inputs)
            shapes = tuple(self.shapes[n] for n in node.inputs)
            axes[node] = None if all(a is None for a in of_inputs) else node.batch_axis(shapes, of_inputs)
        return axes

    def _forward(self) -> None:
        for node in self.graph.order:
            if isinstance(node, Leaf):
                self._values[node] = self._leaf(node)
                continue
            values = []
            for worker in self.group:
                worker.enter(node, "forward")
                inputs = tuple(self._values[n][worker.number] for n in node.inputs)
                y = self._node_forward(node, worker, inputs)
                values.append(worker.all_reduce_sum(y) if self.axes[node] == PARTIAL_SUM else y)
            self._values[node] = values

    def _leaf(self, leaf: Leaf) -> PerWorker:
        if isinstance(leaf, Constant):
            array = self.memory.constant(np.array(leaf.value, order="C"))
        elif leaf.name in self.spec.feeds:
            array = self.inputs[leaf.name] = self.group[0].persistent_zeros(*self.spec.feeds[leaf.name])
        else:
            array = self.memory.external(leaf.value)
        return [w.tape.of(np.asarray(array))[self._shard_index(leaf, w)] for w in self.group]

    def _shard_index(self, node: Node, worker: TracedWorker) -> tuple[slice, ...]:
        """Return the index of a worker's shard in a node's whole value."""
        axis = self.axes[node]
        if axis is None or axis == PARTIAL_SUM:
            return ()
        return (slice(None),) * axis + (worker.shard(self.shapes[node][axis]),)

    def _node_forward(self, node: Node, worker: TracedWorker, inputs: tuple[Traced, ...]) -> Any:
        ctx = Context()
        replicated = all(self.axes[n] in (None, PARTIAL_SUM) for n in node.inputs)
        ctx.xp, ctx.group = worker.xp, worker.single() if replicated else worker
        ctx.shapes = tuple(x.shape for x in inputs)
        ctx.needs = tuple(n in self.graph.needs for n in node.inputs)
        ctx.random_bits = worker.random_bits(self._shard_index(node, worker))
        ctx.pass_index = PASS_INDEX
        with _named(node):
            y = node.forward(ctx, *inputs)
        ctx.inputs, ctx.output = inputs, y
        self._contexts.setdefault(node, []).append(ctx)
        return y

    def _gather(self, node: Node, values: PerWorker, direction: str = "forward") -> Any:
        """Copy the workers' shards of a value into one persistent array."""
        gathered = self.group[0].persistent_zeros(self.shapes[node], values[0].dtype)
        for worker, value in zip(self.group, values, strict=True):
            index = self._shard_index(node, worker)
            worker.enter(node, direction)
            if index or worker is self.group[0]:
                worker.tape.of(np.asarray(gathered))[index] = value
        return gathered

    def _backward(self) -> None:
        grads: dict[Node, PerWorker] = {}
        output = self.graph.outputs[0]
        for worker in self.group:
            worker.enter(output, "backward")
        grads[output] = [
            worker.xp.ones(value.shape, value.dtype)
            for worker, value in zip(self.group, self._values[output], strict=True)
        ]
        partial: dict[Node, PerWorker] = {}
        for node in self.graph.backward_order():
            if isinstance(node, Leaf):
                self._leaf_gradient(node, grads, partial)
            elif node in grads:
                self._node_backward(node, grads, partial)
        for worker in self.group:
            worker.enter(None, "backward")
        self._reduce_gradients()
        self.grads = {name: self.grads[name] for name in self.graph.leaves if name in self.grads}

    def _node_backward(self, node: Node, grads: dict[Node, PerWorker], partial: dict[Node, PerWorker]) -> None:
        dys = grads.pop(node)
        by_worker, made_before = [], len(self.memory.blocks)
        for worker, ctx, dy in zip(self.group, self._contexts[node], dys, strict=True):
            if "inputs" in node.saves:
                ctx.inputs = tuple(
                    x if number in node.unread else self._recomputed(node.inputs[number], x, worker)
                    for number, x in enumerate(ctx.inputs)
                )
            worker.enter(node, "backward")
            with _named(node):
                by_worker.append(input_gradients(node, ctx, dy))
        for n, *parts in zip(node.inputs, *by_worker, strict=True):
            if parts[0] is None:
                continue
            is_partial = (
                self.axes[node] not in (None, PARTIAL_SUM)
                and self.axes[n] in (None, PARTIAL_SUM)
                and not self._is_shared(parts)
            )
            if is_partial and isinstance(n, Leaf) and n.name in self._targets:
                _accumulate(partial, n, parts)
            else:
                if is_partial:
                    parts = [worker.all_reduce_sum(dx) for worker, dx in zip(self.group, parts, strict=True)]
                _accumulate(grads, n, parts, self._only_here(parts, sum(by_worker, ()), made_before))

    def _drop_large_values(self) -> dict[Node, int]:
        """Return the nodes whose values backward computes again, with the length of the chain of such nodes up to it.

        Of a long chain of sums with shortcuts some are kept, as each takes all before it. So are convolutions that do
        not work in chunks, on a GPU: it has more memory, and a product is a launch there.
        """
        dropped: dict[Node, int] = {}
        for node in self.graph.order:
            if node.recomputable and (self.group[0].chunked or not isinstance(node, Conv)):
                depth = 1 + max(dropped.get(n, 0) for n in node.inputs)
                if self._values[node][0].nbytes >= RECOMPUTE_MIN_BYTES and depth <= RECOMPUTE_MAX_DEPTH:
                    dropped[node] = depth
        return dropped

    def _recomputed(self, node: Node, value: Any, worker: TracedWorker, keep: bool = True) -> Any:
        """Return a node's value, computed once more where forward did not keep it.

        Values computed on the way are not kept, or a chain would fill the memory. Convolutions are: they take longer.
        """
        if node not in self._dropped:
            return value
        ctx = self._contexts[node][worker.number]
        if ctx.output is not self._values[node][worker.number]:
            return ctx.output
        inputs = dict(zip(node.inputs, ctx.inputs, strict=True)).items()
        values = {n: self._recomputed(n, x, worker, keep=False) for n, x in inputs}
        worker.enter(node, "backward")
        again = node.forward(ctx, *(values[n] for n in node.inputs))
        if keep or isinstance(node, Conv):
            ctx.output = again
        return again

    def _only_here(self, parts: PerWorker, every: tuple[Any, ...], made_before: int) -> bool:
        """Whether a node's gradients, of all it has returned, are alone in blocks that its backward has made."""
        blocks = [self.memory.block(dx) for dx in every if dx is not None]
        new = [b for b in map(self.memory.block, parts) if b.number >= made_before and not b.persistent]
        return len(new) == len(parts) and all(blocks.count(b) < 2 for b in new) and not any(map(_is_broadcast, parts))

    def _is_shared(self, parts: PerWorker) -> bool:
        """Whether the workers' parts are one array that they filled together, not merely an equal constant."""
        if len({part.ctypes.data for part in parts}) == len(parts):
            return False
        block = self.memory.find(parts[0])
        return any(self.memory.find(array) is block for array in self._shared.values())

    def _leaf_gradient(self, leaf: Leaf, grads: dict[Node, PerWorker], partial: dict[Node, PerWorker]) -> None:
        """Write a leaf's gradient to the caller's array, or to an array of the plan."""
        for worker in self.group:
            worker.enter(leaf, "backward")
        if leaf.name not in self._targets:
            values = zip(self.group, self._values[leaf], strict=True)
            grad = grads.get(leaf) or [worker.xp.zeros(x.shape, x.dtype) for worker, x in values]
            self.grads[leaf.name] = self._gather(leaf, grad, "backward")
            return
        target = self.grads[leaf.name] = self.tapes[0].of(self.memory.external(self._targets[leaf.name]))
        parts = partial.get(leaf, [])
        if leaf in grads:  # replicated gradients are added once
            replicated = grads[leaf][0]
            parts = [parts[0] + replicated, *parts[1:]] if parts else [replicated]
        if parts:
            elsewhere = [a for n, arrays in (*grads.items(), *partial.items()) if n is not leaf for a in arrays]
            self._sum_into(parts, target, elsewhere)
        else:
            target[...] = 0

    def _sum_into(self, parts: PerWorker, target: Traced, elsewhere: PerWorker) -> None:
        """Write worker 0's part of a gradient to the target, and the others' to buffers that are added to it later.

        The parts of a large gradient are added at once: their memory can then be reused within the pass. If another
        gradient is in that memory too, they are added in a copy.
        """
        at_once = len(parts) > 1 and target.size >= REDUCE_ALONE_MIN_SIZE
        if at_once and any(self.memory.find(a) is self.memory.block(parts[0]) for a in elsewhere):
            parts = [part.copy() for part in parts]
        others = parts[1:]
        self._alias_or_copy(parts[0], target)
        if not others or not target.size:
            return
        block = self.memory.block(target)
        if block.size < REDUCE_ALONE_MIN_SIZE * target.itemsize:  # one addition for all gradients in the block
            if block not in self._partials:
                count, dtype = block.size // target.itemsize, target.dtype
                buffers = [worker.persistent_zeros((count,), dtype) for worker in self.group[1:]]
                self._partials[block] = buffers
                self._pending.append((block.memory.view(dtype), buffers))
            for part, buffer in zip(others, self._partials[block], strict=True):
                self._alias_or_copy(part, _counterpart(target, block, buffer))
            return
        self._pending.append((target, others))
        if target.size >= REDUCE_ALONE_MIN_SIZE:
            self._reduce_gradients()

    def _alias_or_copy(self, source: Traced, target: Traced) -> None:
        """Make the source's block an alias of the target where it can be, else copy."""
        block = self.memory.block(source)
        fills_block = source.flags.c_contiguous and source.nbytes == block.size
        same_layout = target.flags.c_contiguous and source.dtype == target.dtype
        if fills_block and same_layout and not block.persistent and block.alias is None:
            block.alias = target
        else:
            target[...] = source

    def _reduce_gradients(self) -> None:
        """Add the other workers' parts of the pending gradients to the first one's, each worker its shard."""
        for worker in self.group:
            worker.barrier()
            for target, parts in self._pending:
                total, *others = (worker.tape.of(np.atleast_1d(np.asarray(a))) for a in (target, *parts))
                shard = worker.shard(len(total))
                for other in others:
                    np.add(total[shard], other[shard], out=total[shard])
        self._pending = []


@contextmanager
def _named(node: Node) -> Iterator[None]:
    """Name the node whose operations cannot be recorded."""
    try:
        yield
    except TypeError as error:
        raise NotCompilable(
            f"{node!r} cannot be compiled: {error}; write it with functions of ctx.xp, or use Device(compile=False)"
        ) from error


def _is_broadcast(array: Any) -> bool:
    """Whether several elements have one place in memory."""
    return any(n > 1 and not stride for n, stride in zip(array.shape, array.strides, strict=True))


def _counterpart(target: Traced, block: Block, buffer: Traced) -> Any:
    """Return the view of a buffer at the offset that a target has in its block."""
    at = (target.ctypes.data - block.start) // target.itemsize
    return buffer.tape.xp.as_strided(buffer[at:], target.shape, target.strides)


def _accumulate(grads: dict[Node, PerWorker], node: Node, parts: PerWorker, in_place: bool = False) -> None:
    """Add a node's gradients to those that it has; in place where nothing else reads them."""
    if node in grads:
        parts = [np.add(a, b, b) if in_place else a + b for a, b in zip(grads[node], parts, strict=True)]
    grads[node] = parts
