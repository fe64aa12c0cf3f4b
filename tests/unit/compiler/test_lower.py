"""Lowering for one worker and several: the reference's values in any order of workers, and no superfluous call."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, chain, groupby, pairwise, product
from math import prod
from typing import Any

import numpy as np
import pytest
from support.fused_contract import TurnExecutor
from support.lowering_graphs import (
    ON_MAPS,
    ON_ROWS,
    N,
    Tail,
    doubled_chain,
    first_convolution,
    held,
    layers,
    nothing_to_train,
    residual_block,
    residual_chain,
    x,
)

from nl_nodes import Dot, Exp, Graph, Input, Leaf, Max, Mul, Node, Parameter, Plan, Sum, Tanh
from nl_nodes.compiler.fused import Conv, Normalize, ZeroPad
from nl_nodes.compiler.lower import lower as lowering
from nl_nodes.compiler.lower.lower import CompileSpec
from nl_nodes.compiler.lower.memory import Memory
from nl_nodes.compiler.lower.trace import Tape
from nl_nodes.compiler.lower.traced_worker import TracedWorker

rng = np.random.default_rng(1)


class NanExecutor(TurnExecutor):
    """Workers whose memory is NaN until it is written."""

    def memory(self, size: int) -> Any:
        """Return bytes with all bits set: NaN."""
        return np.full(size, 255, np.uint8)


def shapes(graph: Graph, kind: type[Leaf]) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in graph.leaves.items() if isinstance(leaf, kind)}


def one_buffer(graph: Graph, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Views of one buffer, side by side."""
    found = shapes(graph, Parameter)
    ends = list(accumulate(map(prod, found.values()), initial=0))
    flat = np.full(ends[-1], np.nan, dtype)
    places = zip(found.items(), pairwise(ends), strict=True)
    return {name: flat[start:end].reshape(shape) for (name, shape), (start, end) in places}


def separate(graph: Graph) -> dict[str, np.ndarray]:
    return {name: np.full(shape, np.nan) for name, shape in shapes(graph, Parameter).items()}


def fortran(graph: Graph) -> dict[str, np.ndarray]:
    """Arrays in Fortran order."""
    return {name: np.full(shape[::-1], np.nan).T for name, shape in shapes(graph, Parameter).items()}


def of_the_plan(graph: Graph) -> dict[str, np.ndarray]:
    return {}


def planned(graph: Graph, workers: int, targets: Any, dtype: str = "float64") -> Plan:
    """Return the plan of a graph without rewriting; memory is zeroed for nodes that ask for persistent zeros."""
    feeds = {name: (shape, np.dtype(dtype)) for name, shape in shapes(graph, Input).items()}
    executor = TurnExecutor if any(isinstance(node, Conv | ZeroPad | Tail) for node in graph.order) else NanExecutor
    return Plan(graph, CompileSpec(feeds, frozenset(feeds) - {"beside"}, targets), executor(workers))


# The arrays of the gradients, and the size from which on a gradient is reduced on its own.
TARGETS = [
    (one_buffer, 2**20), (one_buffer, 13), (one_buffer, 1), (separate, 2**20), (separate, 1), (fortran, 2**20),
    (fortran, 1), (of_the_plan, 1),
]  # fmt: skip


@pytest.mark.parametrize(("make", "workers"), [*product(ON_ROWS, (3, 1)), *product(ON_MAPS, (2, 1))])
def test_a_plan_equals_the_reference(make: Callable[[], Graph], workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On different values in each pass, whichever worker runs first."""
    graph = make()
    for targets, large in TARGETS:
        monkeypatch.setattr(lowering, "REDUCE_ALONE_MIN_SIZE", large)
        given = targets(graph)
        plan = planned(graph, workers, given)
        assert len(plan.calls) == workers
        assert all(plan.grads[name].ctypes.data == grad.ctypes.data for name, grad in given.items() if grad.size)
        for plan.executor.first in range(workers):
            check(plan, graph)


def check(plan: Plan, graph: Graph) -> None:
    feeds = {name: rng.standard_normal(shape) for name, shape in shapes(graph, Input).items()}
    graph.passes += 1
    run = graph.run(**feeds)
    found, expected = list(plan.run(feeds, graph.passes)), list(run.results)
    assert list(plan._updates) == list(run.updates)
    found += plan._updates.values()
    expected += run.updates.values()
    grads = run.backward(np.ones(()))
    assert list(plan.grads) == list(grads)
    found += plan.grads.values()
    expected += grads.values()
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max(initial=1e-3))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_may_be_written_to_arrays_of_another_dtype(dtype: str, workers: int) -> None:
    graph = of_dtype(layers(), dtype)
    feeds = {"x": rng.standard_normal((N, 3)).astype(dtype)}
    alike = {name: grad.astype(dtype) for name, grad in separate(graph).items()}
    others = {name: grad.astype("float32" if dtype == "float64" else "float64") for name, grad in alike.items()}
    for given in (alike, others):
        planned(graph, workers, given, dtype).run(feeds, 0)
    for name, grad in others.items():
        np.testing.assert_allclose(grad, alike[name], rtol=0, atol=1e-6 * np.abs(alike[name]).max())


def of_dtype(graph: Graph, dtype: str) -> Graph:
    """Cast the parameters of a graph."""
    for leaf in graph.leaves.values():
        if isinstance(leaf, Parameter):
            leaf.value = leaf.value.astype(dtype)
    return graph


def test_a_graph_that_cannot_be_sharded_has_one_worker() -> None:
    rows = x()
    graph = Graph(Sum(Mul(rows, Max(rows, axis=0))))
    plan = planned(graph, 3, {})
    assert len(plan.calls) == 1
    check(plan, graph)


@pytest.mark.parametrize("make", [layers, nothing_to_train])
def test_a_plan_without_gradients_has_no_backward(make: Callable[[], Graph]) -> None:
    plan = planned(make(), 2, None)
    assert plan.grads == {}
    assert {direction for owners in plan.owners for _, direction in owners} == {"forward"}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_shards_differ_by_at_most_one_item(count: int) -> None:
    shares = [TracedWorker(Tape(Memory()), number, 3, 0, {}).shard(count) for number in range(3)]
    assert [i for share in shares for i in range(count)[share]] == list(range(count))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1


# Calls of all workers, barriers, and bytes of the arena: of one worker and of two.
COUNTS = {
    "layers": ((20, 0, 1216), (49, 2, 1536)),
    "partial_and_replicated": ((18, 0, 1344), (50, 3, 1984)),
    "replicated": ((8, 0, 768), (23, 2, 1152)),
    "gradients_in_one_array": ((12, 0, 1216), (36, 3, 1664)),
    "gradients_as_views": ((14, 0, 960), (39, 3, 1344)),
    "gradient_in_another_order": ((9, 0, 768), (24, 2, 1152)),
    "gradient_in_persistent_memory": ((11, 0, 1024), (28, 2, 1664)),
    "without_gradient": ((10, 0, 896), (32, 3, 1344)),
    "nothing_to_train": ((4, 0, 384), (15, 2, 576)),
    "scalar_parameter": ((14, 0, 1216), (37, 2, 1600)),
    "empty_parameter": ((14, 0, 1024), (43, 3, 1408)),
    "input_without_batch_axis": ((12, 0, 1472), (36, 3, 2048)),
    "input_named_constant": ((8, 0, 1088), (23, 2, 1344)),
    "batch_last": ((13, 0, 1792), (35, 2, 2048)),
    "sums_over_the_batch": ((23, 0, 1344), (70, 5, 2048)),
    "two_sums_in_one_node": ((17, 0, 1344), (53, 4, 2112)),
    "updates": ((15, 0, 1152), (48, 4, 1536)),
    "dropout": ((23, 0, 1920), (55, 2, 2304)),
    "several_uses": ((13, 0, 1344), (33, 2, 1728)),
    "statistics": ((25, 0, 4480), (69, 4, 5248)),
    "normalised": ((52, 0, 6144), (131, 5, 7872)),
    "residual_block": ((124, 0, 31680), (303, 13, 50880)),
    "residual_chain": ((214, 0, 35584), (521, 26, 92480)),
    "padded": ((13, 0, 21312), (35, 2, 21504)),
    "kernels_split": ((53, 0, 46272), (135, 12, 83264)),
    "replicated_maps": ((32, 0, 31104), (71, 2, 73856)),
}


@pytest.mark.parametrize("make", [*ON_ROWS, *ON_MAPS])
def test_a_plan_has_no_call_barrier_or_byte_more_than_before(make: Callable[[], Graph]) -> None:
    """For one worker and for two. A change that needs fewer updates the figures above."""
    found = []
    for workers in (1, 2):
        graph = make()
        plan = planned(graph, workers, one_buffer(graph))
        found.append((sum(map(len, plan.calls)), [name for name, _ in plan.calls[0]].count("barrier"), plan.size))
    assert tuple(found) == COUNTS[make.__name__]


def calls_of(plan: Plan, wanted: str) -> list[tuple[str, Node | None]]:
    """Return the name and the node of each call of a direction."""
    pairs = zip(chain(*plan.calls), chain(*plan.owners), strict=True)
    return [(name, node) for (name, _), (node, direction) in pairs if direction == wanted]


def sums(graph: Graph) -> list[Node]:
    return [node for node in graph.order if isinstance(node, Normalize)]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("make", "times"), [(residual_block, (1, 0)), (residual_chain, (3, 2, 1)), (doubled_chain, (3, 2, 1))]
)
def test_a_large_normalisation_is_computed_again(
    workers: int, make: Callable[[], Graph], times: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = make()
    usual = planned(graph, workers, one_buffer(graph))
    monkeypatch.setattr(lowering, "RECOMPUTE_MIN_BYTES", 1)
    plan = planned(graph, workers, one_buffer(graph))
    again = [node for call, node in calls_of(plan, "backward") if call == "maximum"]
    # Once for the convolution that reads it, though a sum reads it too, and once for each later one in a chain.
    assert [again.count(node) for node in sums(graph)] == [workers * count for count in times]
    assert not any(call == "maximum" for call, _ in calls_of(usual, "backward"))
    same_results(usual, plan, graph)
    check(plan, graph)


def same_results(one: Plan, other: Plan, graph: Graph) -> None:
    feeds = {name: rng.standard_normal(shape) for name, shape in shapes(graph, Input).items()}
    for y, z in zip(one.run(feeds, 0), other.run(feeds, 0), strict=True):
        assert np.array_equal(y, z)
    assert all(np.array_equal(one.grads[name], grad) for name, grad in other.grads.items())


def test_a_large_convolution_of_few_channels_is_computed_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = first_convolution()
    usual = planned(graph, 2, one_buffer(graph))
    monkeypatch.setattr(lowering, "RECOMPUTE_MIN_BYTES", 1)
    plan = planned(graph, 2, one_buffer(graph))
    first = next(node for node in graph.order if isinstance(node, Conv))
    forward, before, after = (
        [name for name, node in calls_of(one, direction) if node is first]
        for one, direction in ((plan, "forward"), (usual, "backward"), (plan, "backward"))
    )
    assert len(after) == len(before) + len(forward) > len(before)
    same_results(usual, plan, graph)
    check(plan, graph)


def test_without_chunks_a_convolution_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = first_convolution()
    first = next(node for node in graph.order if isinstance(node, Conv))
    spec = CompileSpec({"x": ((2, 3, 2, 2), np.dtype("float64"))}, gradients={})
    counts = []
    for least in (lowering.RECOMPUTE_MIN_BYTES, 1):
        monkeypatch.setattr(lowering, "RECOMPUTE_MIN_BYTES", least)
        (tape,) = lowering.Lowering(graph, spec, 1, chunked=False).tapes
        counts.append(tape.owners.count((first, "backward")))
    assert counts[0] == counts[1] > 0


def test_of_a_long_chain_of_sums_every_fifth_value_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "RECOMPUTE_MIN_BYTES", 1)
    graph = residual_chain(9)
    plan = planned(graph, 1, one_buffer(graph))
    again = {node for call, node in calls_of(plan, "backward") if call == "maximum"}
    assert [node in again for node in sums(graph)] == [True, True, True, True, False] * 2


def test_what_a_value_computed_again_takes_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "RECOMPUTE_MIN_BYTES", 1)
    graph = residual_chain()
    lowered = lowering.Lowering(graph, CompileSpec({"x": ((2, 16, 2, 2), np.dtype("float64"))}, gradients={}), 1)
    (tape,) = lowered.tapes
    pairs = zip(tape.calls, tape.owners, strict=True)
    backward = [(node, name, args) for (name, args), (node, direction) in pairs if direction == "backward"]

    def readers(y: Any) -> set[Node]:
        arrays = [(node, a) for node, _, args in backward for a in args[:-1] if isinstance(a, np.ndarray)]
        return {node for node, a in arrays if lowered.memory.block(a) is lowered.memory.block(y)}

    made = [(node, readers(args[-1]) - {node}) for node, name, args in backward if name == "maximum"]
    first, second, third = sums(graph)
    one, two, three = (node for node in graph.order if isinstance(node, Conv))
    on_the_way = [(first, {second}), (second, {third})]
    assert made == [*on_the_way, (third, {three}), (first, {second}), (second, {two}), (first, {one})]
    last = {node: args[-1] for node, name, args in backward if name == "maximum"}
    masks = {node: args[0] for node, name, args in backward if name == "greater"}  # a node's own backward reads it
    assert all(lowered.memory.block(masks[node]) is lowered.memory.block(last[node]) for node in sums(graph))


def test_an_axis_of_one_element_is_not_broadcast() -> None:
    row = np.zeros(3)
    assert not lowering._is_broadcast(row[None])
    assert lowering._is_broadcast(np.broadcast_to(row, (2, 3)))


def test_each_call_has_its_nodes_owner() -> None:
    graph = layers()
    plan = planned(graph, 2, one_buffer(graph))
    for owners in plan.owners:
        runs = [(type(node).__name__, direction) for (node, direction), _ in groupby(owners)]
        names = [type(node).__name__ for node in graph.order if not isinstance(node, Leaf)]
        assert runs == [
            *((name, "forward") for name in names),
            *((name, "backward") for name in reversed(names)),
            ("Input", "backward"),
            ("NoneType", "backward"),
        ]


def test_gathering_a_result_belongs_to_its_node() -> None:
    rows = x()
    plan = planned(Graph(Sum(rows), Exp(rows)), 2, None)
    runs = [type(node).__name__ for (node, _), _ in groupby(plan.owners[0])]
    assert runs == ["Sum", "Exp", "Sum", "Exp"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("large", "barriers", "added"),
    [(27, 1, "-"), (26, 1, "----"), (13, 1, "----"), (12, 2, "wwww"), (8, 3, "vvww"), (3, 4, "vvbw"), (1, 5, "avbw")],
)
def test_large_gradients_are_reduced_as_soon_as_they_are_complete(
    dtype: str, large: int, barriers: int, added: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones are reduced in one addition at the end; here are 2 + 8 + 4 + 12 elements."""
    monkeypatch.setattr(lowering, "REDUCE_ALONE_MIN_SIZE", large)
    graph = of_dtype(layers(), dtype)
    plan = planned(graph, 2, one_buffer(graph, dtype), dtype)
    for calls, owners in zip(plan.calls, plan.owners, strict=True):
        names = [name for (name, _), (_, direction) in zip(calls, owners, strict=True) if direction == "backward"]
        assert names.count("barrier") == barriers
        leaves = [node for (name, _), (node, _) in zip(calls, owners, strict=True) if name == "add"]
        assert "".join("-" if n is None else n.name for n in leaves if n is None or isinstance(n, Leaf)) == added


def test_the_memory_of_large_partial_gradients_is_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for large in (2**20, 100):
        monkeypatch.setattr(lowering, "REDUCE_ALONE_MIN_SIZE", large)
        y = x()
        for number in range(8):
            y = Tanh(Dot(y, held(f"w{number}", y.shape[1], 40)))
        graph = Graph(Sum(y))
        sizes.append(planned(graph, 2, one_buffer(graph)).size)
    assert sizes[1] < sizes[0] / 2


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("option", ["chunked", "panels"])
def test_nodes_work_in_chunks_and_with_panels_where_asked_for(option: str, given: bool) -> None:
    worker = TracedWorker(Tape(Memory()), 0, 2, 4, {}, **{option: given})
    assert (getattr(worker, option), getattr(worker.single(), option)) == (given, given)
