"""Products with the Hessian and the Gauss-Newton matrix of small graphs whose matrices are known."""

import numpy as np
import pytest

from nl_nodes import (
    Buffer,
    Context,
    Graph,
    IndexMask,
    Input,
    Mean,
    Mul,
    Node,
    Parameter,
    ShapeError,
    StopGradient,
    Sum,
    UserError,
)
from nl_nodes.curvature import gauss_newton_product, hessian_product


def quartic() -> tuple[Graph, np.ndarray]:
    """Return a graph of `sum((x A)^4)` of x (3,), with its Hessian at [1, 2, 3]: `12 A diag((x A)^2) A^T`."""
    a = np.array([[1.0, -2.0], [0.5, 1.0], [2.0, 0.25]])
    x = Parameter(np.array([[1.0, 2.0, 3.0]]), name="x")
    return Graph(Sum((x @ Parameter(a, name="a")) ** 4)), 12 * a * (x.value @ a)[0] ** 2 @ a.T


def test_product_is_the_hessian_times_the_vector() -> None:
    graph, hessian = quartic()
    v = np.array([[0.3, -1.0, 2.0]])
    product = hessian_product(graph, {}, {"x": v})
    np.testing.assert_allclose(product["x"], v @ hessian, rtol=1e-14)
    assert product["x"].dtype == np.float64
    assert product["a"].shape == (3, 2)  # the mixed derivatives, of a parameter that v does not name


def test_product_is_at_the_values_fed() -> None:
    graph, _ = quartic()
    fed = {"x": np.array([[1.0, 0.0, 0.0]]), "a": np.eye(3, 2)}
    product = hessian_product(graph, fed, {"x": np.array([[2.0, 1.0, 1.0]])})["x"]
    np.testing.assert_allclose(product, [[24.0, 0.0, 0.0]], atol=1e-100)


def test_float32_is_computed_in_double_precision() -> None:
    rng = np.random.default_rng(0)
    w, x, v = (rng.standard_normal(shape, np.float32) for shape in ((4, 3), (5, 4), (4, 3)))
    products = []
    for dtype in (np.float32, np.float64):
        cubes = Input("x", gradient=False) ** 3  # of inputs alone, and so real
        graph = Graph(Mean((cubes @ Parameter(w.astype(dtype), name="w")) ** 4))
        products.append(hessian_product(graph, {"x": x.astype(dtype)}, {"w": v})["w"])
    assert products[0].dtype == np.float64
    assert np.abs(products[0]).min() > 0
    np.testing.assert_array_equal(*products)


class Row(Node, abstract=True):
    """Row t of x, for a whole number t."""

    def infer(self, *shapes: tuple[int, ...]) -> tuple[int, ...]:
        return shapes[0][1:]

    def forward(self, ctx: Context, *inputs: np.ndarray) -> np.ndarray:
        ctx.saved = inputs[1]
        return inputs[0][inputs[1]]

    def backward(self, ctx: Context, dy: np.ndarray) -> tuple[np.ndarray, None]:
        dx = np.zeros(ctx.shapes[0], dtype=dy.dtype)
        dx[ctx.saved] = dy
        return dx, None


def test_whole_numbers_stay_whole() -> None:
    x = Parameter(np.array([[1.0, 2.0], [3.0, 4.0]]), name="x")
    graph = Graph(Sum(Row(x, Input("t", gradient=False)) ** 2))
    product = hessian_product(graph, {"t": np.array(1)}, {"x": np.ones((2, 2))})["x"]
    np.testing.assert_allclose(product, [[0, 0], [2, 2]], atol=1e-100)


def test_inputs_have_products_where_they_are_named() -> None:
    graph = Graph(Sum(Mul(Input("x"), Parameter(np.array([2.0, 3.0]), name="w"))))
    feeds, ones = {"x": np.array([5.0, 7.0])}, np.ones(2)
    assert list(hessian_product(graph, feeds, {"w": ones})) == ["w"]
    products = hessian_product(graph, feeds, {"x": ones})
    assert {name: array.tolist() for name, array in products.items()} == {"x": [0.0, 0.0], "w": [1.0, 1.0]}


def test_a_stopped_gradient_is_a_constant() -> None:
    w = Parameter(np.array([2.0]), name="w")
    graph = Graph(Sum(w * w * StopGradient(w)))
    assert hessian_product(graph, {}, {"w": np.ones(1)})["w"].tolist() == [4.0]


def test_dropout_is_that_of_the_next_pass_and_no_pass_is_counted() -> None:
    w = Parameter(np.arange(1.0, 9.0), name="w")
    graph = Graph(Sum(IndexMask(w, 0.5, seed=1) ** 2))
    graph.passes = 3
    product = hessian_product(graph, {}, {"w": np.ones(8)})["w"]
    assert graph.passes == 3
    graph.forward()
    np.testing.assert_array_equal(product, graph.backward(1.0)["w"] / w.value)
    assert 0 < product.sum() < 16


def test_buffers_do_not_change() -> None:
    w, mean = Parameter(np.array([1.0, 3.0]), name="w"), Buffer(np.zeros(()), "mean")
    graph = Graph(Sum(w**2), updates={mean: Mean(w)})
    hessian_product(graph, {}, {"w": np.ones(2)})
    assert mean.value == 0


def test_gauss_newton_product_leaves_out_the_curvature_of_the_logits() -> None:
    w = Parameter(np.array([1.0, 2.0]), name="w")
    logits = w**3
    graph = Graph(Sum(logits**2 * np.array([1.0, 10.0])), logits)
    product = gauss_newton_product(graph, {}, {"w": np.array([1.0, 1.0])})["w"]
    np.testing.assert_allclose(product, 2 * np.array([1.0, 10.0]) * (3 * w.value**2) ** 2, rtol=1e-14)


def test_gauss_newton_product_of_a_loss_with_labels_and_of_a_graph_with_more_outputs() -> None:
    w = Parameter(np.array([1.0, 2.0]), name="w")
    logits = w**3
    graph = Graph(Sum(logits**2 * Input("t", gradient=False)), logits, Sum(w))
    product = gauss_newton_product(graph, {"t": np.array([1.0, 10.0])}, {"w": np.array([1.0, 1.0])})["w"]
    np.testing.assert_allclose(product, 2 * np.array([1.0, 10.0]) * (3 * w.value**2) ** 2, rtol=1e-14)


def test_gauss_newton_product_is_the_hessian_product_of_linear_logits() -> None:
    rng = np.random.default_rng(1)
    w = Parameter(rng.standard_normal((4, 3)), name="w")
    logits = Input("x", gradient=False) @ w
    graph, feeds = Graph(Mean(logits.T.T**4), logits), {"x": rng.standard_normal((5, 4))}
    v = {"w": rng.standard_normal((4, 3))}
    one, two = gauss_newton_product(graph, feeds, v)["w"], hessian_product(graph, feeds, v)["w"]
    np.testing.assert_allclose(one, two, rtol=1e-13)


def test_gauss_newton_product_has_the_dropout_of_the_pass() -> None:
    w = Parameter(np.arange(1.0, 9.0), name="w")
    logits = IndexMask(w, 0.3, seed=1)
    graph = Graph(Sum(IndexMask(logits, 0.3, seed=2) ** 4), logits)
    products = []
    for graph.passes in (0, 3):
        one, two = (function(graph, {}, {"w": np.ones(8)})["w"] for function in (gauss_newton_product, hessian_product))
        np.testing.assert_allclose(one, two, rtol=1e-14)
        products.append(one)
    assert ((products[0] == 0) != (products[1] == 0)).any()


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        ({"y": 1.0}, UserError, "vectors: the graph has no gradient of 'y': it has those of a, x"),
        ({"x": np.ones(3)}, ShapeError, r"vectors: that of 'x' must have shape \(1, 3\), got \(3,\)"),
    ],
)
def test_wrong_vectors_are_refused(vectors: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        hessian_product(quartic()[0], {}, vectors)


def test_wrong_graphs_are_refused() -> None:
    w = Parameter(np.ones(2), name="w")
    with pytest.raises(ShapeError, match=r"first output must be the loss, without axes, got shape \(2,\)"):
        hessian_product(Graph(w**2), {}, {"w": np.ones(2)})
    with pytest.raises(UserError, match="the graph's outputs must be the loss and the logits"):
        gauss_newton_product(Graph(Sum(w)), {}, {"w": np.ones(2)})
    with pytest.raises(UserError, match="the loss depends on 'w' other than through the logits"):
        gauss_newton_product(Graph(Sum(w**2 * w), w**2), {}, {"w": np.ones(2)})
    with pytest.raises(UserError, match="the loss depends on 'b' other than through the logits"):
        gauss_newton_product(Graph(Sum(Parameter(np.ones(2), name="b")), w**2), {}, {"w": np.ones(2)})
    with pytest.raises(UserError, match="the graph's input 'x' is not fed"):
        hessian_product(Graph(Sum(Input("x") * w)), {}, {"w": np.ones(2)})
