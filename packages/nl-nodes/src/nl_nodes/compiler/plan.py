"""The plan: a graph for one shape of inputs as flat lists of calls on prebuilt views of one arena."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np

from nl_nodes.compiler.lower.arena import Arena
from nl_nodes.compiler.lower.lower import Lowering
from nl_nodes.compiler.lower.memory import record_use
from nl_nodes.compiler.rewrite.engine import rewrite
from nl_nodes.compiler.rewrite.rules import RULES
from nl_nodes.errors import DeviceError
from nl_nodes.graph import Graph
from nl_nodes.node import NotShardable
from nl_nodes.runtime import Executor
from nl_nodes.shapes import size
from nl_nodes.signals import DeferSignals
from nl_nodes.typing import Shape


class Plan:
    """A graph, compiled for inputs of one shape.

    Args:
        graph: what is run.
        feeds: shape and dtype of each input.
        samples: the inputs whose first axis is that of the samples, which the workers share.
        gradients: arrays that take the leaves' gradients, where those are wanted; the upstream gradient is 1.
        team: who does the work.

    Attributes:
        graph: what is run.
        calls: each worker's calls; run in order, they are the pass.
        owners: for which node each of them is, and in which direction.
        size: bytes of the arena.
        grads: the leaves' gradients, valid until the next pass.
    """

    def __init__(
        self,
        graph: Graph,
        feeds: Mapping[str, tuple[Shape, Any]],
        batched: frozenset[str],
        gradients: Mapping[str, Any] | None,
        executor: Executor,
    ) -> None:
        self.executor, self.graph = executor, graph
        lowered = lower(graph, feeds, batched, gradients, executor.count)
        for worker, tape in enumerate(lowered.tapes):
            rounds = accumulate(name == "barrier" for name, _ in tape.calls)
            for number, ((_, args), round_) in enumerate(zip(tape.calls, rounds, strict=True)):
                for array in args:
                    if isinstance(array, np.ndarray):
                        record_use(lowered.memory, worker, number, round_, array)
        arena = Arena(lowered.memory, executor)
        self.size = arena.size
        self.calls = [[arena.relocate_call(call) for call in tape.calls] for tape in lowered.tapes]
        self.owners = [tape.owners for tape in lowered.tapes]
        self._loaded = executor.load(self.calls)
        self._inputs = {name: arena.relocate(array) for name, array in lowered.inputs.items()}
        self._results = tuple(arena.relocate(array) for array in lowered.results)
        self._updates = {buffer: arena.relocate(array) for buffer, array in lowered.updates.items()}
        self.grads = {name: arena.relocate(array) for name, array in lowered.grads.items()}

    def run(self, feeds: Mapping[str, Any], pass_index: int, loaded: Any = None) -> tuple[Any, ...]:
        """One pass; the results are the caller's own, the gradients stay valid until the next pass.

        Args:
            feeds: an array for each input.
            pass_index: which pass this is, for random nodes.
            loaded: what the team runs in place of the plan's own lists, such as these with clocks in them.

        Raises:
            DeviceError: in a fork of the process that compiled it, whose workers and memory it uses.
        """
        if self.executor.process != os.getpid():
            raise DeviceError("this plan belongs to the process that forked this one: compile the graph again")
        with self.executor.lock, DeferSignals():
            for name, place_ in self._inputs.items():
                np.copyto(place_, feeds[name])
            self.executor.run(self._loaded if loaded is None else loaded, pass_index)
            return tuple(result.copy() for result in self._results)

    def store_updates(self) -> None:
        """Write the new values of the buffers."""
        for buffer, value in self._updates.items():
            buffer.value[...] = value


def compile_graph(
    graph: Graph,
    feeds: Mapping[str, tuple[Shape, Any]],
    batched: frozenset[str],
    gradients: Mapping[str, Any] | None,
    executor: Executor,
) -> Plan:
    """The plan of a graph that the rules have rewritten; the arguments are those of `Plan`.

    Where an array is empty there is nothing to gain, and a rule may count on a first sample or channel: such a graph is
    run as it is.
    """
    shapes = graph.shapes({name: shape for name, (shape, _) in feeds.items()}).values()
    return Plan(rewrite(graph, RULES) if all(map(size, shapes)) else graph, feeds, batched, gradients, executor)


def lower(
    graph: Graph,
    feeds: Mapping[str, tuple[Shape, Any]],
    batched: frozenset[str],
    gradients: Mapping[str, Any] | None,
    workers: int,
) -> Lowering:
    """The recording for all workers, or for one where the samples are too few or cannot be shared."""
    batch = min((feeds[name][0][0] for name in batched), default=0)
    try:
        return Lowering(graph, feeds, batched, workers if batch >= workers else 1, gradients)
    except NotShardable:
        return Lowering(graph, feeds, batched, 1, gradients)
