"""Checks and counts of kernels: reads of what has been overwritten, launches, and bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nl_nodes.compiler.cuda.kernels import Kernel, crosses
from nl_nodes.compiler.cuda.launch import launches
from nl_nodes.compiler.cuda.traffic import traffic
from nl_nodes.compiler.cuda.values import Program, Value, View


@dataclass(frozen=True)
class Counts:
    """What a pass costs a GPU.

    Attributes:
        launches: kernels and matrix products.
        products: matrix products.
        bytes: read and written outside matrix products, each byte read once a kernel.
        product_bytes: read and written by matrix products, each byte once a product.
        flops: floating-point operations of matrix products.
    """

    launches: int
    products: int
    bytes: int
    product_bytes: int = 0
    flops: int = 0


def count(program: Program, kernels: Iterable[Kernel]) -> Counts:
    """Count launches, matrix products, bytes and operations."""
    total = products = moved = product_moved = flops = 0
    for kernel in kernels:
        if kernel.kind == "gemm":
            call = program.calls[kernel.roots[0].end]
            products += 1
            product_moved += sum(map(_touched, (*call.views, call.output)))
            flops += 2 * call.views[0].shape[-1] * call.output.size
        else:
            total += len(launches(kernel))
            moved += traffic(program, kernel.all_regions).bytes
    return Counts(total + products, products, moved, product_moved, flops)


def _touched(view: View) -> int:
    """Return the bytes of a view, of which some may be read more than once."""
    begin, end = view.span
    return min(view.size * view.item, end - begin)


@dataclass(frozen=True)
class Hazard:
    """A kernel that finds in memory what it should not.

    Attributes:
        kernel: the kernel.
        call: the call whose result it expects to read, or would overwrite; -1 for what was there at first.
        reason: what happens instead.
    """

    kernel: Kernel
    call: int
    reason: str


def hazards(program: Program, kernels: Sequence[Kernel]) -> list[Hazard]:
    """Return each read of what another thread of the launch writes, or of what is not or no longer in memory."""
    found: list[Hazard] = []
    written: dict[int, list[Value]] = defaultdict(list)
    for kernel in kernels:
        if crosses(kernel.all_regions):
            found.append(Hazard(kernel, kernel.roots[0].end, "another thread of the launch writes what it reads"))
        for block, low, high, expected in _reads(program, kernel):
            if expected != -1 and expected not in {value.end for value in written[block]}:
                found.append(Hazard(kernel, expected, "it has not been computed yet"))
            for value in written[block]:
                begin, end = program.span(value)
                if value.end > expected and begin < high and low < end:
                    found.append(Hazard(kernel, expected, f"call {value.end} has overwritten it"))
        for value in kernel.outputs:
            begin, end = program.span(value)
            for earlier in written[value.block]:
                low, high = program.span(earlier)
                if earlier.end > value.end and begin < high and low < end:
                    found.append(Hazard(kernel, earlier.end, "it is written too late"))
            written[value.block].append(value)
    return found


def _reads(program: Program, kernel: Kernel) -> Iterator[tuple[int, int, int, int]]:
    """Yield block, first byte, end and the expected call of each read."""
    if kernel.kind == "gemm":
        call = program.calls[kernel.roots[0].end]
        for view in call.views:
            expected = max((program.value_of[t].end for t in program.before(view, call.number)), default=-1)
            yield view.block, *view.span, expected
    for region in kernel.all_regions:
        for _, block, dtype, address, expected in region.loads:
            yield block, *region.span(address, dtype), expected
