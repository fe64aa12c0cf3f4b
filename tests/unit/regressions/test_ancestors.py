"""Regression tests for errors of the original projects in nodes, layers and losses."""

import math

import numpy as np
import pytest
from support.layer_cases import LAYER_CASES
from support.node_cases import Counting

from nl_layers import (
    Affine,
    BatchNormalization,
    Convolution,
    CrossEntropy,
    Dropout,
    Mode,
    Pooling,
    Relu,
    Sigmoid,
    SigmoidWithLoss,
    Softmax,
    SoftmaxWithLoss,
    Tanh,
)
from nl_nodes import (
    Add,
    Dot,
    Exp,
    Graph,
    IndexMask,
    Input,
    Log,
    Max,
    Mean,
    Mul,
    MulConst,
    Parameter,
    Power,
    Repeat,
    ShapeError,
    Sum,
)
from nl_nodes.verify import check_graph, complex_step, draw, upstream

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = START


def run(node, dy=None, **feeds):
    """Return the output of a node and its gradients for a random or given upstream gradient."""
    graph = Graph(node)
    y = graph.forward(**feeds)
    return y, graph.backward(upstream(RNG, y.shape) if dy is None else dy)


# Nodes and the graph


@pytest.mark.parametrize("layer", [Softmax(), BatchNormalization(np.ones(3), np.zeros(3))], ids=["softmax", "norm"])
def test_a_node_that_a_layer_uses_several_times_runs_once_per_pass(layer) -> None:
    x = Counting(Input("x", (5, 3)))
    run(layer.wire(x, mode=Mode(train=True)), x=RNG.standard_normal((5, 3)))
    assert x.calls == [1, 1]


def test_nested_diamonds_cost_one_visit_a_node() -> None:
    leaf = node = Counting(Input("x"))
    for _ in range(20):
        node = Add(node, node)
    assert run(node, np.ones(1), x=np.ones(1))[1]["x"] == 2.0**20
    assert leaf.calls == [1, 1]


def test_a_shared_random_mask_is_drawn_once_per_pass() -> None:
    mask = IndexMask(Input("x"), 0.5)
    y, grads = run(Add(mask, mask), np.ones(1000), x=np.ones(1000))
    assert set(y) == set(grads["x"]) == {0.0, 2.0}
    np.testing.assert_array_equal(y, grads["x"])


def test_a_second_backward_does_not_double_gradients() -> None:
    layer, dy = Affine(RNG.standard_normal((4, 3)), np.zeros(3)), upstream(RNG, (2, 3))
    layer.forward(RNG.standard_normal((2, 4)))
    first = (layer.backward(dy), layer.grads["weight"].copy())
    second = (layer.backward(dy), layer.grads["weight"])
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_forward_leaves_the_gradients_of_other_passes_alone() -> None:
    graph = Graph(Exp(Input("x")))
    one = graph.run(x=np.array([0.0]))
    graph.forward(x=np.array([1.0]))
    assert one.backward(np.array([3.0]))["x"] == 3.0


def test_weights_are_not_copied() -> None:
    w = RNG.standard_normal((4, 3))
    layer = Affine(w)
    assert layer.params["weight"] is w
    seen = []

    class Looking(Dot, abstract=True):
        def forward(self, ctx, *inputs):
            seen.append(inputs[1])
            return super().forward(ctx, *inputs)

    Graph(Looking(Input("x"), Parameter(w, "w"))).forward(x=np.ones((2, 4)))
    assert seen[0] is w


@pytest.mark.parametrize("case", LAYER_CASES)
def test_inputs_are_neither_changed_nor_returned(case) -> None:
    def frozen(what):
        array = draw(RNG, what)
        array.flags.writeable = False
        return array

    layer, given = case.make(frozen), [frozen(d) for d in case.draws]
    y = layer.forward(*given, *(() if "t" in layer.feeds else (case.train,)))
    dy = upstream(RNG, y.shape)
    dy.flags.writeable = False
    results = [layer.backward(dy), *layer.grads.values()]
    assert not any(np.shares_memory(got, source) for got in results for source in (dy, *given, *layer.params.values()))


def test_gradient_of_x_minus_max_is_exact() -> None:
    x = Input("x")
    y, grads = run(
        Add(x, MulConst(Max(x, axis=-1, keepdims=True), -1)), np.array([[1.0, 2.0, 4.0]]), x=np.array([[5.0, 9.0, 7.0]])
    )
    assert y.tolist() == [[-4, 0, -2]]
    assert grads["x"].tolist() == [[1, 2 - 7, 4]]  # at the maximum, less the sum of the upstream gradient


@pytest.mark.parametrize("p", [2, 0.5, -0.5, 3])
def test_power_is_one_formula_without_a_hidden_epsilon(p: float) -> None:
    x, dy = np.array([1e-6, 0.25, 4.0]), np.array([2.0, -1.0, 3.0])
    y, grads = run(Power(Input("x"), p), dy, x=x)
    np.testing.assert_allclose(y, [math.pow(v, p) for v in x], rtol=1e-15)
    np.testing.assert_allclose(grads["x"], [d * p * math.pow(v, p - 1) for d, v in zip(dy, x, strict=True)], rtol=1e-14)
    if p > 0:
        assert Graph(Power(Input("x"), p)).forward(x=np.zeros(1)) == 0


def test_log_is_the_logarithm() -> None:
    x = np.array([1e-9, 1e-7, 1.0])
    y, grads = run(Log(Input("x")), np.array([1.0, -2.0, 3.0]), x=x)
    np.testing.assert_allclose(y, [math.log(v) for v in x], rtol=1e-15)
    np.testing.assert_allclose(grads["x"] * x, [1, -2, 3], rtol=1e-15)


@pytest.mark.parametrize("node", [Sum, Mean, Max])
@pytest.mark.parametrize("axis", [None, -1, 0, (0, 2), (-1, -2)])
def test_reductions_take_every_form_of_axis(node, axis) -> None:
    x = RNG.permutation(24).astype(float).reshape(2, 3, 4)
    y, grads = run(node(Input("x"), axis), x=x)
    np.testing.assert_allclose(y, {Sum: np.sum, Mean: np.mean, Max: np.max}[node](x, axis=axis))
    assert grads["x"].shape == x.shape
    assert node(Input("x", (2, 3, 4)), axis, keepdims=True).shape == np.sum(x, axis=axis, keepdims=True).shape


@pytest.mark.parametrize("node", [Add, Mul])
@pytest.mark.parametrize("shapes", [((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2, 3)), ((2, 1, 3), (4, 1))])
def test_gradients_of_a_broadcast_have_their_operands_shape(node, shapes) -> None:
    a, b = (RNG.standard_normal(s) for s in shapes)
    graph = Graph(node(Input("a"), Input("b")))
    dy = upstream(RNG, graph.forward(a=a, b=b).shape)
    grads = graph.backward(dy)
    assert (grads["a"].shape, grads["b"].shape) == shapes
    assert grads["a"].sum() == pytest.approx((dy * (b if node is Mul else 1)).sum())
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(4,\)"):
        node(Input("a", (2, 3)), Input("b", (4,)))


def test_repetition_follows_each_pass() -> None:
    graph = Graph(Repeat(Input("x"), 3, 0))
    for n in (4, 2):
        assert graph.forward(x=np.ones((n, 2))).shape == (3 * n, 2)
        assert graph.backward(np.ones((3 * n, 2)))["x"].tolist() == [[3, 3]] * n


# Layers and losses


@pytest.mark.parametrize("gradient", ["stable", "exact", "textbook"])
def test_losses_multiply_by_the_upstream(gradient: str) -> None:
    for loss in (SoftmaxWithLoss(gradient), SigmoidWithLoss(), CrossEntropy()):
        loss.forward(RNG.uniform(0.1, 0.9, (4, 3)), np.array([0, 2, 1, 1]))
        one = loss.backward(1)
        assert np.abs(one).max() > 0
        np.testing.assert_allclose(loss.backward(10), 10 * one, rtol=1e-14)


def test_value_and_gradient_of_a_loss_belong_together() -> None:
    x, t = np.array([[12.0, 0.0, -6.0], [0.5, -0.5, 0.0]]), np.array([2, 0])
    for gradient in ("stable", "exact"):  # also where a probability is as small as the epsilon
        graph = SoftmaxWithLoss(gradient).graph(((2, 3), (2,)))
        (residual,) = check_graph(graph, {"x": x, "t": t}, np.float64(1.7), complex_step)
        assert residual.value <= 1e-10
    textbook = SoftmaxWithLoss("textbook")
    p = Softmax().forward(x)
    assert textbook.forward(x, t) == pytest.approx(CrossEntropy().forward(p, t), rel=1e-13)
    np.testing.assert_allclose(textbook.backward(), (p - np.eye(3)[t]) / 2, rtol=1e-12)


def test_whole_number_labels_are_rows_and_a_single_row_has_a_softmax() -> None:
    x, t = RNG.standard_normal((5, 3)), np.array([2, 0, 1, 1, 2])
    assert SoftmaxWithLoss().forward(x, t) == SoftmaxWithLoss().forward(x, np.eye(3)[t])
    layer = Softmax()
    assert layer.forward(x[0]).sum() == pytest.approx(1)
    assert layer.backward(np.array([1.0, 2.0, 3.0])).shape == (3,)


def test_sigmoid_loss_counts_the_zeros_among_the_targets() -> None:
    assert SigmoidWithLoss().forward(np.array([3.0]), np.array([0])) == pytest.approx(math.log(1 + math.exp(3)))
    assert SigmoidWithLoss().forward(np.array([3.0]), np.array([1])) == pytest.approx(math.log(1 + math.exp(-3)))


def test_pooling_counts_its_padding_and_padding_never_wins() -> None:
    y = Pooling(3, 3, stride=2, pad=1).forward(np.full((1, 2, 6, 7), -1.0))
    assert y.shape == (1, 2, 3, 4)
    assert (y == -1).all()


def test_a_smaller_last_batch_works_in_every_layer() -> None:
    layers = [Affine(np.ones((18, 4)), np.ones(4)), Convolution(np.ones((2, 2, 2, 2)), np.ones(2)), Pooling(2, 2)]
    layers += [BatchNormalization(np.ones(2), np.ones(2)), Dropout(0.2), Relu(), Sigmoid(), Tanh(), Softmax()]
    for layer in layers:
        for n in (5, 2, 5):
            y = layer.forward(RNG.standard_normal((n, 2, 3, 3)))
            assert len(y) == n
            assert layer.backward(np.ones_like(y)).shape == (n, 2, 3, 3)
