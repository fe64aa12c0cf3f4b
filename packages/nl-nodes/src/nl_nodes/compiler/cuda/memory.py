"""Which values get memory: those that must, and those that are cheaper to read again than to compute again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from nl_nodes.compiler.cuda.affine import Opaque
from nl_nodes.compiler.cuda.check import hazards
from nl_nodes.compiler.cuda.kernels import Grouping, Kernel
from nl_nodes.compiler.cuda.regions import nested, whole
from nl_nodes.compiler.cuda.traffic import traffic
from nl_nodes.compiler.cuda.values import Call, Program, Value

SMALL = 2**13
"""Elements up to which a value is small: it gets memory rather than be computed again in each thread of a large one."""

RATIO = 8
"""How many times larger than a small value its reader must be for that."""

LARGE = 2**14
"""Elements from which on it is worth asking whether a value is cheaper to read again."""

ROUNDS = 8
"""How often that is asked."""


def call_by_call(program: Program) -> list[Kernel]:
    """Return a kernel for each call: the form in which a fault can be traced to a call."""
    for value in list(program.values):
        if len(value.calls) > 1:
            program.split(value)
    return Grouping(program, window=0).group(set(program.values))


def group(program: Program) -> list[Kernel]:
    """Return the kernels and matrix products that make all values that get memory."""
    _split_frames(program)
    summed_on = _summed_on(program)
    stored = _required(program, summed_on)
    grouping = Grouping(program)
    for _ in range(ROUNDS):
        kernels = _opaque_stored(program, grouping, stored)
        more = _cheaper_stored(program, grouping, kernels, stored, summed_on)
        if not more:
            break
        stored |= more
    while late := _read_too_late(program, kernels) - stored:
        stored |= late
        kernels = _opaque_stored(program, grouping, stored)
    return kernels


def _read_too_late(program: Program, kernels: Sequence[Kernel]) -> set[Value]:
    """Return the values that a kernel computes on the way from what has been overwritten by then."""
    found = set()
    for hazard in hazards(program, kernels):
        for value in hazard.kernel.inlined:
            read = {program.value_of[w].end for t in value.calls for w in program.sources(t)}
            if hazard.call in read:
                found.add(value)
    return found


def _opaque_stored(program: Program, grouping: Grouping, stored: set[Value]) -> list[Kernel]:
    """Group, and give memory to what cannot be expressed where it is read, until all can be.

    Where a single call cannot be expressed, what it reads gets memory: then it can.
    """
    while True:
        try:
            return grouping.group(stored)
        except Opaque as opaque:
            value = program.value_of[opaque.call]
            if value in stored and len(value.calls) == 1:
                read = {program.value_of[t] for t in program.sources(value.end)} - stored
                if not read:
                    raise
                stored |= read
            elif value in stored:
                stored.discard(value)
                stored.update(program.split(value))
                grouping.forget()
            else:
                stored.add(value)


def _required(program: Program, summed_on: set[Value]) -> set[Value]:
    """Return the values that need memory whatever they cost."""
    found = {value for value in program.values if _must(program, value) and value not in summed_on}
    for call in program.calls:
        if call.kind == "gemm":
            found |= {program.value_of[t] for t in program.sources(call.number)}
    return _heavy_stored(program, found, summed_on)


def _split_frames(program: Program) -> None:
    """Let a constant frame and what is written inside it be two values, which get memory where windows read both.

    In a window, threads near the frame would differ from the others.
    """
    for value in list(program.values):
        first, *others = [program.calls[t] for t in value.calls]
        filled = first.name == "copyto" and not first.views
        inside = others and all(value.block not in {view.block for view in c.views} for c in others)
        if filled and inside and any(not view.nested for _, view in value.reads):
            program.split(value)


def _must(program: Program, value: Value) -> bool:
    block = program.blocks[value.block]
    if value.block in program.results or block.external:
        return True
    if not value.reads:
        return False
    if value.kind != "map":
        return True
    if block.persistent and sum(program.calls[t].output.size * program.calls[t].output.item for t in value.calls) < (
        block.size
    ):  # inside a frame of zeros
        return True
    last = program.calls[value.end]
    framed = len(program.writers[value.block]) > 1 and any(not view.nested for _, view in value.reads)
    if framed and last.output.dtype == "b1":  # see `_split_frames`
        return True
    return any(_costly_here(last, program.calls[t]) for t, _ in value.reads)


def _costly_here(last: Call, reader: Call) -> bool:
    """Whether a value is of little size, but costs much to make again where it is read."""
    if last.output.dtype == "b1" and (last.owner[1], reader.owner[1]) == ("forward", "backward"):
        return True
    size = max(view.size for view in (reader.output, *reader.views))
    small = last.output.size <= SMALL and size >= max(RATIO * last.output.size, SMALL)
    cheap = last.name == "copyto" or (last.kind == "fold" and last.output.dtype == "b1")
    return small and not cheap and reader.kind != "fold"


def _summed_on(program: Program) -> set[Value]:
    """Return the sums over rows that only a sum over pixels reads, which adds the rows up itself."""
    found = set()
    for call in program.calls:
        source = nested(program, call)
        if source is not None:
            value = program.value_of[source.number]
            if {t for t, _ in value.reads} == {call.number} and value.block not in program.results:
                found.add(value)
    return found


def _heavy_stored(program: Program, stored: set[Value], summed_on: set[Value]) -> set[Value]:
    """Add the values that take many loads an element and have several readers; with one it makes them on the way."""
    heavy: set[Value] = set()
    for value in program.values:
        if value in stored or value in summed_on:
            continue
        calls = [program.calls[t] for t in value.calls]
        made_of = {program.value_of[w] for t in value.calls for w in program.sources(t)}
        if not (any(c.matrix is not None for c in calls) or any(v in heavy for v in made_of if v is not value)):
            continue
        readers = {(program.calls[t].owner, program.calls[t].kind == "reduce") for t, _ in value.reads}
        if len(readers) > 1 or any(sums for _, sums in readers):
            stored.add(value)
        else:
            heavy.add(value)
    return stored


def _cheaper_stored(
    program: Program, grouping: Grouping, kernels: Iterable[Kernel], stored: set[Value], summed_on: set[Value]
) -> set[Value]:
    """Return the values that several kernels compute, each from more bytes than it would read."""
    uses = Counter(value for kernel in kernels for value in kernel.inlined)
    found = set()
    for value, count in uses.items():
        if count < 2 or value in summed_on or value.kind == "reduce" or whole(program, value).size < LARGE:
            continue
        try:
            regions = grouping.alone(value, stored)
        except Opaque:
            continue
        cost = traffic(program, regions)
        if count * cost.read > cost.read + cost.written * (count + 0.5):
            found.add(value)
    # Of a chain only the last: the others may then be needed once.
    return {value for value in found if not (_readers(program, value, stored) & found)}


def _readers(program: Program, value: Value, stored: set[Value]) -> set[Value]:
    """Return the values without memory that are made of one."""
    found: set[Value] = set()
    work = [value]
    while work:
        readers = {program.value_of[t] for t, _ in work.pop().reads}
        new = readers - stored - found
        found |= new
        work += new
    return found
