"""Regression tests for errors of the original projects in normalization, models and optimizers."""

from pathlib import Path

import numpy as np
import pytest
from support.layer_cases import LAYER_CASES

from nl_layers import Affine, BatchNormalization, Convolution, Dropout, Pooling, Relu, Sigmoid, Softmax, Tanh
from nl_layers.optimizers import Nesterov, RMSprop
from nl_models import build, cnn3, cnn8, mlp, vgg11
from nl_nodes import Device, Graph, ShapeError, UserError
from nl_nodes.verify import central, check_graph, complex_step, draw, upstream

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state
X = np.random.default_rng(1).standard_normal((10, 1, 28, 28)) + 1
T = np.arange(10) % 4


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = START


# Layers


def test_images_are_normalised_per_channel() -> None:
    layer = BatchNormalization(np.ones(3), np.zeros(3))
    y = layer.forward(RNG.standard_normal((4, 3, 5, 5)) * [[[[2.0]], [[3.0]], [[5.0]]]] + 7)
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var((0, 2, 3)), 1, rtol=1e-5)
    assert abs(y.mean(0)).min() > 1e-4  # and not per pixel
    assert layer.running_mean.value.shape == (3,)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 4)])
def test_normalisation_infers_before_and_after_training(shape) -> None:
    layer, x = BatchNormalization(np.full(3, 2.0), np.full(3, 0.5)), RNG.standard_normal(shape)
    np.testing.assert_allclose(layer.forward(x, train=False), 2 * x / np.sqrt(1 + 1e-5) + 0.5, rtol=1e-12)
    layer.forward(x)
    assert layer.forward(x[:1], train=False).shape == (1, *shape[1:])


def test_running_variance_is_kept_without_epsilon() -> None:
    layer, x = BatchNormalization(np.ones(2), np.zeros(2), momentum=0.0), RNG.standard_normal((500, 2)) * 1e-3
    assert layer.eps == 1e-5
    layer.forward(x)
    np.testing.assert_allclose(layer.running_var.value, x.var(0), rtol=1e-12)
    np.testing.assert_allclose(layer.forward(x, train=False), layer.forward(x), rtol=1e-9)


def test_dropout_does_not_change_inference_and_preserves_the_mean() -> None:
    layer, x = Dropout(0.4), np.full((500, 200), 3.0)
    assert layer.forward(x).mean() == pytest.approx(3.0, rel=0.01)
    np.testing.assert_array_equal(layer.forward(x, train=False), x)
    old = Dropout(0.4, inverted=False)
    assert set(np.unique(old.forward(x))) == {0.0, 3.0}
    np.testing.assert_allclose(old.forward(x, train=False), 0.6 * x)


@pytest.mark.parametrize("case", LAYER_CASES)
def test_single_precision_does_not_turn_into_double(case) -> None:
    def single(what):
        value = draw(RNG, what)
        return value if what.domain == "labels" else value.astype("float32")

    layer = case.make(single)
    y = layer.forward(*map(single, case.draws), *(() if "t" in layer.feeds else (case.train,)))
    dx = layer.backward(upstream(RNG, y.shape).astype("float32"))
    buffers = [b.value for b in layer.buffers.values()]
    assert {a.dtype for a in (y, dx, *layer.grads.values(), *buffers)} == {np.dtype("float32")}


def test_empty_batch_is_accepted() -> None:
    layers = [Affine(np.ones((18, 4)), np.ones(4)), Convolution(np.ones((4, 2, 2, 2)), np.ones(4)), Pooling(2, 2)]
    for layer in [*layers, Relu(), Sigmoid(), Tanh(), Softmax(), Dropout(0.5)]:
        y = layer.forward(np.zeros((0, 2, 3, 3)))
        assert y.shape[0] == 0
        assert layer.backward(y).shape == (0, 2, 3, 3)
        assert not any(grad.any() for grad in layer.grads.values())
    assert layers[0].forward(np.zeros((0, 2, 3, 3))).shape == (0, 4)


def test_backward_of_the_rectifier_leaves_the_upstream_alone() -> None:
    layer, dy = Relu(), np.array([[2.0, 3.0, 5.0]])
    layer.forward(np.array([[-1.0, 0.0, 1.0]]))
    assert layer.backward(dy).tolist() == [[0, 0, 5]]  # 0 at the kink
    assert dy.tolist() == [[2, 3, 5]]


# Models


def test_accuracy_predicts_from_the_images_and_divides_once() -> None:
    net = mlp(hidden=[30])
    best = net.predict(X).argmax(1)
    assert net.accuracy(X, best) == 1
    assert net.accuracy(X, (best + 1) % 10) == 0
    assert net.accuracy(X, np.where(np.arange(10) < 7, best, (best + 1) % 10)) == 0.7


def test_last_partial_batch_is_weighted_by_its_size() -> None:
    net = mlp(hidden=[5])
    x = RNG.standard_normal((259, 1, 28, 28))
    best = net.predict(x).argmax(1)
    best[:3] = (best[:3] + 1) % 10
    assert net.accuracy(x, best) == 256 / 259
    assert net.accuracy(x[:3], best[:3]) == 0


@pytest.mark.parametrize("name", ["mlp", "cnn8"])
def test_evaluation_neither_uses_nor_changes_the_statistics_of_its_batch(name: str) -> None:
    net = build(name, width=8, batch_norm=True, dropout=0.5, device=Device(dtype="float64"))
    net.gradient(X, T)
    before = net.state_dict()
    alone = np.concatenate([net.predict(X[i : i + 1]) for i in range(10)])
    np.testing.assert_allclose(net.predict(X), alone, rtol=1e-9, atol=1e-12)
    net.loss(X, T), net.accuracy(X, T)
    assert all(np.array_equal(value, before[key]) for key, value in net.state_dict().items())


def test_every_tensor_loads_into_its_own_parameter(tmp_path: Path) -> None:
    make = {"width": 8, "batch_norm": "after_activation"}
    net, other = cnn8(**make), cnn8(**make, seed=1)
    assert {"W6", "b6", "gamma6", "beta6", "running_mean6", "running_var6", "W8", "b8"} <= set(net.state_dict())
    state = {key: np.full_like(value, i + 1) for i, (key, value) in enumerate(net.state_dict().items())}
    net.load_state_dict(state)
    net.save(tmp_path / "w")
    other.load(tmp_path / "w")
    for key, value in other.state_dict().items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
    assert b"pickle" not in (tmp_path / "w").read_bytes()
    assert (tmp_path / "w").read_bytes()[8:9] == b"{"  # safetensors: a length, then JSON


def test_an_unknown_model_is_refused_and_every_known_one_has_layers() -> None:
    for name in ("vgg61", "", "CNN8"):
        with pytest.raises(UserError, match="mlp, cnn3"):
            build(name)
    assert {len(build(name, width=8).params) for name in ("cnn3", "cnn8", "vgg11")} == {6, 16, 22}


def test_unequal_hidden_layers_are_normalised_in_every_place() -> None:
    sizes = {"before_affine": [784, 5], "before_activation": [5, 7], "after_activation": [5, 7]}
    for place, expected in sizes.items():
        net = mlp(hidden=[5, 7], batch_norm=place)
        assert [net.params[f"gamma{i}"].size for i in (1, 2)] == expected
        assert np.isfinite(net.gradient(X, T).flat).all()
    net = mlp(hidden=[5], batch_norm="before_affine", device=Device(dtype="float64"))
    net.gradient(X, T)
    flat = X.reshape(10, 784)
    np.testing.assert_allclose(net.state_dict()["running_mean1"], 0.1 * flat.mean(0), rtol=1e-12)
    with pytest.raises(ShapeError):
        net.predict(X[:, :, :27])


def test_check_graph_finds_a_wrong_gradient() -> None:
    layer = Affine(RNG.standard_normal((4, 3)), RNG.standard_normal(3))
    graph, feeds = layer.graph(((2, 4),)), {"x": RNG.standard_normal((2, 4))}
    for oracle, limit in ((complex_step, 1e-10), (central, 1e-6)):
        residuals = check_graph(graph, feeds, upstream(RNG, (2, 3)), oracle)
        assert {r.name for r in residuals} == {"x", "weight", "bias"}
        assert all(r.value <= limit and r.size > 0 for r in residuals)

    class Wrong(type(graph.outputs[0]), abstract=True):
        def backward(self, ctx, dy):
            return tuple(1.001 * dx for dx in super().backward(ctx, dy))

    wrong = Graph(Wrong(*graph.outputs[0].inputs))
    assert all(r.value > 9e-4 for r in check_graph(wrong, feeds, upstream(RNG, (2, 3))))


def test_no_dropout_behind_the_last_affine_layer() -> None:
    for net in (mlp(dropout=0.5), cnn3(dropout=0.5), cnn8(dropout=0.5), vgg11(width=8, dropout=0.5)):
        assert type(net.layers[-1]) is Affine
        assert any(isinstance(layer, Dropout) for layer in net.layers)


# Optimizers


def test_nesterov_uses_its_velocity_before_it_changes_it() -> None:
    m, lr, p, v = 0.9, 0.1, 1.0, 0.0  # p, the point of the gradient, is theta + m v
    params, optimizer = {"b": np.array([1.0])}, Nesterov(lr=lr, momentum=m)
    theta = p
    for _ in range(5):
        g = 2 * (theta + m * v)  # of theta^2, where Nesterov looks ahead
        v = m * v - lr * g
        theta += v
        optimizer.update(params, {"b": 2 * params["b"]})
        assert params["b"][0] == pytest.approx(theta + m * v, rel=1e-14)


def test_rmsprop_config_creates_rmsprop() -> None:
    from omegaconf import OmegaConf

    path = Path(__file__).parents[3] / "conf" / "optimizer" / "rmsprop.yaml"
    assert RMSprop.__name__ in str(OmegaConf.load(path)["_target_"])
