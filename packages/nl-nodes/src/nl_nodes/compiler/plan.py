"""The plan: a graph compiled to flat lists of calls on preallocated arrays, for one shape of inputs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import numpy as np

from nl_nodes.compiler.lower.arena import Arena
from nl_nodes.compiler.lower.finite import store_where_finite
from nl_nodes.compiler.lower.lower import CompileSpec, Lowering
from nl_nodes.compiler.lower.memory import record_use
from nl_nodes.compiler.rewrite.engine import rewrite
from nl_nodes.compiler.rewrite.rules import RULES
from nl_nodes.context import NotShardable
from nl_nodes.errors import DeviceError
from nl_nodes.graph import Graph, refuse_other_shape
from nl_nodes.runtime import Executor
from nl_nodes.runtime.call import CallFailed
from nl_nodes.runtime.cuda import OutOfMemory
from nl_nodes.runtime.cut import cut_product
from nl_nodes.runtime.executor import SMALLER
from nl_nodes.shapes import size
from nl_nodes.signals import DeferSignals


class Plan:
    """A graph compiled for inputs of one shape: lowered, its memory planned, and its calls bound to one arena.

    Args:
        graph: the graph, rewritten by the rules or not.
        spec: what it is compiled for.
        executor: runs the calls.

    Attributes:
        graph: the graph.
        calls: each worker's calls, in order.
        owners: the node and direction of each call.
        size: bytes of the arena.
        shared: the bytes that blocks share, which hold nothing between two passes.
        inputs: the arrays that `run` copies its feeds to.
        grads: the leaves' gradients, valid until the next pass.
        finite: whether all results and gradients of the last pass are finite, an array of the executor's device; None
            where its passes do not check that.
    """

    def __init__(self, graph: Graph, spec: CompileSpec, executor: Executor) -> None:
        self.executor, self.graph = executor, graph
        lowered = lower(graph, spec, executor.count, chunked=executor.chunked, panels=executor.panels)
        changed = []
        if executor.checks:
            changed = [buffer.value for buffer in lowered.updates]
            changed += [*spec.update.arrays, spec.update.finite_so_far] if spec.update else []
            store_where_finite(lowered)
        if executor.fused:
            make_kernels(lowered)
        try:
            arena = plan_memory(lowered, executor)
        except OutOfMemory as error:
            raise DeviceError(f"{error}: {_smaller_batch(spec, error)}") from None
        self.size, self.shared = arena.size, arena.shared
        self.finite = arena.relocate(lowered.results.pop()) if executor.checks else None
        before = [value.copy() for value in changed]
        try:
            self._relocate(lowered, arena)
        finally:  # loading may run the calls once
            for value, old in zip(changed, before, strict=True):
                value[...] = old

    def _relocate(self, lowered: Lowering, arena: Arena) -> None:
        """Relocate all arrays to the arena, cut large products, and load the calls into the executor."""
        cut = self.executor.product_cut
        self.calls = [[cut_product(arena.relocate_call(call), cut) for call in tape.calls] for tape in lowered.tapes]
        self.owners = [tape.owners for tape in lowered.tapes]
        with self._named_failures():
            self._loaded = self.executor.load(self.calls)
        self.inputs = {name: arena.relocate(array) for name, array in lowered.inputs.items()}
        self._results = tuple(arena.relocate(array) for array in lowered.results)
        self._updates = {buffer: arena.relocate(array) for buffer, array in lowered.updates.items()}
        self.grads = {name: arena.relocate(array) for name, array in lowered.grads.items()}

    def run(self, feeds: Mapping[str, Any], pass_index: int, loaded: Any = None) -> tuple[Any, ...]:
        """Run one pass and return copies of the results; `grads` is valid until the next pass.

        Args:
            feeds: an array for each input, and each number of the update.
            pass_index: the number of the pass, for random nodes.
            loaded: calls, loaded by the executor, to run in place of the plan's own, such as these with clocks.

        Raises:
            DeviceError: in a fork of the process that compiled the plan: workers and memory are that process's.
        """
        if self.executor.process != os.getpid():
            raise DeviceError("this plan belongs to the process that forked this one: compile the graph again")
        with self.executor.lock, DeferSignals():
            for name, array in self.inputs.items():
                self.executor.write(array, feeds[name])
            with self._named_failures():
                self.executor.run(self._loaded if loaded is None else loaded, pass_index)
            return tuple(result.copy() for result in self._results)

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        """Name the node and direction of a call that an executor says has failed."""
        try:
            yield
        except CallFailed as failed:
            node, direction = self.owners[0][failed.number]
            path = f" of {node.path}" if node is not None and node.path else ""
            call = f"{self.calls[0][failed.number][0]} {failed.number}, {direction} of {node!r}{path}"
            raise DeviceError(f"{call}, failed on the GPU: {failed.reason}") from None

    def store_updates(self) -> None:
        """Write the new values into the buffers; nothing is left to do where the pass itself stores them."""
        for buffer, value in self._updates.items():
            buffer.value[...] = value


def compile_graph(graph: Graph, spec: CompileSpec, executor: Executor) -> Plan:
    """Rewrite a graph and return its plan; the arguments are those of `Plan`.

    A graph with an empty array is not rewritten: nothing is gained, and rules may assume a first sample or channel.
    """
    shapes = graph.shapes(spec.shapes)
    for leaf in graph.leaves.values():
        refuse_other_shape(leaf, tuple(shapes[leaf]))
    return Plan(rewrite(graph, RULES) if all(map(size, shapes.values())) else graph, spec, executor)


def lower(graph: Graph, spec: CompileSpec, workers: int, chunked: bool = True, panels: bool = False) -> Lowering:
    """Lower a graph for all workers, or for one where the batch is smaller than their number or cannot be split."""
    batch = min((spec.feeds[name][0][0] for name in spec.batched), default=0)
    try:
        return Lowering(graph, spec, workers if batch >= workers else 1, chunked=chunked, panels=panels)
    except NotShardable:
        return Lowering(graph, spec, 1, chunked=chunked, panels=panels)


def make_kernels(lowered: Lowering) -> None:
    """Replace the calls of a lowered graph by kernels, for an executor that runs these."""
    from nl_nodes.compiler.cuda.fuse import fuse  # here, as a run on a CPU never needs it: 40 ms

    fuse(lowered)


def _smaller_batch(spec: CompileSpec, error: OutOfMemory) -> str:
    """Return the advice where a plan does not fit; most of its memory grows with the batch."""
    batch = min((spec.feeds[name][0][0] for name in spec.batched), default=0)
    fits = batch * error.free // error.needed
    return f"a batch of about {fits} fits (trainer.batch_size={fits})" if fits else SMALLER


def plan_memory(lowered: Lowering, executor: Executor) -> Arena:
    """Record the live range of every block, then lay the blocks out in an arena."""
    for worker, tape in enumerate(lowered.tapes):
        rounds = accumulate(name == "barrier" for name, _ in tape.calls)
        for number, ((_, args), round_) in enumerate(zip(tape.calls, rounds, strict=True)):
            for array in args:
                if isinstance(array, np.ndarray):
                    record_use(lowered.memory, worker, number, round_, array)
    return Arena(lowered.memory, executor)
