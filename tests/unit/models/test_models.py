"""The models: shapes and names, batch norm and dropout, modes of predict, loss and gradient, and both devices."""

import math
from itertools import pairwise

import numpy as np
import pytest
from support.assertions import refused
from support.fake_device import FakeArray, install
from support.small_models import WIDTHS

from nl_layers import Affine, BatchNormalization, Convolution, Dropout, Pooling, Relu, Sigmoid, Tanh
from nl_models import ConvSpec, DenseSpec, build, cnn3, cnn8, mlp, simple_convnet, vgg11, vgg16
from nl_models.builder import Options, assemble
from nl_nodes import Device, ShapeError, UserError, platform

install()
NARROW = {"mlp": 10, "cnn3": 8, "simple_convnet": 5, "cnn8": 8, "vgg11": 4, "vgg16": 4}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 1, 28, 28))
T = RNG.integers(0, 10, 12)


def conv(*channels: int, size: int = 3) -> list[tuple[int, ...]]:
    return [(b, a, size, size) for a, b in pairwise(channels)]


def affine(*features: int) -> list[tuple[int, ...]]:
    return list(pairwise(features))


WEIGHTS = {
    mlp: (affine(784, 100, 100, 100, 100, 10), 109_810),
    cnn3: (conv(1, 32, size=5) + affine(12 * 12 * 32, 100, 10), 462_742),
    simple_convnet: (conv(1, 30, size=5) + affine(12 * 12 * 30, 100, 10), 433_890),
    cnn8: (conv(1, 16, 16, 32, 32, 64, 64) + affine(4 * 4 * 64, 50, 10), 123_552),
    vgg11: (conv(1, 64, 128, 256, 256, 512, 512, 512, 512) + affine(512, 4096, 256, 10), 12_371_978),
    vgg16: (
        conv(1, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512) + affine(512, 4096, 256, 10),
        17_866_186,
    ),
}


def types(net) -> list[type]:
    return [type(layer) for layer in net.layers]


@pytest.mark.parametrize("make", WEIGHTS, ids=lambda f: f.__name__)
def test_names_shapes_and_counts(make) -> None:
    net, (weights, count) = make(), WEIGHTS[make]
    expected = {}
    for i, shape in enumerate(weights, 1):
        expected[f"W{i}"] = shape
        expected[f"b{i}"] = (shape[0] if len(shape) == 4 else shape[1],)
    assert {name: p.shape for name, p in net.params.items()} == expected
    assert net.params.flat.size == count == sum(map(math.prod, expected.values()))
    assert list(net.state_dict()) == list(expected)
    assert net.params["W1"].dtype == "float32"
    assert f"{count:,}" in repr(net)


def test_poolings_are_where_the_shapes_say() -> None:
    kinds = {Convolution: "c", Pooling: "p", Affine: "a"}
    spelt = {f.__name__: "".join(kinds.get(k, "") for k in types(build(f.__name__, width=8))) for f in WEIGHTS}
    assert spelt == {
        "mlp": "aaaaa", "cnn3": "cpaa", "simple_convnet": "cpaa", "cnn8": "ccpccpccpaa",
        "vgg11": "cpcpccpccpccpaaa", "vgg16": "ccpccpcccpcccpcccpaaa",
    }  # fmt: skip
    assert [c.pad for c in vgg16(width=4).layers if isinstance(c, Convolution)] == [1, 1, 1, 2] + [1] * 9
    assert [c.pad for c in vgg11(width=4).layers if isinstance(c, Convolution)] == [1, 2] + [1] * 6
    assert [c.pad for c in cnn8(width=4).layers if isinstance(c, Convolution)] == [1, 1, 1, 2, 1, 1]


B, C, A, R, P = BatchNormalization, Convolution, Affine, Relu, Pooling
PLACES = {
    "before_activation": ([C, B, R, P, A, R, A], [A, B, R, A, B, R, A]),
    True: ([C, B, R, P, A, R, A], [A, B, R, A, B, R, A]),
    "before_affine": ([B, C, R, P, A, R, A], [B, A, R, B, A, R, A]),
    "after_activation": ([C, R, B, P, A, R, A], [A, R, B, A, R, B, A]),
    False: ([C, R, P, A, R, A], [A, R, A, R, A]),
}


@pytest.mark.parametrize("place", PLACES)
def test_batch_norm_has_the_configured_position_and_replaces_the_bias(place) -> None:
    convolutional = cnn3(width=8, batch_norm=place)
    dense = mlp(hidden=[7, 5], batch_norm=place, input_shape=(2, 3, 3))
    assert (types(convolutional), types(dense)) == PLACES[place]
    replaced = place in (True, "before_activation")
    assert ("b1" in convolutional.params) != replaced
    assert "b2" in convolutional.params
    assert [f"b{i}" in dense.params for i in (1, 2, 3)] == [not replaced, not replaced, True]
    shapes = {False: None, "before_affine": [(18,), (7,)]}.get(place, [(7,), (5,)])
    if shapes:
        assert [dense.params[f"gamma{i}"].shape for i in (1, 2)] == shapes
        assert [dense.params[f"beta{i}"].shape for i in (1, 2)] == shapes
        assert convolutional.params["gamma1"].shape == ((1,) if place == "before_affine" else (4,))
    assert not {"gamma2", "gamma3"} & set(convolutional.params)
    assert "gamma3" not in dense.params
    assert ("running_var1" in convolutional.state_dict()) == bool(place)


@pytest.mark.parametrize("name", NARROW)
def test_dropout_follows_hidden_affine_layers_only(name: str) -> None:
    found = types(build(name, width=NARROW[name], dropout=0.4))
    for i, kind in enumerate(found):
        if kind is Dropout:
            assert found[i - 2 : i] == [Affine, Relu]
    assert found.count(Dropout) == found.count(Affine) - 1
    assert found[-1] is Affine
    assert Dropout not in types(build(name, width=NARROW[name]))


def test_activations_widths_classes_and_initial_weights() -> None:
    for name, kind in {"relu": Relu, "sigmoid": Sigmoid, "tanh": Tanh}.items():
        assert types(mlp(hidden=[5], activation=name)) == [Affine, kind, Affine]
    net = vgg16(width=16, classes=7, input_shape=(3, 32, 32))
    assert net.params["W14"].shape == (128, 256)
    assert net.predict(np.zeros((2, 3, 32, 32))).shape == (2, 7)
    for init, deviation in (("he", math.sqrt(2 / 784)), ("xavier", math.sqrt(1 / 784)), (0.2, 0.2)):
        net = mlp(init=init)
        assert net.params["W1"].std() == pytest.approx(deviation, rel=0.02)
        assert not net.params["b1"].any()


@pytest.mark.parametrize("name", NARROW)
def test_other_input_shapes_work(name: str) -> None:
    for shape in ((3, 32, 32), (2, 29, 37)):
        net = build(name, width=NARROW[name], input_shape=shape, classes=3)
        assert net.predict(np.ones((2, *shape))).shape == (2, 3)
        assert set(net.gradient(np.ones((2, *shape)), [0, 2])) == set(net.params)
    if name.startswith("vgg"):
        large = build(name, width=4, input_shape=(3, 224, 224))
        assert large.predict(np.zeros((1, 3, 224, 224))).shape == (1, 10)


@pytest.mark.parametrize("make", [vgg11, vgg16])
def test_a_map_that_becomes_empty_is_refused_with_names_and_shapes(make) -> None:
    with pytest.raises(ShapeError) as error:
        make(width=8, input_shape=(1, 8, 8))
    for told in (make.__name__, "Pooling", "layer", "(64, 1, 1)", "window of 2x2", "(1, 8, 8)"):
        assert told in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ShapeError, match=r"cnn3: layer 1 \(ConvSpec.*on input shape \(1, 4, 4\).*window of 5x5"):
        cnn3(input_shape=(1, 4, 4))


@pytest.mark.parametrize("form", [{}, {"batch_norm": True, "dropout": 0.5}])
def test_predict_loss_and_accuracy_use_inference_mode(form: dict) -> None:
    net = mlp(hidden=[20], device=Device(dtype="float64"), **form)
    for _ in range(3):
        net.gradient(X, T)
    state, logits = net.state_dict(), net.predict(X)
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(12), T]
    assert net.loss(X, T) == pytest.approx(losses.mean(), rel=1e-12)
    assert net.accuracy(X, T) == (logits.argmax(1) == T).mean()
    assert net.loss(X, np.eye(10)[T]) == net.loss(X, T)
    assert net.accuracy(X, np.eye(10)[T]) == net.accuracy(X, T)
    np.testing.assert_array_equal(net.predict(X), logits)
    np.testing.assert_allclose(net.predict(X[3:4]), logits[3:4], rtol=1e-12)  # no batch statistics
    assert all(np.array_equal(value, state[name]) for name, value in net.state_dict().items())


def test_gradient_uses_training_mode() -> None:
    net = mlp(hidden=[20], batch_norm=True, dropout=0.5, device=Device(dtype="float64"))
    before = net.state_dict()
    first = {name: g.copy() for name, g in net.gradient(X, T).items()}
    after = net.state_dict()
    hidden = X.reshape(12, -1) @ before["W1"]
    np.testing.assert_allclose(after["running_mean1"], 0.1 * hidden.mean(0), rtol=1e-10)
    np.testing.assert_allclose(after["running_var1"], 0.9 + 0.1 * hidden.var(0), rtol=1e-10)
    assert all(np.array_equal(after[name], before[name]) for name in net.params)
    assert not np.array_equal(net.gradient(X, T)["W2"], first["W2"])  # another mask
    net.passes = 0
    for labels in (T, np.eye(10)[T]):
        net.passes = 0
        again = net.gradient(X, labels)
        assert all(np.array_equal(again[name], g) for name, g in first.items())
    step = net.step(X, T)
    assert step.logits.shape == (12, 10)
    assert not np.allclose(step.logits, net.predict(X))


def test_gradient_is_that_of_the_mean_loss() -> None:
    net = mlp(hidden=[6], device=Device(dtype="float64"))
    logits = net.predict(X)
    e = np.exp(logits - logits.max(1, keepdims=True))
    d = (e / e.sum(1, keepdims=True) - np.eye(10)[T]) / 12
    hidden = np.maximum(X.reshape(12, -1) @ net.params["W1"] + net.params["b1"], 0)
    back = (d @ net.params["W2"].T) * (hidden > 0)
    grads = net.gradient(X, T)
    expected = {"W1": X.reshape(12, -1).T @ back, "b1": back.sum(0), "W2": hidden.T @ d, "b2": d.sum(0)}
    assert set(grads) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(grads[name], value, rtol=1e-9, atol=1e-13)


def test_params_and_gradients_are_live_views_of_one_buffer_each() -> None:
    net = cnn3(width=8)
    for held in (net.params, net.gradient(X, T)):
        assert all(np.shares_memory(array, held.flat) for array in held.values())
        assert held.flat.size == sum(array.size for array in held.values())
    before, grads = net.predict(X), net.gradient(X, T)
    values = grads["W1"].copy()
    net.params["W1"] *= 2
    assert not np.allclose(net.predict(X), before)
    assert not np.array_equal(net.gradient(X, T)["W1"], values)
    assert np.shares_memory(net.gradient(X, T)["W1"], grads["W1"])
    net.params.flat[...] = 0
    assert not net.predict(X).any()
    copies = net.state_dict()
    copies["W1"] += 1
    assert not net.params["W1"].any()


def test_evaluation_of_partial_batches_and_large_sets() -> None:
    net = cnn3(width=8, device=Device(dtype="float64"), batch_norm=True)
    for count in (12, 5, 12, 1):
        assert np.isfinite(net.gradient(X[:count], T[:count]).flat).all()
    many = np.concatenate([X * scale for scale in np.linspace(0.5, 2, 25)])  # 300: more than one evaluation batch
    labels = np.tile(T, 25)
    alone = np.concatenate([net.predict(x[None]) for x in many])
    np.testing.assert_allclose(net.predict(many), alone, rtol=1e-9, atol=1e-12)
    losses = [net.loss(x[None], [t]) for x, t in zip(many, labels, strict=True)]
    assert net.loss(many, labels) == pytest.approx(np.mean(losses), rel=1e-9)
    assert net.accuracy(many, labels) == np.mean(alone.argmax(1) == labels)
    assert net.predict(many[:0]).shape == (0, 10)


def test_wrong_calls_are_refused() -> None:
    net = mlp(hidden=[5])
    for call, told in (
        (lambda: net.predict(np.ones((2, 3, 28, 28))), r"\(1, 28, 28\).*\(2, 3, 28, 28\)|images.*\(2, 3, 28, 28\)"),
        (lambda: net.gradient(X, T[:5]), r"\(12,\).*\(5,\)"),
        (lambda: net.gradient(X, np.full(12, 10)), "0 to 9"),
        (lambda: net.gradient(X, np.full(12, -1)), "0 to 9"),
        (lambda: net.gradient(X[:0], T[:0]), "no images"),
        (lambda: net.loss(X[:0], T[:0]), "no images"),
        (lambda: build("vgg61"), "vgg61.*vgg16"),
        (lambda: build("mlp", colour=3), "colour"),
        (lambda: mlp(batch_norm="behind"), "before_affine"),
        (lambda: mlp(activation="gelu"), "relu"),
        (lambda: mlp(hidden=50), r"hidden must be a list of widths, such as \[50\]"),
        (lambda: net.predict(X[..., :-1]), r"needs images \(N, 1, 28, 28\)"),
        (lambda: mlp(dropout=1.0), "below 1"),
        (lambda: mlp(init="hee"), "he, xavier"),
    ):
        with pytest.raises(UserError, match=told):
            call()


@pytest.mark.parametrize("name", NARROW)
def test_seeds_and_dtypes(name: str) -> None:
    one, same, other = (build(name, width=NARROW[name], seed=seed) for seed in (3, 3, 4))
    exact = build(name, width=NARROW[name], seed=3, device=Device(dtype="float64"))
    np.testing.assert_array_equal(one.params.flat, same.params.flat)
    assert not np.array_equal(one.params["W1"], other.params["W1"])
    assert exact.params.flat.dtype == exact.predict(X).dtype == exact.gradient(X, T)["W1"].dtype == "float64"
    for key, value in one.params.items():
        np.testing.assert_array_equal(value, exact.params[key].astype("float32"))
    assert one.predict(X).dtype == one.gradient(X, T)["W1"].dtype == "float32"
    np.testing.assert_allclose(one.predict(X), exact.predict(X), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", [{}, {"batch_norm": True, "dropout": 0.3}])
@pytest.mark.parametrize("name", sorted(WIDTHS))
def test_fake_device_matches_cpu(name: str, form: dict) -> None:
    cpu, fake = (
        build(name, width=WIDTHS[name], device=Device(d, compile=False), input_shape=X.shape[1:], seed=2, **form)
        for d in ("cpu", "fake")
    )
    assert isinstance(fake.params.flat, FakeArray)
    for count in (6, 4):
        expected, grads = cpu.gradient(X[:count], T[:count]), fake.gradient(X[:count], T[:count])
        assert grads.keys() == expected.keys()
        for key, grad in grads.items():
            np.testing.assert_array_equal(fake.device.host(grad), expected[key])
    np.testing.assert_array_equal(fake.device.host(fake.predict(X)), cpu.predict(X))
    assert (fake.loss(X, T), fake.accuracy(X, T)) == (cpu.loss(X, T), cpu.accuracy(X, T))
    state = cpu.state_dict()
    assert all(np.array_equal(value, state[key]) for key, value in fake.state_dict().items())
    fake.load_state_dict(state)


def test_curvature_on_a_fake_device_is_that_on_the_cpu() -> None:
    cpu, fake = (build("mlp", width=10, device=Device(d, compile=False), seed=2, dropout=0.3) for d in ("cpu", "fake"))
    array = fake.device.array
    grads, expected = fake.gradient(X, T), cpu.gradient(X, T)
    product = fake.hessian_product(array(X), T, grads)
    np.testing.assert_array_equal(product.flat, cpu.hessian_product(X.astype(np.float32), T, expected).flat)


@pytest.mark.parametrize("compiled", [True, False])
def test_batch_norm_refuses_to_train_on_one_value_per_feature(compiled: bool) -> None:
    net = mlp(width=10, batch_norm=True, device=Device(compile=compiled))
    before = net.state_dict()
    for call in (net.step, net.gradient):
        with pytest.raises(ShapeError, match=r"^mlp: layer 2 \(BatchNormalization\).*batches of 2 or more"):
            call(X[:1], T[:1])
    assert net.passes == 0
    assert all(np.array_equal(before[name], array) for name, array in net.state_dict().items())
    assert net.predict(X[:1]).shape == (1, 10)
    net.step(X[:2], T[:2])
    wide = cnn3(width=8, batch_norm=True, device=Device(compile=compiled))
    assert np.abs(wide.step(X[:1], T[:1]).grads["W1"]).max() > 0


@pytest.mark.parametrize("width", [10**8, 10**400])
@pytest.mark.parametrize("name", NARROW)
def test_a_width_beyond_all_memory_is_refused_before_anything_is_made(name: str, width: int) -> None:
    with refused(f"{name} with its", "iB of memory, of which there are", "model.width"):
        build(name, width=width)


def test_a_batch_beyond_all_memory_is_refused_by_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp(width=10)
    with refused("iB of memory, of which there are", "smaller batches"):
        net.plan(False, 10**9)
    monkeypatch.setattr(platform, "memory", lambda: 2**20)
    with refused("the plan for this batch needs", "of which there are 1 MiB", "smaller batches"):
        net.plan(True, 300)
    net.step(X[:2], T[:2])


@pytest.mark.parametrize("batch_norm", [False, True])
def test_an_architecture_keeps_layers_without_bias(batch_norm: bool) -> None:
    specs = [ConvSpec(2, bias=False), DenseSpec(4, bias=False)]
    net = assemble("own", specs, Options(input_shape=(1, 6, 6), batch_norm=batch_norm), None, {})
    assert [name for name in net.params if name.startswith("b") and not name.startswith("beta")] == ["b3"]
