"""The profiler: time, floating-point operations and bytes of each node, forward and backward.

A plan is profiled by running its own calls with a clock call between those of one node and the next: the step itself
is measured, on all workers, and a plan that is not profiled pays nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from nl_nodes.compiler.fused import Conv
from nl_nodes.compiler.fused.conv.node import uses_mec, winograd_spec
from nl_nodes.compiler.lower.lower import CompileSpec, Lowering
from nl_nodes.compiler.lower.trace import Owner
from nl_nodes.compiler.plan import Plan
from nl_nodes.graph import Graph, Pass
from nl_nodes.node import Node
from nl_nodes.nodes.leaves import Leaf
from nl_nodes.runtime.call import Call
from nl_nodes.typing import Array

MOVES = ("copyto", "random_bits", "barrier", "kernel")
"""Calls without floating-point operations, or, of fused kernels, with an unknown number."""


@dataclass(frozen=True)
class Row:
    """The cost of one node in one direction.

    Attributes:
        path: its layer and class, and a number where a layer has several: "Convolution 3/Conv".
        kind: the node's class; "Total" for the reduction of gradients over the workers.
        direction: "forward" or "backward".
        seconds: mean over the workers; all rows add up to the step, barriers included.
        flops: floating-point operations of all workers: 2 m n k for a matrix product, else one per element.
        bytes: read and written by the calls of all workers, cached or not.
        calls: of all workers.
        algorithm: the algorithm of a convolution, else empty.
    """

    path: str
    kind: str
    direction: str
    seconds: float
    flops: int
    bytes: int
    calls: int
    algorithm: str = ""


Sums = dict[Owner, Any]


def profile(plan: Plan, feeds: Mapping[str, Any], pass_index: int = 0, repeats: int = 5) -> list[Row]:
    """Return the cost of each node of a plan that has any calls, in the order of the graph.

    Args:
        plan: the plan; its results and gradients become those of this pass.
        feeds: an array for each input.
        pass_index: the number of the pass, for random nodes.
        repeats: timed runs, after one warm-up; their median counts.
    """
    segments = [[(owner, len(list(calls))) for owner, calls in groupby(owners)] for owners in plan.owners]
    stamps = [plan.executor.clocks(len(of_worker) + 1) for of_worker in segments]
    loaded = plan.executor.load(list(map(_clocked, plan.calls, segments, stamps)))
    times = []
    for _ in range(repeats + 1):
        plan.run(feeds, pass_index, loaded)
        times.append([np.diff(of_worker) for of_worker in stamps])
    seconds: Sums = defaultdict(float)
    for worker, of_worker in enumerate(segments):
        for number, (owner, _) in enumerate(of_worker):
            seconds[owner] += float(np.median([run[worker][number] for run in times[1:]])) / len(segments)
    return _rows(plan.graph, seconds, _costs(plan.calls, plan.owners))


def profile_reference(graph: Graph, feeds: Mapping[str, Any], repeats: int = 5) -> list[Row]:
    """Return the cost of each node of a graph in the reference execution, for an upstream gradient of 1.

    Operations and bytes are those of a plan of the graph without rewriting; the time includes NumPy's allocations.
    """
    times = []
    for _ in range(repeats + 1):
        timed = _TimedPass(graph, feeds)
        timed.backward(timed.backend.xp.ones(timed.results[0].shape, dtype=timed.results[0].dtype))
        times.append(timed.seconds)
    costs = _traced_costs(graph, CompileSpec({name: (x.shape, x.dtype) for name, x in feeds.items()}, gradients={}))
    return _rows(graph, {owner: median(run[owner] for run in times[1:]) for owner in times[0]}, costs)


def count_costs(graph: Graph, spec: CompileSpec) -> list[Row]:
    """Return the operations and bytes of each node of a graph, rewritten or not, on one worker; nothing is run.

    The seconds of all rows are 0.
    """
    costs = _traced_costs(graph, spec)
    return _rows(graph, dict.fromkeys(costs, 0.0), costs)


def cost(call: Call) -> tuple[int, int]:
    """Return the floating-point operations of a call, and the bytes that it reads and writes."""
    name, args = call
    moved = sum(_touched(a) for a in args if isinstance(a, np.ndarray))
    if name in MOVES:
        return 0, moved
    if name == "matmul":
        return 2 * args[0].shape[-1] * args[2].size, moved
    return (args[0] if name.endswith(".reduce") else args[-1]).size, moved


class _TimedPass(Pass):
    """A pass of the reference that times each node."""

    def __init__(self, graph: Graph, feeds: Mapping[str, Any]) -> None:
        self.seconds: dict[Owner, float] = {}
        super().__init__(graph, feeds)

    def _forward(self, node: Node, inputs: tuple[Array, ...]) -> Array:
        begun = perf_counter()
        output = super()._forward(node, inputs)
        self.seconds[node, "forward"] = perf_counter() - begun
        return output

    def _backward(self, node: Node, grads: dict[Node, Array]) -> None:
        begun = perf_counter()
        super()._backward(node, grads)
        self.seconds[node, "backward"] = perf_counter() - begun


def _clocked(calls: Sequence[Call], segments: Sequence[tuple[Owner, int]], stamps: Any) -> list[Call]:
    """Insert a clock call before each segment of one owner's calls, and at the end."""
    clocked: list[Call] = []
    start = 0
    for number, (_, count) in enumerate(segments):
        clocked += [("clock", (stamps[number : number + 1],)), *calls[start : start + count]]
        start += count
    return [*clocked, ("clock", (stamps[len(segments) :],))]


def _traced_costs(graph: Graph, spec: CompileSpec) -> Sums:
    tape = Lowering(graph, spec, 1).tapes[0]
    return _costs([tape.calls], [tape.owners])


def _costs(calls: Sequence[Sequence[Call]], owners: Sequence[Sequence[Owner]]) -> Sums:
    """Return operations, bytes and calls of each owner, summed over the workers."""
    costs: Sums = defaultdict(lambda: (0, 0, 0))
    for worker_calls, worker_owners in zip(calls, owners, strict=True):
        for call, owner in zip(worker_calls, worker_owners, strict=True):
            flops, moved, count = costs[owner]
            call_flops, call_moved = cost(call)
            costs[owner] = (flops + call_flops, moved + call_moved, count + 1)
    return costs


def _rows(graph: Graph, seconds: Mapping[Owner, float], costs: Sums) -> list[Row]:
    paths, rows = names(graph), []
    for node in (*graph.order, None):
        for direction in ("forward", "backward"):
            if (node, direction) in seconds:
                kind = "Total" if node is None else type(node).__name__
                flops, moved, calls = costs[node, direction]
                time = seconds[node, direction]
                rows.append(Row(paths[node], kind, direction, time, flops, moved, calls, _algorithm(node)))
    return rows


def names(graph: Graph) -> dict[Node | None, str]:
    """Return a unique name for each node: a leaf's own, else layer and class, numbered from the second on."""
    unique: dict[Node | None, str] = {None: "gradients of all workers"}
    counts: Counter[str] = Counter()
    for node in graph.order:
        name = node.name if isinstance(node, Leaf) else "/".join(filter(None, (node.path, type(node).__name__)))
        counts[name] += 1
        unique[node] = name if counts[name] == 1 else f"{name} {counts[name]}"
    return unique


def _algorithm(node: Node | None) -> str:
    if not isinstance(node, Conv):
        return ""
    kernels = node.inputs[1].shape
    assert kernels is not None  # the rule that made the node requires it
    spec = winograd_spec(node.size, kernels, node.pad, node.stride)
    if spec is not None:
        return spec.name
    return "MEC" if uses_mec(kernels, node.stride) else "im2col"


def _touched(array: Any) -> int:
    """Return the bytes that an array spans; a broadcast axis (stride 0) is read once."""
    return int(array.itemsize * prod(n for n, stride in zip(array.shape, array.strides, strict=True) if stride))
