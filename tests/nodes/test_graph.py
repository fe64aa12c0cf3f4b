"""The graph: each node once per pass, gradients accumulated, passes apart from each other, shapes told early."""

import numpy as np
import pytest
from support.node_cases import Counting

from nl_nodes import (
    Add,
    AddConst,
    Buffer,
    Dot,
    Exp,
    Graph,
    Img2Matrix,
    Input,
    Mul,
    MulConst,
    Parameter,
    Power,
    Reshape,
    ShapeError,
    Sum,
    Transpose,
    UserError,
)


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
