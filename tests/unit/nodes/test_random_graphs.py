"""Random graphs against a naive walk over all paths, and the number of runs of each node."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.node_cases import Counting

from nl_nodes import (
    Add,
    AddConst,
    Dot,
    Exp,
    Graph,
    Input,
    Mean,
    Mul,
    MulConst,
    Node,
    Reshape,
    Softplus,
    Sum,
    T,
    Tanh,
    ValueMask,
)
from nl_nodes.verify import upstream

Pull = Callable[[np.ndarray], None]

# Each node's value and, for an upstream gradient, what it hands to each input.
RULES: dict[type[Node], Callable] = {
    Add: lambda n, a, b: (a + b, lambda dy: (dy, dy)),
    Mul: lambda n, a, b: (a * b, lambda dy: (dy * b, dy * a)),
    Dot: lambda n, a, b: (a @ b, lambda dy: (dy @ b.T, a.T @ dy)),
    AddConst: lambda n, x: (x + n.c, lambda dy: (dy,)),
    MulConst: lambda n, x: (n.c * x, lambda dy: (n.c * dy,)),
    Exp: lambda n, x: (np.exp(x), lambda dy: (np.exp(x) * dy,)),
    Tanh: lambda n, x: (np.tanh(x), lambda dy: (dy / np.cosh(x) ** 2,)),
    Softplus: lambda n, x: (np.logaddexp(0, x), lambda dy: (dy / (1 + np.exp(-x)),)),
    ValueMask: lambda n, x: (np.where(x > 0, x, 0), lambda dy: (np.where(x > 0, dy, 0),)),
    Sum: lambda n, x: (x.sum(n.axis, keepdims=True), lambda dy: (np.ones_like(x) * dy,)),
    Mean: lambda n, x: (x.mean(n.axis, keepdims=True), lambda dy: (np.ones_like(x) * dy / x.shape[n.axis],)),
    Reshape: lambda n, x: (x.reshape(n.target), lambda dy: (dy.reshape(x.shape),)),
    T: lambda n, x: (x.T, lambda dy: (dy.T,)),
}


def walk(node: Node, feeds: dict[str, np.ndarray], grads: dict[str, np.ndarray]) -> tuple[np.ndarray, Pull]:
    """Return a node's value and a function that adds its gradient to the leaves', path by path."""
    if isinstance(node, Input):
        return feeds[node.name], lambda dy: grads.__setitem__(node.name, grads[node.name] + dy)
    walked = [walk(n, feeds, grads) for n in node.inputs]
    rule = next(RULES[kind] for kind in type(node).__mro__ if kind in RULES)
    y, gradients = rule(node, *(value for value, _ in walked))

    def pull(dy: np.ndarray) -> None:
        for dx, (x, deeper) in zip(gradients(dy), walked, strict=True):
            deeper(folded(dx, x.shape))

    return y, pull


def folded(dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the sum over the axes along which a matrix was broadcast."""
    for axis in (0, 1):
        if shape[axis] < dy.shape[axis]:
            dy = dy.sum(axis, keepdims=True)
    return dy


# From two nodes, the second of which tames products: values stay moderate however deep the graph.
STEPS: dict[str, Callable[[Node, Node], Node]] = {
    "add": Add,
    "twice": lambda a, b: Add(a, a),
    "mul": lambda a, b: Mul(a, Tanh(b)),
    "square": lambda a, b: Tanh(Mul(a, a)),
    "dot": lambda a, b: Dot(a, Tanh(b)) if a.shape[1] == b.shape[0] else Add(a, b),
    "gram": lambda a, b: Dot(T(a), Tanh(a)),
    "shift": lambda a, b: AddConst(a, -0.7),
    "scale": lambda a, b: MulConst(a, -1.3),
    "exp": lambda a, b: Exp(Tanh(a)),
    "softplus": lambda a, b: Softplus(a),
    "relu": lambda a, b: ValueMask(a),
    "rows": lambda a, b: Sum(a, 0, keepdims=True),
    "columns": lambda a, b: Mean(a, 1, keepdims=True),
    "turn": lambda a, b: Reshape(a, a.shape[::-1]),
}


@st.composite
def graphs(draw) -> tuple[Graph, list[Counting]]:
    """Draw a graph of up to 12 counted nodes, each on any earlier ones, with one or two outputs."""
    nodes: list[Node] = [Input(name, (3, 3)) for name in "xyz"[: draw(st.integers(1, 3))]]
    counted = []
    for _ in range(draw(st.integers(1, 12))):
        a, b = (nodes[draw(st.integers(0, len(nodes) - 1))] for _ in range(2))
        counted.append(Counting(STEPS[draw(st.sampled_from(sorted(STEPS)))](a, b)))
        nodes.append(counted[-1])
    return Graph(*counted[-draw(st.integers(1, 2)) :]), counted


@given(drawn=graphs(), seed=st.integers(0, 2**32 - 1))
def test_values_and_gradients_are_those_of_the_naive_walk(drawn, seed: int) -> None:
    graph, counted = drawn
    rng = np.random.default_rng(seed)
    feeds = {name: rng.standard_normal((3, 3)) for name in graph.leaves}
    done = graph.run(**feeds)
    dys = [upstream(rng, y.shape) for y in done.results]
    got = done.backward(*dys)

    expected = {name: np.zeros((3, 3)) for name in feeds}
    for output, y, dy in zip(graph.outputs, done.results, dys, strict=True):
        value, pull = walk(output, feeds, expected)
        np.testing.assert_allclose(y, value, rtol=1e-12, atol=1e-12 * np.abs(value).max())
        pull(dy)
    assert set(got) == set(expected)
    for name, grad in expected.items():
        np.testing.assert_allclose(got[name], grad, rtol=1e-12, atol=1e-12 * np.abs(grad).max())
    reached = set(graph.order)
    assert [node.calls for node in counted] == [[1, 1] if node in reached else [0, 0] for node in counted]


@pytest.mark.parametrize("depth", [10, 100, 1000])
def test_calls_grow_with_the_nodes_and_not_with_the_paths(depth: int) -> None:
    rng = np.random.default_rng(depth)
    nodes: list[Node] = [Input("x")]
    for _ in range(depth):
        a, b = (nodes[-min(len(nodes), k)] for k in rng.integers(1, 4, 2))
        nodes.append(Counting(Add(MulConst(a, 0.6), MulConst(b, 0.4))))
    # Every value is the input's, whatever the paths, and so is the gradient's sum.
    graph = Graph(nodes[-1])
    done = graph.run(x=np.array([3.0, -1.0]))
    np.testing.assert_allclose(done.results[0], [3, -1], rtol=1e-12)
    np.testing.assert_allclose(done.backward(np.array([2.0, 5.0]))["x"], [2, 5], rtol=1e-12)
    calls = [node.calls for node in graph.order if isinstance(node, Counting)]
    assert calls == [[1, 1]] * len(calls)
    assert depth / 3 <= len(calls) <= depth
