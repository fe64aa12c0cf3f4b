"""What each node of a graph costs, forward and backward: time, floating-point operations and bytes.

A plan is a list of calls, each of them recorded for some node; to profile it, the same list runs with a clock between
one node's calls and the next one's. So what is measured is the step itself, by all its workers, and costs nothing when
nobody asks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from nl_nodes.compiler.fused import Conv
from nl_nodes.compiler.fused.conv.node import tiles_for
from nl_nodes.compiler.lower.lower import Lowering
from nl_nodes.compiler.lower.trace import Call, Owner
from nl_nodes.compiler.plan import Plan
from nl_nodes.graph import Graph, Pass
from nl_nodes.node import Node
from nl_nodes.nodes.leaves import Leaf
from nl_nodes.typing import Array

MOVES = ("copyto", "random_bits", "barrier")
"""Calls that compute nothing with floating-point numbers."""


@dataclass(frozen=True)
class Row:
    """What one node costs in one direction.

    Attributes:
        path: its layer, what it is there, and a number where a layer has several: "Convolution 3/Conv".
        kind: the node's class; of what the workers do to add up their gradients, "Total".
        direction: "forward" or "backward".
        seconds: of a worker, the mean of all; so all rows together make the step, waiting for each other included.
        flops: floating-point operations of all workers: 2 m n k of a matrix product, else one for each element.
        bytes: read and written by all workers' calls, whether or not they came from a cache.
        calls: of all workers.
        way: how a convolution is calculated, else empty.
    """

    path: str
    kind: str
    direction: str
    seconds: float
    flops: int
    bytes: int
    calls: int
    way: str = ""


Sums = dict[Owner, Any]


def profile(plan: Plan, feeds: Mapping[str, Any], pass_index: int = 0, repeats: int = 5) -> list[Row]:
    """What each node of a plan costs that has any calls, in the order of the graph.

    Args:
        plan: what runs; its results and gradients are then those of this pass.
        feeds: an array for each input.
        pass_index: which pass this is, for random nodes.
        repeats: how often it is run, after once for nothing; the median counts.
    """
    runs = [[(owner, len(list(calls))) for owner, calls in groupby(owners)] for owners in plan.owners]
    stamps = [plan.executor.memory(8 * (len(one) + 1)).view(np.float64) for one in runs]
    loaded = plan.executor.load([_clocked(*one) for one in zip(plan.calls, runs, stamps, strict=True)])
    times = []
    for _ in range(repeats + 1):
        plan.run(feeds, pass_index, loaded)
        times.append([np.diff(one) for one in stamps])
    seconds: Sums = defaultdict(float)
    for worker, one in enumerate(runs):
        for number, (owner, _) in enumerate(one):
            seconds[owner] += float(np.median([run[worker][number] for run in times[1:]])) / len(runs)
    return _rows(plan.graph, seconds, _costs(plan.calls, plan.owners))


def profile_reference(graph: Graph, feeds: Mapping[str, Any], repeats: int = 5) -> list[Row]:
    """What each node of a graph costs in the reference execution, the upstream gradient being 1.

    The operations and bytes are those of the node's own lines as a plan of this very graph would record them; what
    NumPy does for memory is in the time.
    """
    times = []
    for _ in range(repeats + 1):
        done = _TimedPass(graph, feeds)
        done.backward(done.backend.xp.ones(done.results[0].shape, dtype=done.results[0].dtype))
        times.append(done.seconds)
    shapes = {name: (array.shape, array.dtype) for name, array in feeds.items()}
    tape = Lowering(graph, shapes, frozenset(), 1, {}).tapes[0]
    costs = _costs([tape.calls], [tape.owners])
    return _rows(graph, {owner: median(run[owner] for run in times[1:]) for owner in times[0]}, costs)


def cost(call: Call) -> tuple[int, int]:
    """The floating-point operations of one call and the bytes that it reads and writes."""
    name, args = call
    moved = sum(_touched(a) for a in args if isinstance(a, np.ndarray))
    if name in MOVES:
        return 0, moved
    if name == "matmul":
        return 2 * args[0].shape[-1] * args[2].size, moved
    return (args[0] if name.endswith(".reduce") else args[-1]).size, moved


class _TimedPass(Pass):
    """A pass of the reference that takes each node's time."""

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


def _clocked(calls: Sequence[Call], runs: Sequence[tuple[Owner, int]], stamps: Any) -> list[Call]:
    """The calls with a look at the clock before each run of one owner's, and at the end."""
    found: list[Call] = []
    at = 0
    for number, (_, count) in enumerate(runs):
        found += [("clock", (stamps[number : number + 1],)), *calls[at : at + count]]
        at += count
    return [*found, ("clock", (stamps[len(runs) :],))]


def _costs(calls: Sequence[Sequence[Call]], owners: Sequence[Sequence[Owner]]) -> Sums:
    """Operations, bytes and calls of each owner, of all workers."""
    found: Sums = defaultdict(lambda: (0, 0, 0))
    for one, whose in zip(calls, owners, strict=True):
        for call, owner in zip(one, whose, strict=True):
            flops, moved, count = found[owner]
            more, bytes_ = cost(call)
            found[owner] = (flops + more, moved + bytes_, count + 1)
    return found


def _rows(graph: Graph, seconds: Mapping[Owner, float], costs: Sums) -> list[Row]:
    paths, rows = names(graph), []
    for node in (*graph.order, None):
        for direction in ("forward", "backward"):
            if (node, direction) in seconds:
                kind = "Total" if node is None else type(node).__name__
                flops, moved, calls = costs[node, direction]
                time = seconds[node, direction]
                rows.append(Row(paths[node], kind, direction, time, flops, moved, calls, _way(node)))
    return rows


def names(graph: Graph) -> dict[Node | None, str]:
    """What each node is called: a leaf by its name, others by layer and kind; of the same, the second with a 2."""
    found: dict[Node | None, str] = {None: "gradients of all workers"}
    seen: Counter[str] = Counter()
    for node in graph.order:
        name = node.name if isinstance(node, Leaf) else "/".join(filter(None, (node.path, type(node).__name__)))
        seen[name] += 1
        found[node] = name if seen[name] == 1 else f"{name} {seen[name]}"
    return found


def _way(node: Node | None) -> str:
    if not isinstance(node, Conv):
        return ""
    kernels = node.inputs[1].shape
    assert kernels is not None  # the rule that made it has seen it
    tiles = tiles_for(node.size, kernels, node.pad, node.stride)
    return "columns" if tiles is None else tiles.name


def _touched(array: Any) -> int:
    """Bytes of an array; along an axis on which it stands still, it is read once."""
    count = 1
    for n, stride in zip(array.shape, array.strides, strict=True):
        count *= n if stride else 1
    return int(count * array.itemsize)
