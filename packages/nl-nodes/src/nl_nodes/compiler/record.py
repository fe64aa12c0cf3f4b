"""Recording: a graph, run once on arrays that write down what is done, for each worker's share of the samples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from nl_nodes.axes import unbroadcast
from nl_nodes.compiler.memory import Block, Memory
from nl_nodes.compiler.trace import Tape, Traced
from nl_nodes.graph import Graph
from nl_nodes.node import TOTAL, Crew, Kept, Node
from nl_nodes.nodes.leaves import Constant, Input, Leaf
from nl_nodes.typing import Shape

LARGE = 2**20
"""Elements from which on a gradient is added up by itself, as soon as its parts are there."""

Parts = list[Any]
"""One array for each worker."""

Axes = dict[Node, int | None]
"""Along which axis each node's samples lie."""


class Member(Crew):
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

    def share(self, count: int) -> slice:
        """This worker's of so many pieces."""
        return slice(count * self.number // self.count, count * (self.number + 1) // self.count)

    def alone(self) -> Member:
        """The same worker, at what every worker does alike."""
        return Member(self.tape, 0, 1, self.batch, {})

    def everyone(self, samples: int) -> int:
        """The whole batch."""
        return self.batch if self.count > 1 else samples

    def shared(self, shape: Shape, dtype: Any) -> Traced:
        """The same memory for all."""
        key = (self.place, next(self._asked))
        if key not in self.common:
            self.common[key] = self.tape.empty(shape, dtype)
        return self.tape.of(np.asarray(self.common[key]))

    def blank(self, shape: Shape, dtype: Any) -> Traced:
        """Memory of its own, cleared once."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.tape.on(self.tape.memory.allocate(size, lasting=True), shape, dtype)

    def total(self, x: Traced) -> Traced:
        """Every worker puts its own into a common array, and adds up all."""
        if self.count > 1:
            slots = self.shared((self.count, *x.shape), x.dtype)
            slots[self.number] = x
            self.meet()
            x = np.add.reduce(slots, axis=0)
        return x

    def meet(self) -> None:
        """Wait for the others."""
        if self.count > 1:
            self.tape.write("meet")

    def words(self, start: int) -> Any:
        """A node's random words, from the first of this worker's share on."""

        def words(seed: int, stream: int, pass_index: int, count: int) -> Traced:
            target = self.tape.empty((count,), np.uint64)
            self.tape.write("words", seed, stream, start, target)
            return target

        return words


class Recording:
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
        samples: frozenset[str],
        workers: int,
        gradients: Mapping[str, Any] | None,
    ) -> None:
        self.graph = graph
        self.memory = Memory()
        self.tapes = [Tape(self.memory) for _ in range(workers)]
        common: dict[Any, Any] = {}
        batch = next((feeds[name][0][0] for name in samples), 0)
        self.crew = [Member(tape, w, workers, batch, common) for w, tape in enumerate(self.tapes)]
        self.shapes = graph.shapes({name: shape for name, (shape, _) in feeds.items()})
        self.axes = self._follow(samples) if workers > 1 else dict.fromkeys(graph.order)
        self.inputs: dict[str, Any] = {}
        self._values: dict[Node, Parts] = {}
        self._kept: dict[Node, list[Kept]] = {}
        self._forward(feeds)
        self.results = [self._whole(node, self._values[node]) for node in graph.outputs]
        self.updates = {b: self._whole(node, self._values[node]) for b, node in graph.updates.items()}
        self.grads: dict[str, Any] = {}
        self._others: dict[Block, Parts] = {}
        self._waiting: list[tuple[Any, Parts]] = []
        if gradients is not None:
            self._backward(gradients)

    def _follow(self, samples: frozenset[str]) -> Axes:
        """Along which axis each node's samples lie; None where it has none, or all workers hold the same."""
        axes: Axes = {}
        for node in self.graph.order:
            if isinstance(node, Leaf):
                axes[node] = 0 if node.name in samples and isinstance(node, Input) else None
                continue
            held = tuple(None if axes[n] == TOTAL else axes[n] for n in node.inputs)
            shapes = tuple(self.shapes[n] for n in node.inputs)
            axes[node] = None if all(a is None for a in held) else node.samples(shapes, held)
        return axes

    def _forward(self, feeds: Mapping[str, tuple[Shape, Any]]) -> None:
        for node in self.graph.order:
            if isinstance(node, Leaf):
                self._values[node] = self._leaf(node, feeds)
                continue
            parts = []
            for member in self.crew:
                member.at(node, "forward")
                inputs = tuple(self._values[n][member.number] for n in node.inputs)
                y = self._run(node, member, inputs)
                parts.append(member.total(y) if self.axes[node] == TOTAL else y)
            self._values[node] = parts

    def _leaf(self, leaf: Leaf, feeds: Mapping[str, tuple[Shape, Any]]) -> Parts:
        if isinstance(leaf, Constant):
            whole = self.memory.constant(np.array(leaf.value, order="C"))
        elif leaf.name in feeds:
            shape, dtype = feeds[leaf.name]
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            whole = self.tapes[0].on(self.memory.allocate(size, lasting=True), shape, dtype)
            self.inputs[leaf.name] = whole
        else:
            whole = self.memory.outside(leaf.value)
        return [tape.of(np.asarray(whole))[self._part(leaf, m)] for tape, m in zip(self.tapes, self.crew, strict=True)]

    def _part(self, node: Node, member: Member) -> tuple[slice, ...]:
        """The place of a worker's samples in a node's whole value."""
        axis = self.axes[node]
        if axis is None or axis == TOTAL:
            return ()
        return (slice(None),) * axis + (member.share(self.shapes[node][axis]),)

    def _run(self, node: Node, member: Member, inputs: tuple[Traced, ...]) -> Any:
        kept = Kept()
        alike = all(self.axes[n] in (None, TOTAL) for n in node.inputs)
        kept.xp, kept.crew = member.xp, member.alone() if alike else member
        kept.shapes = tuple(x.shape for x in inputs)
        kept.needs = tuple(n in self.graph.needs for n in node.inputs)
        first = self._part(node, member)[0].start if self.axes[node] == 0 else 0
        kept.words = member.words(first * int(np.prod(self.shapes[node][1:])))
        kept.pass_index = 0
        y = node.forward(kept, *inputs)
        kept.inputs, kept.output = inputs, y
        self._kept.setdefault(node, []).append(kept)
        return y

    def _whole(self, node: Node, parts: Parts, direction: str = "forward") -> Any:
        """Where all of a value comes together; it stays until the next pass."""
        shape, dtype = self.shapes[node], parts[0].dtype
        size = int(np.prod(shape)) * dtype.itemsize
        whole = self.tapes[0].on(self.memory.allocate(size, lasting=True), shape, dtype)
        for member, part in zip(self.crew, parts, strict=True):
            where = self._part(node, member)
            member.at(node, direction)
            if where or member is self.crew[0]:
                member.tape.of(np.asarray(whole))[where] = part
        return whole

    def _backward(self, gradients: Mapping[str, Any]) -> None:
        grads: dict[Node, Parts] = {}
        output = self.graph.outputs[0]
        for member in self.crew:
            member.at(output, "backward")
        grads[output] = [
            member.xp.ones(part.shape, part.dtype) for member, part in zip(self.crew, self._values[output], strict=True)
        ]
        partial: dict[Node, Parts] = {}
        for node in reversed(self.graph.order):
            if isinstance(node, Leaf):  # all that uses it lies behind
                if node.trainable:
                    self._leaf_gradient(node, gradients, grads, partial)
            elif node in grads and node in self.graph.needs:
                self._pull(node, gradients, grads, partial)
        for member in self.crew:
            member.at(None, "backward")
        self._add_up()
        self.grads = {name: self.grads[name] for name in self.graph.leaves if name in self.grads}

    def _pull(
        self, node: Node, gradients: Mapping[str, Any], grads: dict[Node, Parts], partial: dict[Node, Parts]
    ) -> None:
        """One node's backward, by each worker."""
        dys = grads.pop(node)
        found: list[tuple[Any, ...]] = []
        for member, kept, dy in zip(self.crew, self._kept[node], dys, strict=True):
            member.at(node, "backward")
            dxs = node.backward(kept, dy)
            found.append(dxs if isinstance(dxs, tuple) else (dxs,))
        for i, n in enumerate(node.inputs):
            if n not in self.graph.needs or found[0][i] is None:
                continue
            parts = [unbroadcast(dxs[i], x.shape) for dxs, x in zip(found, self._values[n], strict=True)]
            summed = self.axes[node] not in (None, TOTAL) and self.axes[n] in (None, TOTAL) and not _one(parts)
            if summed and isinstance(n, Leaf) and n.name in gradients:
                _accumulate(partial, n, parts)
            else:
                if summed:
                    parts = [member.total(dx) for member, dx in zip(self.crew, parts, strict=True)]
                _accumulate(grads, n, parts)

    def _leaf_gradient(
        self, leaf: Leaf, gradients: Mapping[str, Any], grads: dict[Node, Parts], partial: dict[Node, Parts]
    ) -> None:
        """Bring a leaf's gradient to where the caller wants it."""
        for member in self.crew:
            member.at(leaf, "backward")
        if leaf.name not in gradients:
            held = zip(self.crew, self._values[leaf], strict=True)
            found = grads.get(leaf) or [member.xp.zeros(x.shape, x.dtype) for member, x in held]
            self.grads[leaf.name] = self._whole(leaf, found, "backward")
            return
        target = self.grads[leaf.name] = self.tapes[0].of(self.memory.outside(gradients[leaf.name]))
        parts = partial.get(leaf, [])
        if leaf in grads:  # what all workers know alike counts once
            first = grads[leaf][0]
            parts = [parts[0] + first, *parts[1:]] if parts else [first]
        if parts:
            self._sum_of(parts, target)
        else:
            target[...] = 0

    def _sum_of(self, parts: Parts, target: Traced) -> None:
        """The workers' parts of a gradient, added up: a large one at once, so that its parts' memory serves others."""
        others = parts[1:]
        self._bind(parts[0], target)
        if not others or not target.size:
            return
        block = self.memory.block(target)
        if block.size < LARGE * target.itemsize:  # one addition for all that is in it
            if block not in self._others:
                count, dtype = block.size // target.itemsize, target.dtype
                wholes = [tape.on(self.memory.allocate(block.size, True), (count,), dtype) for tape in self.tapes[1:]]
                self._others[block] = wholes
                self._waiting.append((block.memory.view(dtype), wholes))
            for part, whole in zip(others, self._others[block], strict=True):
                self._bind(part, _beside(target, block, whole))
            return
        self._waiting.append((target, others))
        if target.size >= LARGE:
            self._add_up()

    def _bind(self, source: Traced, target: Traced) -> None:
        """Let a value be written where it is wanted, or copy it there."""
        block = self.memory.block(source)
        fits = source.flags.c_contiguous and source.nbytes == block.size
        alike = target.flags.c_contiguous and source.dtype == target.dtype
        if fits and alike and not block.lasting and block.alias is None:
            block.alias = target
        else:
            target[...] = source

    def _add_up(self) -> None:
        """Add the other workers' parts to the first one's, when all are there; each worker adds its share."""
        for member in self.crew:
            member.meet()
            for whole, parts in self._waiting:
                mine, *others = (member.tape.of(np.atleast_1d(np.asarray(a))) for a in (whole, *parts))
                share = member.share(len(mine))
                for other in others:
                    np.add(mine[share], other[share], out=mine[share])
        self._waiting = []


def _one(parts: Parts) -> bool:
    """Whether the workers' parts are one array, which they filled together."""
    return len({part.ctypes.data for part in parts}) < len(parts)


def _beside(target: Traced, block: Block, other: Traced) -> Any:
    """The place in another block that a target has in its own."""
    at = (target.ctypes.data - block.start) // target.itemsize
    return other.tape.xp.as_strided(other[at:], target.shape, target.strides)


def _accumulate(grads: dict[Node, Parts], node: Node, parts: Parts) -> None:
    grads[node] = [a + b for a, b in zip(grads[node], parts, strict=True)] if node in grads else parts
