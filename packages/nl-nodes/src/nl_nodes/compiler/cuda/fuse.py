"""The pass: a lowered graph's calls become kernels and matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nl_nodes.compiler.cuda.check import hazards
from nl_nodes.compiler.cuda.kernels import Kernel
from nl_nodes.compiler.cuda.launch import PARTIAL, launches
from nl_nodes.compiler.cuda.memory import call_by_call, group
from nl_nodes.compiler.cuda.values import Program
from nl_nodes.compiler.lower.lower import Lowering
from nl_nodes.errors import DeviceError
from nl_nodes.runtime.call import Call
from nl_nodes.runtime.executor import SMALLER

MOST_ELEMENTS = 2**31 - 1
"""Elements of a block, at most: kernels count them in 32 bits."""


def fuse(lowered: Lowering, each_call: bool = False) -> None:
    """Replace the calls of a graph lowered for one worker by ("kernel", (source, *arrays)) and matrix products.

    Each pointer of a kernel is an array over a whole block, so that live ranges, offsets and relocation work as before.
    Where fused kernels would read what has been overwritten, each call becomes a kernel.

    Args:
        lowered: the graph; its tape changes in place.
        each_call: whether each call becomes a kernel of its own, to trace a fault to a call.

    Raises:
        DeviceError: where an array has too many elements.
        RuntimeError: where even a single call would read what another thread of it writes.
    """
    program = Program(lowered)
    kernels = call_by_call(program) if each_call else group(program)
    if not each_call and hazards(program, kernels):
        program = Program(lowered)
        kernels = call_by_call(program)
    if found := hazards(program, kernels):
        raise RuntimeError(f"call {found[0].call} cannot be a kernel: {found[0].reason}")
    (tape,) = lowered.tapes
    calls, owners = [], []
    for kernel in kernels:
        owner = program.calls[kernel.roots[0].end].owner
        for call in _calls(program, lowered, kernel):
            calls.append(call)
            owners.append(owner)
    tape.calls[:], tape.owners[:] = calls, owners


def _calls(program: Program, lowered: Lowering, kernel: Kernel) -> Iterator[Call]:
    """Yield the calls of a kernel."""
    if kernel.kind == "gemm":
        yield program.recorded[kernel.roots[0].end]
        return
    (tape,) = lowered.tapes
    partial: dict[str, Any] = {}
    for source, pointers in launches(kernel):
        arrays = []
        for block, dtype in pointers:
            if block == PARTIAL:
                if dtype not in partial:
                    partial[dtype] = tape.empty((source.partial,), np.dtype(dtype))
                arrays.append(partial[dtype])
            else:
                memory = program.blocks[block].memory
                count = memory.size // np.dtype(dtype).itemsize
                if count > MOST_ELEMENTS:
                    raise DeviceError(f"one array of the plan for this batch has {count:,} elements: {SMALLER}")
                arrays.append(tape.of(memory[: count * np.dtype(dtype).itemsize].view(dtype)))
        yield "kernel", (source, *arrays)
