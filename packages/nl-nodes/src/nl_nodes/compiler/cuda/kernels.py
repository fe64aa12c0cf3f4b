"""Kernels: which values with memory are made by one launch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

from nl_nodes.compiler.cuda.affine import Index, Opaque, Space
from nl_nodes.compiler.cuda.regions import Lowerer, Region, Root, Store, Totals, shape_of, start, term_root
from nl_nodes.compiler.cuda.traffic import traffic
from nl_nodes.compiler.cuda.values import Program, Value, View

WINDOW = 12
"""How many kernels back a value may be made, where calls become as few kernels as possible."""

FEW_TIMES = 4
"""How many elements of one value a thread may make beside one of another."""

FEW_THREADS = 2**14
"""Threads up to which a kernel costs little but its launch, so that any join is worth it."""

FEW_STEPS = 2**16
"""The same, of threads times terms of a sum."""

MANY_STORES = 80
"""Elements that a thread writes, at most."""

WORTH_JOINING = 0.98
"""Join two kernels where that leaves at most this share of the bytes."""


@dataclass(eq=False)
class Kernel:
    """A matrix product, or a launch that makes one or more values (two launches, where a sum has two stages).

    Attributes:
        kind: "map", "gemm" or "reduce".
        roots: the values that it makes.
        regions: its threads; a reduction has one region.
        terms: values that a reduction goes over, which its threads write on the way.
        after: values made from the finished sums of a reduction, by the threads that have them.
        tail: the region of those.
        operands: the values that a matrix product reads.
    """

    kind: str
    roots: list[Value]
    regions: list[Region] = field(default_factory=list)
    terms: list[Value] = field(default_factory=list)
    after: list[Value] = field(default_factory=list)
    tail: Region | None = None
    operands: frozenset[Value] = frozenset()

    @property
    def outputs(self) -> list[Value]:
        """All values that it makes."""
        return self.roots + self.terms + self.after

    @property
    def all_regions(self) -> list[Region]:
        """The regions, and the tail."""
        return self.regions + ([self.tail] if self.tail else [])

    @property
    def inlined(self) -> set[Value]:
        """The values that are computed on the way."""
        return set().union(*(region.inlined for region in self.all_regions))

    @property
    def loaded(self) -> set[Value]:
        """The values that it reads from memory."""
        return set(self.operands).union(*(region.loaded for region in self.all_regions)) - set(self.outputs)


class Grouping:
    """Groups the values that have memory into kernels; what is lowered once is kept while it stays right.

    Args:
        program: the calls.
        window: how many kernels back a value may be made.
    """

    def __init__(self, program: Program, window: int = WINDOW) -> None:
        self.program, self.window = program, window
        self._regions: dict[tuple[Value, ...], tuple[list[Region], set[Value]]] = {}

    def forget(self) -> None:
        """Forget what was lowered, as values have been split."""
        self._regions.clear()

    def alone(self, value: Value, stored: set[Value]) -> list[Region]:
        """Return the regions of a kernel that makes one value."""
        return self._cached((value,), stored, lambda: Lowerer(self.program, stored).alone(value))

    def group(self, stored: set[Value]) -> list[Kernel]:
        """Return the kernels that make all values with memory, in order.

        Raises:
            Opaque: where a value without memory needs it.
        """
        kernels: list[Kernel] = []
        for value in sorted(stored, key=lambda v: v.end):
            if value.kind == "gemm":
                kernels.append(self._product(value))
                continue
            regions = self.alone(value, stored)
            candidates = range(len(kernels) - 1, max(len(kernels) - 1 - self.window, -1), -1)
            if not any(self._join(kernels, at, value, regions, stored) for at in candidates):
                kernels.append(Kernel(value.kind, [value], regions))
        return kernels

    def _product(self, value: Value) -> Kernel:
        call = self.program.calls[value.end]
        operands = {self.program.value_of[t] for t in self.program.sources(call.number)}
        return Kernel("gemm", [value], operands=frozenset(operands))

    def _cached(self, key: tuple[Value, ...], stored: set[Value], make: Callable[[], list[Region]]) -> list[Region]:
        """Return regions that were found before, as long as nothing computed in them has got memory since."""
        found = self._regions.get(key)
        if found is None or found[1] & stored:
            regions = make()
            found = self._regions[key] = regions, set().union(*(region.inlined for region in regions))
        return found[0]

    def _together(
        self, values: tuple[Value, ...], stored: set[Value], space: Space, roots: list[Root], totals: Totals | None
    ) -> list[Region]:
        """Return the regions of a kernel that makes several values, none where one of them cannot be made there."""

        def make() -> list[Region]:
            try:
                return Lowerer(self.program, stored).lower(space, roots, totals)
            except Opaque:
                return []

        return self._cached(values, stored, make)

    def _join(self, kernels: list[Kernel], at: int, value: Value, regions: list[Region], stored: set[Value]) -> bool:
        """Let an earlier kernel make a value too, where nothing between them stands against it and it is worth it."""
        kernel, between = kernels[at], kernels[at + 1 :]
        loaded = set().union(*(region.loaded for region in regions))
        if any(loaded.intersection(other.outputs) or _uses(self.program, other, value) for other in between):
            return False
        if kernel.kind == value.kind and not kernel.after and self._join_beside(kernel, value, regions, stored):
            return True
        if kernel.kind == value.kind == "map":
            return not _writes(self.program, kernel, value) and _join_apart(kernel, value, regions)
        if kernel.kind == "map":
            return value.kind == "reduce" and self._join_terms(kernel, value, stored)
        return kernel.kind == "reduce" and value.kind == "map" and self._join_after(kernel, value, stored)

    def _join_beside(self, kernel: Kernel, value: Value, alone: list[Region], stored: set[Value]) -> bool:
        """Make a value in the threads of another of its shape, or of nearly its shape."""
        members = [*kernel.roots, value]
        common = common_space(self.program, members)
        if common is None or kernel.terms:
            return False
        shapes = [shape_of(self.program, member) for member in members]
        size = max(view.size for view, _ in shapes)
        small = size <= FEW_THREADS and max(prod(over) for _, over in shapes) * size <= FEW_STEPS
        if not small and _blocks(alone).isdisjoint({v.block for v in kernel.roots} | _blocks(kernel.regions)):
            return False  # no bytes to spare
        regions = self._together(tuple(members), stored, *common, None)
        if not regions or crosses(regions) or any(len(region.stores) > MANY_STORES for region in regions):
            return False
        apart = traffic(self.program, kernel.regions).bytes + traffic(self.program, alone).bytes
        if traffic(self.program, regions).bytes >= WORTH_JOINING * apart and not small:
            return False
        kernel.roots, kernel.regions = members, regions
        return True

    def _join_terms(self, kernel: Kernel, total: Value, stored: set[Value]) -> bool:
        """Make a sum in the threads that make its terms, which then need not read them again."""
        if len(kernel.roots) > 1 or total.block == kernel.roots[0].block:
            return False
        (term,) = kernel.roots
        space, roots = start(self.program, total)
        root = term_root(self.program, roots[0], term)
        if root is None:
            return False
        regions = self._together((total, term), stored, space, [*roots, root], None)
        if not regions or crosses(regions):
            return False
        kernel.kind, kernel.roots, kernel.terms, kernel.regions = "reduce", [total], [term], regions
        return True

    def _join_after(self, kernel: Kernel, value: Value, stored: set[Value]) -> bool:
        """Make a value from finished sums, in the threads that have them."""
        (region,) = kernel.regions
        after = [*kernel.after, value]
        common = common_space(self.program, after)
        if common is None or len(region.sums) != len(kernel.roots):
            return False
        space, roots = common
        totals: dict[int, tuple[int, tuple[Index, ...]]] = {}
        for number, root in enumerate(kernel.roots):
            index = _flat_index(self.program.calls[root.end].output, space)
            if index is None:
                return False
            totals[root.end] = (number, index)
        regions = self._together((*kernel.roots, *after), stored, space, roots, totals)
        if len(regions) != 1 or not (_row_major(regions[0]) and _row_major(region)) or crosses([region, *regions]):
            return False
        kernel.after, kernel.tail = after, regions[0]
        return True


def _join_apart(kernel: Kernel, value: Value, regions: list[Region]) -> bool:
    """Make a value in threads of its own, where these cost little but a launch."""
    little = all(not region.loads or region.threads <= FEW_THREADS for region in regions)
    if not little or kernel.loaded.intersection([value]) or crosses([*kernel.regions, *regions]):
        return False
    if set().union(*(region.loaded for region in regions)).intersection(kernel.outputs):
        return False
    kernel.roots, kernel.regions = [*kernel.roots, value], [*kernel.regions, *regions]
    return True


def _row_major(region: Region) -> bool:
    """Whether threads are numbered in the order of the axes."""
    axes = [a for a, _ in region.axes]
    return axes == sorted(axes)


def _flat_index(view: View, space: Space) -> tuple[Index, ...] | None:
    """Return the index of the element of a view that has the number of a thread, if both count alike."""
    sizes = [n for n in view.shape if n > 1]
    if sizes == [n for n in space.sizes if n > 1]:
        axes = iter([a for a, n in enumerate(space.sizes) if n > 1])
        return tuple([space.index(next(axes) if n > 1 else None) for n in view.shape])
    if len(sizes) != 1 or sizes[0] != prod(space.sizes):
        return None
    flat = (0, *(prod(space.sizes[a + 1 :]) for a in range(len(space.sizes))))
    return tuple([flat if n > 1 else space.index(None) for n in view.shape])


def _blocks(regions: Iterable[Region]) -> set[int]:
    """Return the blocks that regions read."""
    return {node[1] for region in regions for node in region.loads}


def _writes(program: Program, kernel: Kernel, value: Value) -> bool:
    """Whether a kernel writes memory of a value, such as the frame around it."""
    begin, end = program.span(value)
    spans = [program.span(other) for other in kernel.outputs if other.block == value.block]
    return any(begin < high and low < end for low, high in spans)


def _uses(program: Program, kernel: Kernel, value: Value) -> bool:
    """Whether a kernel reads or writes memory of a value."""
    begin, end = program.span(value)
    spans = [program.span(other) for other in (*kernel.outputs, *kernel.operands) if other.block == value.block]
    for region in kernel.all_regions:
        spans += [region.span(node[3], node[2]) for node in region.loads if node[1] == value.block]
    return any(begin < high and low < end for low, high in spans)


def common_space(program: Program, values: Sequence[Value]) -> tuple[Space, list[Root]] | None:
    """Return a space for the threads that make all of some values, or None where their shapes do not match.

    An axis may be a few times longer for one value than for another: then a thread makes as many of its elements.
    """
    shapes = [shape_of(program, value) for value in values]
    outer = _common([view.shape for view, _ in shapes])
    inner = _common([over for value, (_, over) in zip(values, shapes, strict=True) if value.kind == "reduce"])
    if outer is None or inner is None:
        return None
    sizes = [*outer, *inner]
    unrolled: list[int] = []

    def indices(shape: tuple[int, ...], first: int) -> list[tuple[int, int, int] | None]:
        """Return axis, elements a thread makes, and the unrolled axis that goes over them, of each axis."""
        found: list[tuple[int, int, int] | None] = []
        axis = first
        for n in shape:
            if n == 1:
                found.append(None)
                continue
            times = n // sizes[axis]
            if times > 1:
                unrolled.append(times)
            found.append((axis, times, len(sizes) + len(unrolled) - 1))
            axis += 1
        return found

    plans = []
    for value, (view, over) in zip(values, shapes, strict=True):
        terms = indices(over, len(outer)) if value.kind == "reduce" else None
        plans.append((value, view, indices(view.shape, 0), terms))
    space = Space(
        (*sizes, *unrolled),
        frozenset(range(len(outer), len(sizes))),
        frozenset(range(len(sizes), len(sizes) + len(unrolled))),
    )

    def index(entry: tuple[int, int, int] | None) -> Index:
        if entry is None:
            return space.index(None)
        axis, times, extra = entry
        return tuple(
            times * a + (b if times > 1 else 0) for a, b in zip(space.index(axis), space.index(extra), strict=True)
        )

    return space, [
        Root(value, view, tuple(map(index, own)), None if terms is None else tuple(map(index, terms)))
        for value, view, own, terms in plans
    ]


def _common(shapes: Iterable[tuple[int, ...]]) -> list[int] | None:
    """Return the smallest size along each axis longer than 1, where all shapes are few times that."""
    squeezed = [tuple(n for n in shape if n > 1) for shape in shapes]
    if len({len(shape) for shape in squeezed}) > 1:
        return None
    least = [min(sizes) for sizes in zip(*squeezed, strict=True)]
    fits = all(n % m == 0 and n // m <= FEW_TIMES for shape in squeezed for n, m in zip(shape, least, strict=True))
    return least if fits else None


def crosses(regions: Sequence[Region]) -> bool:
    """Whether a thread may read what another one of the same kernel writes."""
    written: dict[int, list[tuple[Region, Store]]] = defaultdict(list)
    for region in regions:
        for store in region.stores:
            written[store.block].append((region, store))
    return any(
        _meet(region, address, dtype, *other)
        for region in regions
        for _, block, dtype, address, _ in region.loads
        for other in written.get(block, ())
    )


def _meet(region: Region, address: Index, dtype: str, other: Region, store: Store) -> bool:
    """Whether a load of one thread may touch what another thread stores; exact where axes are nested in memory."""
    if other is region and store.address == address:
        return False
    low, high = region.span(address, dtype)
    begin, end = other.span(store.address, store.dtype)
    if begin >= high or low >= end:
        return False
    differences: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for a, k in enumerate(address[1:]):
        differences[k][0] -= region.size(a) - 1
    for a, k in enumerate(store.address[1:]):
        differences[k][1] += other.size(a) - 1
    steps = sorted((k, low, high) for k, (low, high) in differences.items() if k)
    alike = dtype == store.dtype and all(k > 0 for k, _, _ in steps)
    return not alike or _reaches(address[0] - store.address[0], steps)


def _reaches(distance: int, steps: list[tuple[int, int, int]]) -> bool:
    """Whether a distance may be a sum of steps, each taken a number of times between its two bounds."""
    if not steps:
        return distance == 0
    *rest, (step, low, high) = steps
    if sum(k * max(-least, most) for k, least, most in rest) >= step:
        return True
    nearest = distance // step
    return any(low <= n <= high and _reaches(distance - n * step, rest) for n in (nearest, nearest + 1))
