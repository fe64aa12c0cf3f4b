"""Compiled graphs with unusual arrays: zero-dimensional, in any memory order, and empty."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from nl_layers import Affine, Convolution, Layer, Mode, Pooling, Relu
from nl_models import Network
from nl_nodes import (
    Add,
    Constant,
    Device,
    Dot,
    Exp,
    Graph,
    Input,
    Log,
    Max,
    Mean,
    Mul,
    MulConst,
    Node,
    OneHot,
    Parameter,
    Reshape,
    Sum,
    T,
    Transpose,
    ValueMask,
)
from nl_nodes.compiler import CompileSpec, Executor, compile_graph, executor, rewrite
from nl_nodes.nodes.arithmetic import Elementwise


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def check(graph: Graph, order: Callable[[np.ndarray], np.ndarray] = np.array, **feeds: np.ndarray) -> None:
    """Compare one and two workers with the reference in two passes, with gradient arrays in this memory order."""
    run = graph.run(**feeds)
    expected = run.backward(np.ones(run.results[0].shape))
    shapes = {name: (x.shape, x.dtype) for name, x in feeds.items()}
    for workers in (Executor(), executor("threads", 2)):
        held = {name: leaf for name, leaf in graph.leaves.items() if isinstance(leaf, Parameter)}
        places = {name: order(np.full(leaf.value.shape, np.nan)) for name, leaf in held.items()}
        plan = compile_graph(graph, CompileSpec(shapes, frozenset(shapes), places), workers)
        for _ in range(2):
            results = plan.run(feeds, 0)
        found = {**plan.grads, **{name: place for name, place in places.items() if place.size}}
        for a, b in [*zip(results, run.results, strict=True), *((found[n], expected[n]) for n in expected)]:
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max(initial=1))


def parameter(value: object, name: str = "p") -> Parameter:
    return Parameter(np.asarray(value, float), name)


SCALARS: dict[str, Callable[[Node], Node]] = {
    "factor": lambda x: Sum(Mul(x, parameter(2.0))),
    "term": lambda x: Sum(Add(x, Constant(np.array(2.0)))),
    "function": lambda x: Sum(Mul(x, Exp(parameter(0.5)))),
    "two, alone": lambda x: Add(Sum(x), Mul(parameter(2.0), parameter(3.0, "q"))),
    "reduced": lambda x: Add(Sum(x), Add(Max(parameter(2.0)), Mean(parameter(3.0, "q")))),
    "reshaped": lambda x: Sum(Mul(x, Reshape(Sum(parameter([1.0, 2.0])), (1,)))),
    "transposed": lambda x: Add(Sum(x), T(Transpose(parameter(2.0), ()))),
}


@pytest.mark.parametrize("name", SCALARS)
def test_zero_dimensional_arrays(name: str) -> None:
    check(Graph(SCALARS[name](Input("x", (4, 3)))), x=random(4, 3))


def test_layer_with_scalar_parameters() -> None:
    class Scale(Layer, abstract=True):
        def __init__(self) -> None:
            super().__init__()
            self.weight = Parameter(np.array(2.0), "weight")

        def wire(self, *inputs: Node, mode: Mode) -> Node:
            return Mul(inputs[0], self.weight)

    def gradient(device: Device) -> np.ndarray:
        spec = {"name": "scaled", "input_shape": (4,), "classes": 3}
        net = Network([(Affine(random(4, 3)), 1), (Scale(), 2)], spec, device)
        return net.gradient(random(2, 4), [0, 1])["W2"]

    expected = gradient(Device(dtype="float64", compile=False))
    assert expected.shape == ()
    for threads in (1, 2):
        np.testing.assert_allclose(gradient(Device(dtype="float64", threads=threads)), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [Sum, Mean, Max])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1), (0, 2), (1, 2), (-1, 0)])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)])
def test_reductions_over_any_axes(kind: Callable[..., Node], axis: object, keepdims: bool, shape: tuple) -> None:
    y = kind(Input("x", shape), axis, keepdims)
    check(Graph(Sum(Mul(y, Constant(random(*y.shape or ()))))), x=random(*shape))


ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran's": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "transposed": lambda a: a.T.copy().T,
    "inner": lambda a: np.pad(a, 1)[1:-1, 1:-1],
}


@pytest.mark.parametrize("gradients", [np.array, *ORDERS.values()], ids=["rows", *ORDERS])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_parameters_and_gradients_in_any_memory_order(order: Callable, gradients: Callable) -> None:
    w, v = Parameter(order(random(3, 5)), "w"), Parameter(order(random(4, 5)), "v")
    x = random(4, 3)
    check(Graph(Sum(ValueMask(Mul(Dot(Input("x", (4, 3)), w), Sum(v, 0))))), gradients, x=x)


def test_large_gradient_in_any_memory_order() -> None:
    """So large that the workers reduce it at once, each a shard."""
    w = Parameter(np.asfortranarray(random(3, 2**18)), "w")
    check(Graph(Sum(Dot(Input("x", (4, 3)), w))), np.asfortranarray, x=random(4, 3))


def stack(n: int, c: int, k: int, size: int, *layers: Layer) -> Graph:
    y: Node = Input("x", (n, c, 5, 5))
    for layer in (Convolution(random(k, c, size, size), random(k), pad=1), *layers):
        y = layer.wire(y, mode=Mode(train=True))
    return Graph(Sum(y))


@pytest.mark.parametrize("layers", [[], [Relu()], [Relu(), Pooling(2, 2)]], ids=len)
@pytest.mark.parametrize(
    ("n", "c", "k", "size"), [(0, 8, 8, 3), (0, 1, 2, 5), (2, 8, 0, 3), (2, 0, 8, 3), (0, 2, 2, 2)]
)
def test_convolutions_of_empty_arrays(n: int, c: int, k: int, size: int, layers: list) -> None:
    check(stack(n, c, k, size, *layers), x=random(n, c, 5, 5))


@pytest.mark.parametrize(("n", "k", "m"), [(0, 3, 5), (4, 0, 5), (4, 3, 0)])
def test_affine_layers_of_empty_arrays(n: int, k: int, m: int) -> None:
    y = Add(Dot(Input("x", (n, k)), parameter(random(k, m), "w")), parameter(random(m), "b"))
    check(Graph(Sum(ValueMask(y))), x=random(n, k))


def test_loss_of_an_empty_batch() -> None:
    x, t = Input("x", (0, 3)), Input("t", (0,), gradient=False)
    shifted = Add(x, MulConst(Max(x, -1, True), -1))
    logs = Add(shifted, MulConst(Log(Sum(Exp(shifted), -1, True)), -1))
    check(Graph(Sum(Sum(Mul(OneHot(t, logs), logs), 1))), x=random(0, 3), t=np.zeros(0, int))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3)])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_sums_of_empty_arrays(shape: tuple, axis: object) -> None:
    check(Graph(Sum(Mul(Sum(Input("x", shape), axis, True), parameter(2.0)))), x=random(*shape))


class Filter(Elementwise, abstract=True):
    """`y = x f` for an array `f`."""

    def __init__(self, x: Node, f: np.ndarray) -> None:
        self.f = f
        super().__init__(x)

    def forward(self, ctx, *inputs):
        return inputs[0] * self.f

    def backward(self, ctx, dy):
        return dy * self.f


def test_nodes_whose_array_attributes_differ_are_not_merged() -> None:
    f = np.zeros(2000)
    g = f.copy()
    g[1000] = 1
    x = Input("x", (2000,))
    graph = Graph(Sum(Add(Filter(x, f), MulConst(Filter(x, g), 3))))
    check(graph, x=random(2000))
    assert sum(isinstance(node, Filter) for node in rewrite(graph, ()).order) == 2


def test_equal_nodes_are_merged_but_not_zero_and_minus_zero() -> None:
    x = Input("x", (3,))
    f = np.array([1.0, 2.0, 3.0])
    for first, second, count in (
        (Filter(x, f), Filter(x, f.copy()), 1),
        (Filter(x, f), Filter(x, f.astype("f4")), 2),
        (Filter(x, f), Filter(x, f.reshape(1, 3)), 2),
        (MulConst(x, 0.0), MulConst(x, -0.0), 2),
        (MulConst(x, 2), MulConst(x, 2.0), 2),
        (MulConst(x, 2.0), MulConst(x, 2.0), 1),
    ):
        graph = rewrite(Graph(Add(first, second)), [()])
        assert sum(isinstance(node, Filter | MulConst) for node in graph.order) == count


def test_position_dependent_nodes_are_not_moved_across_a_reshape() -> None:
    x = Input("x", (2, 3))
    check(Graph(Sum(Filter(Reshape(x, (6,)), random(6)))), x=random(2, 3))
    check(Graph(Sum(Filter(Transpose(x, (1, 0)), random(3, 2)))), x=random(2, 3))
