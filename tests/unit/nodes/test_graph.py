"""The graph: one run of each node per pass, accumulated gradients, independent passes, inferred shapes."""

import tracemalloc

import numpy as np
import pytest
from support.node_cases import Counting

from nl_nodes import (
    Add,
    AddConst,
    Buffer,
    Constant,
    Dot,
    Exp,
    Graph,
    Img2Matrix,
    IndexMask,
    Input,
    Mul,
    MulConst,
    Parameter,
    Power,
    Reshape,
    ShapeError,
    StopGradient,
    Sum,
    Transpose,
    UserError,
)
from nl_nodes.compiler import CompileSpec
from nl_nodes.compiler.plan import lower
from nl_nodes.node import assign_scope


def test_a_shared_node_runs_once_each_way() -> None:
    shared = Counting(Input("x"))
    node = shared
    for _ in range(16):
        node = Add(node, node)
    graph = Graph(node)
    assert graph.forward(x=np.ones(1)) == 2.0**16
    assert graph.backward(np.ones(1))["x"] == 2.0**16
    assert shared.calls == [1, 1]


def test_gradients_of_a_diamond_accumulate() -> None:
    a = Input("a")
    b = Add(a, a)
    graph = Graph(Add(b, b))
    graph.forward(a=np.array([3.0]))
    assert graph.backward(np.array([1.0]))["a"] == 4.0


def test_backward_twice_gives_the_same() -> None:
    graph = Graph(Exp(Mul(Input("x"), Input("y"))))
    graph.forward(x=np.array([0.5, 1.0]), y=np.array([2.0, -1.0]))
    first, second = (graph.backward(np.array([1.0, 3.0])) for _ in range(2))
    for name in "xy":
        np.testing.assert_array_equal(first[name], second[name])


def test_two_passes_do_not_disturb_each_other() -> None:
    graph = Graph(Mul(Input("x"), Input("x2")))
    one = graph.run(x=np.array([2.0]), x2=np.array([3.0]))
    two = graph.run(x=np.array([5.0]), x2=np.array([7.0]))
    assert one.backward(np.ones(1))["x"] == 3.0
    assert two.backward(np.ones(1))["x"] == 7.0


def test_gradients_alias_nothing() -> None:
    graph = Graph(Add(Input("a"), Input("b")))
    graph.forward(a=np.ones(3), b=np.ones(3))
    dy = np.ones(3)
    grads = graph.backward(dy)
    assert not np.shares_memory(grads["a"], dy)
    assert not np.shares_memory(grads["a"], grads["b"])


def test_several_outputs_each_with_a_gradient() -> None:
    x = Input("x")
    graph = Graph(MulConst(x, 2), MulConst(x, 10))
    a, b = graph.forward(x=np.ones(2))
    assert (a.tolist(), b.tolist()) == ([2, 2], [10, 10])
    assert graph.backward(np.ones(2), np.ones(2))["x"].tolist() == [12, 12]
    assert graph.backward(None, np.ones(2))["x"].tolist() == [10, 10]


def test_an_unused_path_has_a_zero_gradient_and_buffers_none() -> None:
    graph = Graph(Add(Mul(Input("x"), Buffer(np.full(2, 3.0), "r")), MulConst(Input("y"), 0)))
    graph.forward(x=np.ones(2), y=np.ones(2))
    grads = graph.backward(np.ones(2))
    assert grads["x"].tolist() == [3, 3]
    assert grads["y"].tolist() == [0, 0]
    assert set(grads) == {"x", "y"}


def test_each_output_may_have_an_upstream_gradient_or_none() -> None:
    x, y = Input("x"), Input("y")
    first, second = Counting(x), Counting(y)
    graph = Graph(first, second)
    graph.forward(x=np.ones(2, "float32"), y=np.ones(2, "float32"))
    for dys, expected in (([[2, 3]], ([2, 3], [0, 0])), ([None, [5, 7]], ([0, 0], [5, 7])), ([], ([0, 0], [0, 0]))):
        grads = graph.backward(*dys)
        assert (grads["x"].tolist(), grads["y"].tolist()) == expected
        assert {grad.dtype for grad in grads.values()} == {np.dtype("float32")}
    assert (first.calls, second.calls) == ([1, 1], [1, 1])  # none where no gradient comes from above


def test_an_output_or_a_new_value_may_be_used_further() -> None:
    x, held = Input("x"), Buffer(np.ones(1), "held")
    double = MulConst(x, 2)
    new = Add(held, double)
    graph = Graph(double, MulConst(double, 10), MulConst(new, 100), held, updates={held: new})
    assert [y.tolist() for y in graph.forward(x=np.ones(1))] == [[2], [20], [300], [1]]
    assert held.value.tolist() == [3]
    assert graph.backward(np.ones(1), np.ones(1), np.ones(1))["x"] == 2 + 20 + 200


def test_nothing_is_differentiated_where_no_gradient_is_wanted() -> None:
    held, stopped = Counting(Buffer(np.ones(2), "held")), Counting(Input("x"))
    fed = Counting(Input("labels", gradient=False))
    graph = Graph(Add(Add(held, StopGradient(stopped)), Mul(fed, Parameter(np.ones(2), "w"))))
    graph.forward(x=np.ones(2), labels=np.full(2, 3.0))
    assert {name: grad.tolist() for name, grad in graph.backward(np.ones(2)).items()} == {"x": [0, 0], "w": [3, 3]}
    assert [node.calls for node in (held, stopped, fed)] == [[1, 0]] * 3


def test_an_upstream_array_keeps_its_dtype_and_numbers_take_the_outputs() -> None:
    graph = Graph(MulConst(Input("x"), 2))
    graph.forward(x=np.ones(2, "float32"))
    for dy, dtype in ((np.full(2, 1 / 3), "float64"), (np.full(2, 1j), "complex128"), ([1.0, 2.0], "float32")):
        dx = graph.backward(dy)["x"]
        assert dx.dtype == dtype
        np.testing.assert_array_equal(dx, 2 * np.asarray(dy))


class Summed(np.ndarray):
    """Counts how often it is summed."""

    sums = 0

    def sum(self, *args, **kwargs):
        Summed.sums += 1
        return super().sum(*args, **kwargs)


def test_only_gradients_that_are_wanted_are_summed_over_what_was_broadcast() -> None:
    graph = Graph(Add(Add(Input("x"), Buffer(np.ones(4), "shift")), Parameter(np.ones(4), "b")))
    graph.forward(x=np.ones((3, 4)))
    assert graph.backward(np.ones((3, 4)).view(Summed))["b"].tolist() == [3] * 4
    assert Summed.sums == 1


class Returning(Add, abstract=True):
    """An addition of some other gradients."""

    def __init__(self, *inputs, gradients) -> None:
        super().__init__(*inputs)
        self.gradients = gradients

    def backward(self, ctx, dy):
        return self.gradients


def test_a_node_may_have_no_gradient_for_an_input_but_none_of_another_shape() -> None:
    x, y = Input("x", (2, 1)), Input("y", (2, 1))
    node = Returning(x, y, gradients=(np.full((2, 1), 5.0), None))
    graph = Graph(node)
    graph.forward(x=np.ones((2, 1)), y=np.ones((2, 1)))
    assert {name: dx.tolist() for name, dx in graph.backward(np.ones((2, 1))).items()} == {
        "x": [[5], [5]],
        "y": [[0], [0]],
    }
    node.gradients, node.broadcasts = (np.ones((2, 3)), None), False
    with pytest.raises(ShapeError, match=r"gradient \(2, 3\) for an input \(2, 1\)"):
        graph.backward(np.ones((2, 1)))
    spec = CompileSpec({"x": ((2, 1), "float64"), "y": ((2, 1), "float64")}, gradients={})
    with pytest.raises(ShapeError, match=r"gradient \(2, 3\) for an input \(2, 1\)"):
        lower(graph, spec, workers=1)


class Witness(AddConst, abstract=True):
    """Records what the graph passes to it and saves for its backward."""

    def forward(self, ctx, *inputs):
        self.given, self.ctx = inputs, ctx
        return super().forward(ctx, *inputs)


def test_a_node_gets_the_arrays_themselves_and_saves_only_the_declared_ones() -> None:
    x, labels = np.ones((2, 3)), np.ones((2, 3))
    for saves, gradient in (((), True), (("inputs",), True), (("output",), True), (("inputs", "output"), False)):
        node = Witness(Input("x", gradient=gradient), 1)
        node.saves = saves
        done = Graph(node, Input("labels")).run(x=x, labels=labels)
        assert node.given[0] is x
        assert (node.ctx.shapes, node.ctx.needs) == (((2, 3),), (gradient,))
        assert node.ctx.group.global_batch(7) == 7  # a single worker
        saved = [name for name in ("inputs", "output") if hasattr(node.ctx, name)]
        assert saved == (list(saves) if gradient else [])
        assert not any(np.shares_memory(y, given) for y, given in zip(done.results, (x, labels), strict=True))


def test_a_pass_frees_each_array_after_its_last_use() -> None:
    node, x = Input("x"), np.zeros(1 << 15)
    for _ in range(8):
        node = AddConst(node, 1)
    graph = Graph(node)
    tracemalloc.start()
    try:
        graph.run(x=x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * x.nbytes  # what a node takes and what it gives


def test_passes_are_counted_and_may_be_replayed() -> None:
    graph, x = Graph(IndexMask(Input("x"), 0.5)), np.ones(64)
    first, second = graph.forward(x=x), graph.forward(x=x)
    assert (first != second).any()
    assert graph.passes == 2
    for passes, expected in ((0, first), (1, second)):
        graph.passes = passes
        np.testing.assert_array_equal(graph.run(x=x).results[0], expected)


def test_constants_are_fed_by_no_name_and_inputs_may_be_lists() -> None:
    graph = Graph(Mul(Input("constant"), Constant(np.full(2, 3.0))))
    assert graph.forward(constant=[1.0, 2.0]).tolist() == [3, 6]
    assert {name: grad.tolist() for name, grad in graph.backward([1.0, 1.0]).items()} == {"constant": [3, 3]}


def test_updates_are_stored_by_forward_and_not_by_run() -> None:
    running = Buffer(np.zeros(2), "running")
    x = Input("x")
    graph = Graph(x, updates={running: Add(running, x)})
    graph.run(x=np.ones(2))
    assert running.value.tolist() == [0, 0]
    graph.forward(x=np.ones(2))
    graph.forward(x=np.ones(2))
    assert running.value.tolist() == [2, 2]


def test_a_parameter_is_held_by_reference_and_may_be_replaced_in_one_pass() -> None:
    w = np.array([[2.0]])
    graph = Graph(Dot(Input("x"), Parameter(w, name="w")))
    assert graph.forward(x=np.ones((1, 1))) == 2
    w *= 2
    assert graph.forward(x=np.ones((1, 1))) == 4
    assert graph.forward(x=np.ones((1, 1)), w=np.array([[7.0]])) == 7
    assert graph.forward(x=np.ones((1, 1))) == 4
    shifted = Graph(Add(Input("x"), Buffer(np.ones(1), "shift")))
    assert [shifted.forward(x=np.ones(1), **fed) for fed in ({"shift": np.full(1, 5.0)}, {})] == [6, 2]


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_dtype_flows_through(dtype: str) -> None:
    graph = Graph(Sum(Exp(MulConst(Add(Input("x"), AddConst(Input("y"), 1)), 0.5)), axis=0))
    x, y = np.ones((2, 3), dtype), np.ones((1, 3), dtype)
    out = graph.forward(x=x, y=y)
    assert out.dtype == dtype
    assert {g.dtype for g in graph.backward(out).values()} == {np.dtype(dtype)}


def test_shapes_are_told_without_running() -> None:
    node = Reshape(Transpose(Img2Matrix(Input("x"), 3, 3), (3, 0, 1, 2)), (0, -1))
    assert Graph(node).shapes({"x": (2, 3, 5, 6)})[node] == (2, 27 * 12)
    assert Transpose(Input("x", shape=(2, 3, 4)), (2, 0, 1)).shape == (4, 2, 3)
    product = Dot(Input("x"), Parameter(np.ones((3, 4)), name="w"))
    assert Graph(product).shapes({"x": (2, 3)})[product] == (2, 4)
    assert Graph(product).shapes({"x": (2, 3), "w": (3, 5)})[product] == (2, 5)


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (lambda: Add(Input("a", (2, 3)), Input("b", (4,))), ["(2, 3)", "(4,)"]),
        (lambda: Dot(Input("a", (2, 3)), Input("b", (4, 5))), ["(2, 3)", "(4, 5)"]),
        (lambda: Reshape(Input("a", (2, 3)), (4, -1)), ["(2, 3)", "(4, -1)"]),
        (lambda: Reshape(Input("a", (2, 3)), (0, 0, 0)), ["(2, 3)", "(0, 0, 0)"]),
        (lambda: Transpose(Input("a", (2, 3)), (0, 0)), ["(2, 3)", "(0, 0)"]),
        (lambda: Img2Matrix(Input("a", (1, 2, 3, 3)), 5, 5), ["(1, 2, 3, 3)", "5x5"]),
        (lambda: Img2Matrix(Input("a", (2, 3)), 2, 2), ["(2, 3)"]),
        (lambda: Sum(Input("a", (2, 3)), axis=2), ["axis 2"]),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_all_of_them(build, shapes: list[str]) -> None:
    with pytest.raises(ShapeError) as error:
        build()
    assert all(shape in str(error.value) for shape in shapes), error.value


def test_wrong_calls_are_refused_with_the_fix() -> None:
    graph = Graph(Add(Input("a"), Input("b", shape=(2,))))
    with pytest.raises(UserError, match="no input 'c'"):
        graph.forward(a=1, b=1, c=1)
    with pytest.raises(UserError, match="'b' is not fed"):
        graph.forward(a=np.ones(2))
    with pytest.raises(ShapeError, match=r"\(2,\), got \(3,\)"):
        graph.forward(a=np.ones(2), b=np.ones(3))
    with pytest.raises(UserError, match="run forward first"):
        graph.backward(np.ones(2))
    with pytest.raises(UserError, match="two leaves"):
        Graph(Add(Input("a"), Input("a")))
    graph.forward(a=np.ones(2), b=np.ones(2))
    with pytest.raises(ShapeError, match="upstream"):
        graph.backward(np.ones(3))
    with pytest.raises(UserError, match="p = 0"):
        Power(Input("a"), 0)


def test_a_scope_ends_at_nodes_that_have_one() -> None:
    x = Input("x")
    below = Exp(x)
    middle = MulConst(below, 2)
    beside = AddConst(below, 1)
    top = Add(middle, beside)
    unread = iter([top])
    assign_scope(unread, "")  # returns at once: it would follow every path down to a node
    assert list(unread) == [top]
    assign_scope([middle], "first")
    assign_scope([top], "second")
    assign_scope([top], "third")
    assert [node.path for node in (x, below, middle, beside, top)] == ["", "first", "first", "second", "second"]


def test_the_same_operation_on_other_inputs_or_with_other_settings() -> None:
    x, y = Input("x", (2, 3)), Input("y", (4, 3))
    node = MulConst(x, 2)
    other, larger = node.replace([y]), node.replace(c=5)
    assert (other.inputs, other.shape, other.attributes) == ((y,), (4, 3), {"c": 2})
    assert (larger.inputs, larger.shape, larger.attributes) == ((x,), (2, 3), {"c": 5})
    assert (node.inputs, node.shape, node.attributes) == ((x,), (2, 3), {"c": 2})


def test_a_shape_is_known_once_all_inputs_are() -> None:
    known, unknown = Input("x", (2, 3)), Input("y")
    assert Add(known, known).shape == (2, 3)
    assert Add(known, unknown).shape is None
    assert Add(unknown, unknown).shape is None
    assert unknown.shape is None


def test_deep_graphs_need_no_recursion_and_little_time() -> None:
    chain = diamonds = Input("x")
    for _ in range(20_000):
        chain = AddConst(chain, 1)
    for _ in range(40):
        diamonds = Add(diamonds, diamonds)
    assert Graph(chain).forward(x=np.zeros(1)) == 20_000
    graph = Graph(diamonds)
    assert graph.forward(x=np.ones(1)) == 2.0**40
    assert graph.backward(np.ones(1))["x"] == 2.0**40
    # Visits grow with nodes, not paths: 2^40 of them would never end.
    assert len(graph.order) == 41


def test_arrays_that_do_not_fit_are_refused_when_fed() -> None:
    graph = Graph(Dot(Input("x"), Input("w")))
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(4, 5\)"):
        graph.forward(x=np.ones((2, 3)), w=np.ones((4, 5)))


def test_a_constant_is_not_an_input_of_its_name() -> None:
    graph = Graph(Mul(Constant(np.ones((2, 1))), Input("constant")))
    assert list(graph.shapes({"constant": (3,)}).values())[-1] == (2, 3)
