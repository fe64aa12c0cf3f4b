"""Plans: the number of workers, inputs and results, and when a graph is rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from support.assertions import refused

from nl_nodes import Add, Buffer, Constant, Dot, Exp, Graph, Input, Leaf, Mul, Node, Parameter, Sum
from nl_nodes.compiler import CompileSpec, Executor, Plan, compile_graph
from nl_nodes.compiler import plan as plan_module
from nl_nodes.compiler.plan import lower
from nl_nodes.context import NotShardable
from nl_nodes.device.product_cut import CUTS
from nl_nodes.nodes.arithmetic import Elementwise
from nl_nodes.runtime import executor
from nl_nodes.runtime.call import CallFailed
from nl_nodes.runtime.cut import ProductCut
from nl_nodes.runtime.threads import Threads
from nl_nodes.typing import Shape

X = frozenset({"x"})


class Mixing(Elementwise, abstract=True):
    """A node that cannot be split over the batch."""

    def forward(self, ctx, *inputs):
        return inputs[0] * 1

    def backward(self, ctx, dy):
        return dy

    def batch_axis(self, shapes, axes):
        raise NotShardable


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape)


def loss(kind: type[Node] = Exp, shape: Shape | None = None) -> Graph:
    """A loss with a second output and a buffer that it updates."""
    mean, w = Buffer(np.zeros(4), "mean"), Parameter(values(3, 4), "w")
    y = Add(Dot(Input("x", shape, gradient=False), w), Parameter(values(4), "b"))
    return Graph(Sum(kind(y)), y, updates={mean: Add(mean, Sum(y, 0))})


def plan(
    graph: Graph, feeds: Mapping[str, Any], workers: Executor, batched: frozenset[str] = X, dtype: str = "float64"
) -> Plan:
    shapes = {name: (array.shape, dtype) for name, array in feeds.items()}
    grads = {
        name: np.full(leaf.value.shape, 9.0)
        for name, leaf in graph.leaves.items()
        if leaf.trainable and leaf.name != "x"
    }
    return compile_graph(graph, CompileSpec(shapes, batched, grads), workers)


@pytest.mark.parametrize(
    ("batch", "batched", "kind", "workers"),
    [(5, X, Exp, 2), (2, X, Exp, 2), (1, X, Exp, 1), (5, frozenset(), Exp, 1), (5, X, Mixing, 1)],
)
def test_workers_share_a_batch_that_is_large_enough(batch: int, batched: Any, kind: Any, workers: int) -> None:
    graph, feeds, two = loss(kind), {"x": values(batch, 3)}, executor("threads", 2)
    made = plan(graph, feeds, two, batched)
    assert len(made.calls) == len(made.owners) == workers
    assert all(made.calls)
    assert [len(calls) for calls in made.calls] == [len(owners) for owners in made.owners]
    check(made, graph, feeds)


class Noting(Exp):
    """Notes how its group wants it to work."""

    seen: ClassVar[set[tuple[bool, bool]]] = set()

    def forward(self, ctx, *inputs):
        self.seen.add((ctx.group.chunked, ctx.group.panels))
        return super().forward(ctx, *inputs)


class NotingMixing(Noting):
    def batch_axis(self, shapes, axes):
        raise NotShardable


@pytest.mark.parametrize("kind", [Noting, NotingMixing])
@pytest.mark.parametrize(("chunked", "cut"), [(True, None), (True, CUTS[0]), (False, None), (False, CUTS[0])])
def test_nodes_work_as_the_executor_wants(kind: type[Node], chunked: bool, cut: ProductCut | None) -> None:
    two = Threads(2, cut)
    two.chunked = chunked
    Noting.seen.clear()
    plan(loss(kind), {"x": values(5, 3)}, two)
    assert Noting.seen == {(chunked, cut is not None)}


def test_calls_between_two_barriers_are_of_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    record, found = plan_module.record_use, set()

    def note(memory, worker, number, round_, array):
        found.add((worker, number, round_))
        record(memory, worker, number, round_, array)

    monkeypatch.setattr(plan_module, "record_use", note)
    made = plan(loss(), {"x": values(5, 3)}, executor("threads", 2))
    names = [[name for name, _ in calls] for calls in made.calls]
    assert found == {
        (worker, number, calls[: number + 1].count("barrier"))
        for worker, calls in enumerate(names)
        for number, name in enumerate(calls)
        if name != "barrier"
    }
    assert max(round_ for *_, round_ in found) > 0


def test_the_smallest_batch_of_all_inputs_decides() -> None:
    graph = Graph(Add(Sum(Input("x")), Sum(Input("y"))))
    for rows, workers in ((1, 1), (2, 2)):
        feeds = {"x": ((4, 3), "float64"), "y": ((rows, 3), "float64")}
        assert len(lower(graph, CompileSpec(feeds, frozenset("xy")), 2).tapes) == workers


def check(made: Plan, graph: Graph, feeds: Mapping[str, Any]) -> None:
    """Assert that a plan gives the results and gradients of the reference."""
    for pass_index in range(2):
        found = made.run(feeds, pass_index)
        expected = graph.forward(**feeds)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
        for name, grad in graph.backward(np.ones(())).items():
            np.testing.assert_allclose(made.grads[name], grad, rtol=1e-12)


def test_buffers_change_only_in_store_updates() -> None:
    graph = loss()
    (buffer,) = graph.updates
    made = plan(graph, {"x": values(5, 3)}, Executor())
    _, y = made.run({"x": values(5, 3)}, 0)
    for times in (1, 2):
        made.run({"x": values(5, 3)}, 0)
        np.testing.assert_allclose(buffer.value, (times - 1) * y.sum(0), rtol=1e-12)
        made.store_updates()
        np.testing.assert_allclose(buffer.value, times * y.sum(0), rtol=1e-12)


def test_memory_does_not_grow_with_the_length_of_a_chain() -> None:
    """Neither that of each worker, nor that of all-reduced sums."""
    for link in (Exp, lambda x: Add(x, Sum(x))):
        for workers in (Executor(), executor("threads", 2)):
            sizes = []
            for length in (6, 20):
                node: Node = Input("x")
                for _ in range(length):
                    node = link(node)
                sizes.append(compile_graph(Graph(node), CompileSpec({"x": ((4, 3), "float64")}, X), workers).size)
            assert sizes[0] == sizes[1]


def test_results_are_copies() -> None:
    made = plan(loss(), {"x": values(5, 3)}, Executor())
    first = made.run({"x": values(5, 3)}, 0)
    before = [result.copy() for result in first]
    made.run({"x": 2 * values(5, 3)}, 1)
    assert all(map(np.array_equal, first, before))


def test_inputs_of_another_float_dtype_are_cast_and_complex_ones_refused() -> None:
    graph = Graph(Mul(Input("x"), Constant(np.float32(2))))
    made = compile_graph(graph, CompileSpec({"x": ((3,), "float32")}, X), Executor())
    (y,) = made.run({"x": values(3)}, 0)
    np.testing.assert_array_equal(y, 2 * values(3).astype("float32"))
    with pytest.raises(TypeError, match="cast"):
        made.run({"x": values(3) * 1j}, 0)


def test_other_loaded_calls_may_run_in_place_of_the_plans_own() -> None:
    one_worker, feeds = Executor(), {"x": values(5, 3)}
    made = plan(loss(), feeds, one_worker)
    loss_, y = made.run(feeds, 0)
    assert [r.tolist() for r in made.run({"x": 0 * feeds["x"]}, 0, one_worker.load([[]]))] == [loss_, y.tolist()]


def test_graphs_with_empty_arrays_are_not_rewritten() -> None:
    for rows, kinds in ((5, {"Affine", "Exp", "Sum", "Add"}), (0, {"Dot", "Exp", "Sum", "Add"})):
        graph, feeds = loss(shape=(rows, 3)), {"x": values(rows, 3)}
        made = plan(graph, feeds, Executor())
        assert {type(node).__name__ for node in made.graph.order if not isinstance(node, Leaf)} == kinds
        check(made, graph, feeds)


class Failing(Executor):
    """Two workers, of which a call fails."""

    count, number = 2, 0

    def run(self, loaded: Any, pass_index: int) -> None:
        """Say that call `number` has failed."""
        raise CallFailed(self.number, "out of order")


@pytest.mark.parametrize(("owned", "name"), [(True, "Dot"), (False, "None")])
def test_a_failed_call_is_named_by_its_node_if_it_has_one(owned: bool, name: str) -> None:
    workers, feeds = Failing(), {"x": values(6, 3)}
    failing = plan(loss(), feeds, workers)
    workers.number = next(i for i, (node, _) in enumerate(failing.owners[0]) if (node is not None) == owned)
    with refused(f" of {name}, failed on the GPU: out of order"):
        failing.run(feeds, 0)
