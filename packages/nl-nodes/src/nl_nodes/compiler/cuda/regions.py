"""Parts: threads of a kernel that run the same code, found by refining a space until every question has an answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod

import numpy as np

from nl_nodes.compiler.cuda.affine import (
    Demand,
    Factor,
    Index,
    Opaque,
    Rewrite,
    Space,
    Split,
    Unroll,
    at_place,
    combine,
)
from nl_nodes.compiler.cuda.pull import MAX_UNROLL, Expression, Puller
from nl_nodes.compiler.cuda.values import Call, Program, Value, View

ATTEMPTS = 400
"""Refinements after which a value is given up."""

SHARED_LOADS = 64
"""Loads of a thread up to which short axes are unrolled."""

WORTH_UNROLLING = 0.7
"""Unroll short axes where that leaves at most this share of the loads."""

Totals = Mapping[int, tuple[int, tuple[Index, ...]]]


@dataclass(frozen=True)
class Root:
    """A value that a kernel makes.

    Attributes:
        value: the value.
        view: the view through which it is made.
        index: the index of a thread's element in that view.
        terms: of a reduction the index along each axis that it goes over.
    """

    value: Value
    view: View
    index: tuple[Index, ...]
    terms: tuple[Index, ...] | None = None

    def rewritten(self, rewrite: Rewrite) -> Root:
        """Return the root in a refined space."""
        terms = None if self.terms is None else tuple(map(rewrite, self.terms))
        return Root(self.value, self.view, tuple(map(rewrite, self.index)), terms)

    def address(self, axes: int) -> Index:
        """Return the address of the thread's element."""
        return combine(self.view.offset, self.index, self.view.strides, axes)


@dataclass(frozen=True)
class Store:
    """An element that a thread writes.

    Attributes:
        block: the number of the block.
        dtype: its code.
        address: in bytes.
        nodes: the expression of what is written; of a sum, those of the terms that are added in each step.
        reduction: the ufunc of a sum, else empty.
    """

    block: int
    dtype: str
    address: Index
    nodes: tuple[int, ...]
    reduction: str = ""


@dataclass
class Region:
    """Threads that run the same code.

    Attributes:
        axes: (axis, size) of the threads' axes, the outermost first.
        loops: (axis, size) of the axes that a reduction goes over.
        nodes: the expressions.
        stores: what each thread writes: sums at its end, all else in each step.
        loaded: the values that are read from memory.
        inlined: the values that are computed on the way.
    """

    axes: list[tuple[int, int]]
    loops: list[tuple[int, int]]
    nodes: list[Expression]
    stores: list[Store]
    loaded: set[Value]
    inlined: set[Value]

    @property
    def threads(self) -> int:
        """The number of threads."""
        return prod(n for _, n in self.axes)

    @property
    def steps(self) -> int:
        """The number of terms of each sum."""
        return prod(n for _, n in self.loops)

    def size(self, axis: int) -> int:
        """Return the size of an axis; 1 if it is unrolled."""
        return next((n for a, n in (*self.axes, *self.loops) if a == axis), 1)

    def span(self, address: Index, dtype: str) -> tuple[int, int]:
        """Return the first byte that the threads access at an address, and the byte after the last."""
        reach = [k * (self.size(a) - 1) for a, k in enumerate(address[1:])]
        end = address[0] + sum(r for r in reach if r > 0) + np.dtype(dtype).itemsize
        return address[0] + sum(r for r in reach if r < 0), end

    @property
    def sums(self) -> list[Store]:
        """The stores of sums."""
        return [store for store in self.stores if store.reduction]

    @property
    def loads(self) -> list[Expression]:
        """The loads of one step of one thread."""
        return [node for node in self.nodes if node[0] == "load"]


def term_root(program: Program, total: Root, value: Value) -> Root | None:
    """Return the root of a value in the threads that sum it, each element in the step that adds it.

    None where the sum does not go over each element of the value once.
    """
    assert total.terms is not None
    source = reduced(program, program.calls[total.value.end])
    view, made = source.views[0], whole(program, value)
    if not (view.dense and view.span == made.span and view.dtype == made.dtype and view.block == value.block):
        return None
    return Root(value, view, _term_index(program, total))


def _term_index(program: Program, total: Root) -> tuple[Index, ...]:
    """Return the index of a step's term in what a reduction goes over."""
    assert total.terms is not None
    source, index = reduced(program, program.calls[total.value.end]), total.index
    if source.number != total.value.end:
        zero = (0,) * len(index[-1])
        index = (*[zero] * (len(source.inputs[0].shape) - 1), index[-1])
    return source.inner(index, total.terms)


class Lowerer:
    """Finds the regions of kernels.

    Args:
        program: the calls.
        stored: the values that have memory.
    """

    def __init__(self, program: Program, stored: Collection[Value]) -> None:
        self.program, self.stored = program, stored

    def alone(self, value: Value) -> list[Region]:
        """Return the regions of a kernel that makes one value."""
        return self.lower(*start(self.program, value))

    def lower(self, space: Space, roots: list[Root], totals: Totals | None = None) -> list[Region]:
        """Return the regions of a kernel that makes some values; short axes are unrolled where that saves loads.

        Args:
            space: the axes of its threads.
            roots: the values.
            totals: by call, number and index of the finished sums that the threads have.

        Raises:
            Opaque: where a value on the way needs memory.
        """
        split, unrolled = (_Refinement(self.program, self.stored, totals or {}, few) for few in (False, True))
        try:
            regions = split.refine(space, roots)
        except Opaque:
            if not split.ambiguous:
                raise
            regions = unrolled.refine(space, roots)
        else:
            if split.ambiguous:
                regions = self._better(regions, unrolled, space, roots)
        if roots[0].terms is not None and len(regions) > 1:
            source = reduced(self.program, self.program.calls[roots[0].value.end])
            last = next(self.program.before(source.views[0], source.number))
            raise Opaque(last, "a sum over regions that differ")
        return regions

    def _better(self, regions: list[Region], unrolled: _Refinement, space: Space, roots: list[Root]) -> list[Region]:
        """Return the regions with short axes unrolled, if that is possible and better than these."""
        try:
            others = unrolled.refine(space, roots)
        except Opaque:
            return regions
        if roots[0].terms is not None and len(regions) > 1:
            return others  # a sum must have one region
        few = max(len(region.loads) for region in others) <= SHARED_LOADS
        return others if few and _loads(others) < WORTH_UNROLLING * _loads(regions) else regions


@dataclass
class _Refinement:
    """One way to refine a space: short axes along which threads differ are unrolled, or split.

    Attributes:
        ambiguous: whether there was such an axis.
    """

    program: Program
    stored: Collection[Value]
    totals: Totals
    unroll_few: bool
    ambiguous: bool = False

    def refine(self, space: Space, roots: list[Root]) -> list[Region]:
        """Return the regions of a space."""
        work = [(space, roots)]
        regions: list[Region] = []
        for _ in range(ATTEMPTS):
            if not work:
                return regions
            space, roots = work.pop()
            try:
                if space.unrolled:  # most demands show at the ends of the unrolled axes
                    self._attempt(space, roots, probe=True)
                regions.append(self._attempt(space, roots))
            except Demand as demand:
                work += _refined(space, roots, demand)
        raise Opaque(roots[0].value.end, "too many refinements")

    def _attempt(self, space: Space, roots: list[Root], probe: bool = False) -> Region:
        """Return the region that covers a whole space, or raise what that demands."""
        own = {root.value for root in roots} | {self.program.value_of[t] for t in self.totals}
        puller = Puller(self.program, space, self.stored, own, self.unroll_few, self.totals)
        try:
            stores = [store for root in roots for store in _stores(puller, space, root, probe)]
        finally:
            self.ambiguous |= puller.ambiguous
        axes = [(a, n) for a, n in enumerate(space.sizes) if n > 1 and a not in space.unrolled]
        lead = stores[0].address
        threads = sorted((x for x in axes if x[0] not in space.loops), key=lambda x: -abs(lead[x[0] + 1]))
        loops = [x for x in axes if x[0] in space.loops]
        return Region(threads, loops, puller.nodes, stores, puller.loaded, puller.inlined)


def _stores(puller: Puller, space: Space, root: Root, probe: bool) -> list[Store]:
    """Return what a thread writes of a root: an element for each place of the unrolled axes."""
    program, axes = puller.program, len(space.sizes)
    found: dict[Index, list[int]] = {}
    for unrolled in _places(space, root, probe):
        address = unrolled.address(axes)
        if unrolled.terms is None:
            node = puller.read(unrolled.view, unrolled.index, root.value.end + 1)
        else:
            source = reduced(program, program.calls[root.value.end])
            node = puller.read(source.inputs[0], _term_index(program, unrolled), source.number)
        found.setdefault(address, []).append(node)
    reduction = "" if root.terms is None else program.calls[root.value.end].name
    return [
        Store(root.view.block, root.view.dtype, address, tuple(nodes), reduction) for address, nodes in found.items()
    ]


def _places(space: Space, root: Root, probe: bool) -> Iterable[Root]:
    """Yield the root at each place of the unrolled axes that it depends on; to probe, at their ends and middle."""
    used = [a for a in space.unrolled if any(x[a + 1] for x in (*root.index, *(root.terms or ())))]
    sizes = [space.sizes[a] for a in used]
    ranges = [sorted({0, n // 2, n - 1}) if probe else range(n) for n in sizes]
    for numbers in product(*ranges):
        at = root
        for axis, number in zip(used, numbers, strict=True):
            at = at.rewritten(partial(at_place, axis=axis, number=number))
        yield at


def _refined(space: Space, roots: list[Root], demand: Demand) -> list[tuple[Space, list[Root]]]:
    """Return the spaces that a demand makes of one."""
    axis = demand.axis
    if isinstance(demand, Unroll):
        if space.sizes[axis] > MAX_UNROLL or axis in space.unrolled:
            raise Opaque(roots[0].value.end, f"an axis of {space.sizes[axis]} cannot be unrolled")
        return [(space.unroll(axis), roots)]
    if isinstance(demand, Factor):
        pieces = [space.factor(axis, demand.inner)]
    else:
        assert isinstance(demand, Split)
        pieces = [space.cut(axis, 0, demand.at), space.cut(axis, demand.at, space.sizes[axis])]
    return [(piece, [root.rewritten(rewrite) for root in roots]) for piece, rewrite in pieces]


def _loads(regions: list[Region]) -> int:
    return sum(region.threads * region.steps * len(region.loads) for region in regions)


def start(program: Program, value: Value) -> tuple[Space, list[Root]]:
    """Return a value's first space, an axis for each of its own, and its root there."""
    view, over = shape_of(program, value)
    sizes = (*view.shape, *over)
    space = Space(sizes, loops=frozenset(range(len(view.shape), len(sizes))))
    index = [space.index(a if n > 1 else None) for a, n in enumerate(sizes)]
    outer = len(view.shape)
    terms = tuple(index[outer:]) if value.kind == "reduce" else None
    return space, [Root(value, view, tuple(index[:outer]), terms)]


def shape_of(program: Program, value: Value) -> tuple[View, tuple[int, ...]]:
    """Return the view through which a value is made, and the sizes of the axes that a reduction goes over."""
    if value.kind != "reduce":
        return whole(program, value), ()
    source = reduced(program, program.calls[value.end])
    return program.calls[value.end].output, tuple(source.inputs[0].shape[a] for a in source.axes)


def whole(program: Program, value: Value) -> View:
    """Return the view of a block through which a value is made."""
    outputs = [program.calls[t].output for t in value.calls]
    if all(view is outputs[0] for view in outputs):
        return outputs[0]
    span = min(view.span[0] for view in outputs), max(view.span[1] for view in outputs)
    views = [*(view for _, view in value.reads), *outputs]
    dense = [view for view in views if view.dense and view.span == span and view.dtype == outputs[0].dtype]
    if dense:
        return max(dense, key=lambda view: len(view.shape))
    item = outputs[0].item
    return program.contiguous(value.block, span[0], (span[1] - span[0]) // item, outputs[0].dtype)


def nested(program: Program, call: Call) -> Call | None:
    """Return the sum over rows whose results a sum over pixels goes on adding up, if it does."""
    if call.kind != "reduce" or call.name != "add" or call.keep or call.axes != (0,) or len(call.views[0].shape) != 2:
        return None
    first = next(program.before(call.views[0], call.number), None)
    source = None if first is None else program.calls[first]
    if source is None or source.kind != "reduce" or source.name != "add" or not source.keep:
        return None
    x, sums = source.views[0], source.output
    same = sums.dense and call.views[0].dense and sums.span == call.views[0].span
    return source if same and source.axes == (len(x.shape) - 2,) and x.shape[-1] == call.output.size else None


def reduced(program: Program, call: Call) -> Call:
    """Return the reduction that goes over all terms at once: of nested sums one over both's axes."""
    source = nested(program, call)
    if source is None:
        return call
    axes = tuple(range(len(source.views[0].shape) - 1))
    return Call(source.number, "add", source.inputs, source.output, "reduce", source.owner, axes, True)
