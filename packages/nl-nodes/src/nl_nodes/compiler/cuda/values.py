"""A tape as values: the versions of its blocks, the calls that write each version, and those that read it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from nl_nodes.compiler.cuda.affine import Index
from nl_nodes.compiler.lower.lower import Lowering
from nl_nodes.compiler.lower.memory import Block
from nl_nodes.compiler.lower.trace import Owner
from nl_nodes.runtime.call import Call as RecordedCall

SMALL_MATRIX = 40
"""Rows and columns up to which a constant matrix is written out as sums."""

SMALL_REDUCTION = 16
"""Terms up to which a reduction is written out in each thread."""


@dataclass(eq=False)
class View:
    """An array of the tape: a view of one block. Equal views are one object.

    Attributes:
        block: the number of the block.
        offset: bytes from the start of the block.
        shape, strides: as of an array; axes of size 1 have stride 0.
        dtype: its code, such as "f4".
        size: elements.
        item: bytes of an element.
        axes: (stride, size, axis) of axes longer than 1, largest stride first.
        nested: whether distinct indices have distinct addresses, each axis's extent within the next one's stride.
        span: first byte, and the byte after the last.
    """

    block: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        self.size, self.item = prod(self.shape), np.dtype(self.dtype).itemsize
        axes = [(s, n, j) for j, (n, s) in enumerate(zip(self.shape, self.strides, strict=True)) if n > 1]
        self.axes = sorted(axes, reverse=True)
        extent, self.nested = self.item, True
        for stride, n, _ in reversed(self.axes):
            self.nested &= stride >= extent
            extent += stride * (n - 1)
        reach = [s * (n - 1) for s, n, _ in self.axes]
        self.span = (
            self.offset + sum(r for r in reach if r < 0),
            self.offset + sum(r for r in reach if r > 0) + self.item,
        )

    @property
    def dense(self) -> bool:
        """Whether the view covers every byte of its span."""
        return self.nested and self.size * self.item == self.span[1] - self.span[0]


Operand = Any
"""A `View` or a number."""


@dataclass(eq=False)
class Call:
    """One call of the tape.

    Attributes:
        number: its place on the tape.
        name: of a ufunc, or "copyto", "select", "random_bits", "left", "right", "matmul", or of a reduction's ufunc.
        inputs: views and numbers; of "select" the mask, the source and the target's old contents.
        output: the view that it writes.
        kind: "map", "gemm", "reduce", or "fold", a reduction of few terms.
        owner: the node and direction.
        axes: the axes of the input that a reduction goes over.
        keep: whether a reduction keeps these axes.
        matrix: of "left" and "right" the constant factor.
        random: of "random_bits" seed, stream and first word.
    """

    number: int
    name: str
    inputs: tuple[Operand, ...]
    output: View
    kind: str
    owner: Owner
    axes: tuple[int, ...] = ()
    keep: bool = False
    matrix: Any = None
    random: tuple[int, int, int] = (0, 0, 0)

    @property
    def views(self) -> list[View]:
        """The views among the inputs."""
        return [x for x in self.inputs if isinstance(x, View)]

    def inner(self, index: tuple[Index, ...], terms: Iterable[Index]) -> tuple[Index, ...]:
        """Return the index of a reduction's input, from those of its output and of the axes that it goes over."""
        over = dict(zip(self.axes, terms, strict=True))
        if self.keep:
            return tuple([over.get(a, x) for a, x in enumerate(index)])
        outer = iter(index)
        return tuple([over[a] if a in over else next(outer) for a in range(len(self.views[0].shape))])


@dataclass(eq=False)
class Value:
    """A version of a block: what it holds between a write and the first write after it was read.

    Attributes:
        number: in the order of first writes.
        block: the number of the block.
        kind: "map", "gemm" or "reduce".
        calls: the numbers of the calls that write it.
        reads: the calls that read it, and through which view.
    """

    number: int
    block: int
    kind: str
    calls: list[int] = field(default_factory=list)
    reads: list[tuple[int, View]] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The number of the last call."""
        return self.calls[-1]


class Program:
    """The calls and values of a lowered graph of one worker.

    Attributes:
        blocks: the blocks, by number.
        calls: the calls.
        recorded: the same, as they are on the tape.
        values: the values.
        value_of: the value that each call writes.
        writers: the calls that write each block, in order.
        inputs: the blocks that are fed.
        results: the blocks whose contents at the end matter.
    """

    def __init__(self, lowered: Lowering) -> None:
        (tape,) = lowered.tapes
        self.memory = lowered.memory
        self.blocks: list[Block] = list(lowered.memory.blocks)
        self._numbers = {id(block): number for number, block in enumerate(self.blocks)}
        self._views: dict[Any, View] = {}
        self._constants: dict[View, Any] = {}
        self.calls: list[Call] = []
        self.recorded: list[RecordedCall] = []
        self.writers: dict[int, list[int]] = defaultdict(list)
        for (name, args), owner in zip(tape.calls, tape.owners, strict=True):
            call = self._call(name, args, owner)
            if call.output.size:
                self.calls.append(call)
                self.recorded.append((name, args))
                self.writers[call.output.block].append(call.number)
        self.inputs = {self.view(array).block for array in lowered.inputs.values()}
        ends = (*lowered.results, *lowered.updates.values(), *lowered.grads.values())
        self.results = {self.view(array).block for array in ends}
        self.values: list[Value] = []
        self.value_of: dict[int, Value] = {}
        self._find_values()

    def view(self, array: Any) -> View:
        """Return the view of an array of the tape; the array of an aliased block is one of its home."""
        block = self.memory.block(array)
        offset = array.ctypes.data - block.start
        while block.alias is not None:
            home = self.memory.block(block.alias)
            offset, block = offset + block.alias.ctypes.data - home.start, home
        strides = tuple(0 if n == 1 else int(s) for n, s in zip(array.shape, array.strides, strict=True))
        return self._view(self._numbers[id(block)], offset, array.shape, strides, array.dtype.str[1:])

    def _view(self, *key: Any) -> View:
        if key not in self._views:
            self._views[key] = View(*key)
        return self._views[key]

    def constant(self, view: Operand) -> Any:
        """Return the values of a view of a constant, else None."""
        if not isinstance(view, View) or self.blocks[view.block].value is None:
            return None
        if view not in self._constants:
            data = self.blocks[view.block].value.tobytes()
            self._constants[view] = np.ndarray(view.shape, view.dtype, data, view.offset, view.strides)
        return self._constants[view]

    def _call(self, name: str, args: tuple[Any, ...], owner: Owner) -> Call:
        number = len(self.calls)
        operands: list[Any] = [self.view(a) if isinstance(a, np.ndarray) else a for a in args]
        if name == "copyto":
            return self._copy(number, operands, owner)
        if name == "random_bits":
            seed, stream, start, output = operands
            return Call(number, name, (), output, "map", owner, random=(seed, stream, start))
        if name.endswith(".reduce"):
            x, axes, _, output, keep = operands
            return self._reduction(number, name.split(".")[0], x, output, owner, axes, keep)
        if name == "matmul":
            a, b, output = operands
            return self._product(number, a, b, output, owner)
        *inputs, output = operands
        return Call(number, name, tuple(inputs), output, "map", owner)

    def _copy(self, number: int, operands: list[Operand], owner: Owner) -> Call:
        output, source, *mask = operands
        if output.dtype.startswith("V"):  # rows as single elements, see `TracedNamespace.copyto`
            dtype = self.calls[self.writers[output.block][-1]].output.dtype
            output, source = self._elements(output, dtype), self._elements(source, dtype)
        if not mask:
            return Call(number, "copyto", (source,), output, "map", owner)
        return Call(number, "select", (mask[1], source, output), output, "map", owner)

    def _elements(self, view: View, dtype: str) -> View:
        """Return a view of void elements as one of the numbers in them, along a last axis."""
        item = np.dtype(dtype).itemsize
        shape = (*view.shape[:-1], view.item // item)
        return self._view(view.block, view.offset, shape, (*view.strides[:-1], item), dtype)

    def _reduction(
        self, number: int, name: str, x: View, output: View, owner: Owner, axes: tuple[int, ...], keep: bool
    ) -> Call:
        last = self.calls[self.writers[x.block][-1]] if self.writers[x.block] else None
        goes_on = last is not None and last.kind == "reduce" and last.output.span == x.span and name == last.name
        few = prod(x.shape[a] for a in axes) <= SMALL_REDUCTION and not goes_on
        return Call(number, name, (x,), output, "fold" if few else "reduce", owner, axes, keep)

    def _product(self, number: int, a: View, b: View, output: View, owner: Owner) -> Call:
        """Return a product as a sum where a factor is ones, as written-out sums where one is small and constant."""
        m, n, depth = a.shape[-2] if len(a.shape) > 1 else 0, b.shape[-1] if len(b.shape) > 1 else 0, a.shape[-1]
        left, right = self.constant(a), self.constant(b)
        if left is not None and m == 1 and n and bool((left == 1).all()):
            return Call(number, "add", (b,), output, "reduce", owner, (len(b.shape) - 2,), True)
        if right is not None and n == 1 and m and bool((right == 1).all()):
            return Call(number, "add", (a,), output, "reduce", owner, (len(a.shape) - 1,), True)
        if left is not None and left.ndim == 2 and n and max(m, depth) <= SMALL_MATRIX:
            return Call(number, "left", (b,), output, "map", owner, matrix=left)
        if right is not None and right.ndim == 2 and m and max(n, depth) <= SMALL_MATRIX:
            return Call(number, "right", (a,), output, "map", owner, matrix=right)
        return Call(number, "matmul", (a, b), output, "gemm", owner)

    def _find_values(self) -> None:
        current: dict[int, Value] = {}
        read: set[Value] = set()
        for call in self.calls:
            block = call.output.block
            for view in call.views:
                value = current.get(view.block)
                if value is None:
                    continue
                if view.block != block:  # a block that is changed in place stays the same version
                    read.add(value)
                value.reads.append((call.number, view))
            value = current.get(block)
            alone = call.kind in ("gemm", "reduce") or self.blocks[block].external
            if value is None or value in read or alone or value.kind != "map":
                kind = call.kind if call.kind in ("gemm", "reduce") else "map"
                value = current[block] = Value(len(self.values), block, kind)
                self.values.append(value)
            value.calls.append(call.number)
            self.value_of[call.number] = value
        for value in self.values:
            value.reads = [(t, view) for t, view in value.reads if self.value_of[t] is not value]

    def split(self, value: Value) -> list[Value]:
        """Make each call of a value a value of its own."""
        versions = [Value(len(self.values) + i, value.block, value.kind, [t]) for i, t in enumerate(value.calls)]
        self.values = [v for v in self.values if v is not value] + versions
        self.value_of.update((version.end, version) for version in versions)
        inner = [(t, view) for t in value.calls for view in self.calls[t].views if view.block == value.block]
        for t, view in sorted(value.reads + inner, key=lambda read: read[0]):
            for number in self.before(view, t):
                self.value_of[number].reads.append((t, view))
        return versions

    def span(self, value: Value) -> tuple[int, int]:
        """Return the first byte of a value in its block, and the byte after the last."""
        spans = [self.calls[t].output.span for t in value.calls]
        return min(begin for begin, _ in spans), max(end for _, end in spans)

    def before(self, view: View, t: int) -> Iterator[int]:
        """Yield the calls before call `t` whose results a view may hold, last first."""
        low, high = view.span
        for number in reversed(self.writers[view.block]):
            if number < t:
                begin, end = self.calls[number].output.span
                if begin < high and low < end:
                    yield number
                    if begin <= low and high <= end and self.calls[number].output.dense:
                        return

    def sources(self, t: int) -> set[int]:
        """Return the calls whose results call `t` may read."""
        return {number for view in self.calls[t].views for number in self.before(view, t)}

    def contiguous(self, block: int, offset: int, count: int, dtype: str) -> View:
        """Return the view of `count` elements next to each other."""
        return self._view(block, offset, (count,), (np.dtype(dtype).itemsize if count > 1 else 0,), dtype)
