"""The launches of kernels: maps, and sums in one or two stages whose grid follows from the shape alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from typing import Any, ClassVar

from nl_nodes.compiler.cuda.kernels import Kernel
from nl_nodes.compiler.cuda.regions import Region
from nl_nodes.compiler.cuda.text import PRELUDE, TYPES, Arguments, Lines, combined, coordinates, neutral, region_lines

THREADS = 256
"""Threads of a block."""

BLOCKS = 1056
"""Blocks that fill a large GPU: a sum is cut into pieces until it has as many."""

TERMS = 4
"""Terms that a thread adds up at least, where a sum is cut into pieces."""

SINGLE_TERMS = 64
"""Terms of a thread up to which a sum takes one launch."""

LANES = (32, 8)
"""Neighbouring sums of a block; fewer, if that lets a sum take one launch."""

PARTIAL = "partial"
"""Stands for the block of partial sums among a kernel's arguments."""


@dataclass(frozen=True)
class Source:
    """One launch: the text of a kernel, and the grid that it is launched with.

    Attributes:
        name: of the function; equal kernels have equal names.
        text: the function.
        blocks: along x and y.
        threads: of a block.
        random: whether the last parameter is the index of the pass.
        partial: elements of the partial sums that it writes or reads, else 0.
        prelude: what the text of all kernels needs before it.
    """

    prelude: ClassVar[str] = PRELUDE

    name: str
    text: str
    blocks: tuple[int, int]
    threads: int
    random: bool
    partial: int = 0


Launch = tuple[Source, list[tuple[Any, str]]]
"""A source, and the block and dtype of each pointer that it takes."""


def launches(kernel: Kernel) -> list[Launch]:
    """Return the launches of a kernel: two for a sum of two stages, else one."""
    return [_map(kernel.regions)] if kernel.kind == "map" else _Sum(kernel).launches()


def _source(body: Sequence[str], arguments: Arguments, blocks: tuple[int, int], partial: int = 0) -> Launch:
    signature = f"({arguments.parameters()})\n{{\n" + "\n".join(f"    {line}" for line in body) + "\n}\n"
    name = f"k{sha256(signature.encode()).hexdigest()[:16]}"
    text = f'extern "C" __global__ void __launch_bounds__({THREADS}) {name}{signature}'
    return Source(name, text, blocks, THREADS, arguments.random, partial), arguments.order


def _map(regions: Sequence[Region]) -> Launch:
    """Return the launch of a map: each region has blocks of its own."""
    arguments, body, first = Arguments(), [], 0
    for region in regions:
        blocks = ceil(region.threads / THREADS)
        body.append(f"if (blockIdx.x < {first + blocks}) {{" if region is not regions[-1] else "{")
        block = f"(blockIdx.x - {first})" if first else "blockIdx.x"
        body.append(f"    const int t = {block} * {THREADS} + threadIdx.x;")
        if region.threads % THREADS:
            body.append(f"    if (t >= {region.threads}) return;")
        body += [f"    {line}" for line in region_lines(region, arguments, "t")]
        body += ["    return;", "}"]
        first += blocks
    return _source(body, arguments, (first, 1))


class _Sum:
    """The launches of a reduction: threads sum their terms, blocks sum their threads, and a second launch the blocks.

    A block has `lanes` neighbouring sums and `rows` threads for each, thread `x` of sum `y`; neighbouring threads have
    neighbouring sums or neighbouring terms, whichever are next to each other in memory. The partial sums are
    (piece, sum, thread).
    """

    def __init__(self, kernel: Kernel) -> None:
        (self.region,), self.tail = kernel.regions, kernel.tail
        self.stores = self.region.sums
        outputs, steps = self.region.threads, self.region.steps
        self.along = _terms_are_neighbours(self.region)
        self.lanes, self.rows, self.pieces = grid(outputs, steps, self.along)
        self.groups = ceil(outputs / self.lanes)
        self.chunk = ceil(steps / self.pieces)

    def launches(self) -> list[Launch]:
        """Return one launch, or two where sums are cut into pieces."""
        arguments = Arguments()
        body = self._phase("EACH_THREAD", [*self._accumulate(arguments), *self._keep()]) + self._tree()
        if self.pieces == 1:
            body += self._phase("THEN_EACH_THREAD", self._finish(arguments))
            return [_source(self._shared() + body, arguments, (self.groups, 1))]
        body += self._phase("THEN_EACH_THREAD", self._write_partial(arguments))
        size = self.pieces * len(self.stores) * self.region.threads
        first = _source(self._shared() + body, arguments, (self.groups, self.pieces), size)
        arguments = Arguments()
        body = self._phase("EACH_THREAD", [*self._read_partial(arguments), *self._keep()]) + self._tree()
        body += self._phase("THEN_EACH_THREAD", self._finish(arguments))
        return [first, _source(self._shared() + body, arguments, (self.groups, 1), size)]

    def _phase(self, begin: str, body: Sequence[str]) -> list[str]:
        """Return a phase: `x` is the lane, `y` the row, `t` the sum of a thread."""
        lane, row = f"threadIdx.x % {self.lanes}", f"threadIdx.x / {self.lanes}"
        if self.along:
            lane, row = f"threadIdx.x / {self.rows}", f"threadIdx.x % {self.rows}"
        place = [f"const int x = {lane}, y = {row};", f"const int t = blockIdx.x * {self.lanes} + x;"]
        return [f"{begin} {{", *(f"    {line}" for line in [*place, *body]), "}"]

    def _shared(self) -> list[str]:
        return [f"__shared__ {self._type(n)} m{n}[{THREADS}];" for n in range(len(self.stores))]

    def _type(self, n: int) -> str:
        return TYPES[self.stores[n].dtype]

    def _begin(self) -> list[str]:
        return [
            f"{self._type(n)} s{n} = {neutral(store.reduction, store.dtype)};" for n, store in enumerate(self.stores)
        ]

    def _keep(self) -> list[str]:
        return [f"m{n}[threadIdx.x] = s{n};" for n in range(len(self.stores))]

    def _step(self, n: int, into: str, term: str) -> str:
        store = self.stores[n]
        return f"{into} = {combined(store.reduction, store.dtype, into, term)};"

    def _accumulate(self, arguments: Arguments) -> list[str]:
        """Return the lines that sum a thread's terms."""
        region = self.region
        outer, names = coordinates(region.axes, "t", "i")
        inner, loops = coordinates(region.loops, "s", "j")
        text = Lines(region.nodes, arguments, {**names, **loops})
        steps = []
        for n, store in enumerate(self.stores):
            for node in store.nodes:
                steps.append(self._step(n, f"s{n}", text.value(node, store.dtype)))
        for store in region.stores:
            if not store.reduction:
                text.store(store)
        end = f"min({region.steps}, ((int)blockIdx.y + 1) * {self.chunk})" if self.pieces > 1 else str(region.steps)
        begin = f"(int)blockIdx.y * {self.chunk} + y" if self.pieces > 1 else "y"
        loop = [*inner, *text.lines, *steps]
        return [
            *self._begin(),
            f"if (t < {region.threads}) {{",
            *(f"    {line}" for line in outer),
            f"    for (int s = {begin}; s < {end}; s += {self.rows}) {{",
            *(f"        {line}" for line in loop),
            "    }",
            "}",
        ]

    def _tree(self) -> list[str]:
        """Return the phases that sum the rows of a block in a fixed order."""
        lines, rows = [], self.rows
        while rows > 1:
            rows //= 2
            steps = [
                self._step(n, f"m{n}[threadIdx.x]", f"m{n}[threadIdx.x + {rows if self.along else rows * self.lanes}]")
                for n in range(len(self.stores))
            ]
            lines += self._phase("THEN_EACH_THREAD", [f"if (y < {rows}) {{", *(f"    {step}" for step in steps), "}"])
        return lines

    def _partial(self, arguments: Arguments, n: int, piece: str, write: bool) -> str:
        name = arguments.name(PARTIAL, self.stores[n].dtype, write)
        return f"{name}[({piece} * {len(self.stores)} + {n}) * {self.region.threads} + t]"

    def _write_partial(self, arguments: Arguments) -> list[str]:
        stores = [
            f"    {self._partial(arguments, n, '(int)blockIdx.y', True)} = m{n}[threadIdx.x];"
            for n in range(len(self.stores))
        ]
        return [f"if (y == 0 && t < {self.region.threads}) {{", *stores, "}"]

    def _read_partial(self, arguments: Arguments) -> list[str]:
        steps = [self._step(n, f"s{n}", self._partial(arguments, n, "s", False)) for n in range(len(self.stores))]
        loop = f"if (t < {self.region.threads}) for (int s = y; s < {self.pieces}; s += {self.rows}) {{"
        return [*self._begin(), loop, *(f"    {step}" for step in steps), "}"]

    def _finish(self, arguments: Arguments) -> list[str]:
        """Return the lines that write the finished sums, and what is made of them."""
        lines, names = coordinates(self.region.axes, "t", "i")
        text = Lines((), arguments, names)
        for n, store in enumerate(self.stores):
            place = text.element(store.block, store.dtype, store.address, write=True)
            text.lines.append(f"{place} = m{n}[threadIdx.x];")
        lines += text.lines
        if self.tail is not None:
            own, names = coordinates(self.tail.axes, "t", "i")
            totals = [f"m{n}[threadIdx.x]" for n in range(len(self.stores))]
            after = Lines(self.tail.nodes, arguments, names, totals)
            for store in self.tail.stores:
                after.store(store)
            lines += ["{", *(f"    {line}" for line in own + after.lines), "}"]
        return [f"if (y == 0 && t < {self.region.threads}) {{", *(f"    {line}" for line in lines), "}"]


def grid(outputs: int, steps: int, along: bool = False) -> tuple[int, int, int]:
    """Return lanes, rows and pieces of a reduction to `outputs` sums of `steps` terms.

    Args:
        outputs: the number of sums.
        steps: the number of terms of each.
        along: whether neighbouring threads have neighbouring terms: then few sums share a block.
    """
    found = [_block(outputs, lanes) for lanes in (LANES[1:] if along else LANES)]
    for lanes, rows in found:
        if steps <= SINGLE_TERMS * rows:
            return lanes, rows, 1
    lanes, rows = found[0]
    wanted = ceil(BLOCKS / ceil(outputs / lanes))
    return lanes, rows, max(1, min(wanted, ceil(steps / (rows * TERMS))))


def _block(outputs: int, most: int) -> tuple[int, int]:
    """Return lanes, a power of two, and rows of a block."""
    lanes = min(most, 1 << max(outputs - 1, 0).bit_length())
    return lanes, THREADS // lanes


def _terms_are_neighbours(region: Region) -> bool:
    """Whether the terms of a sum, rather than neighbouring sums, are next to each other in memory."""
    if not (region.axes and region.loops and region.loads):
        return bool(region.loops)
    address = region.loads[0][3]
    term, output = abs(address[region.loops[-1][0] + 1]), abs(address[region.axes[-1][0] + 1])
    return bool(0 < term < output)
