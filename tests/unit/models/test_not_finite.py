"""One non-finite number in a network: the compiled network gives non-finite results where the reference does."""

from collections.abc import Callable
from math import inf, nan

import numpy as np
import pytest
from support.random_networks import random_case, random_network

from nl_layers import (
    Affine,
    BatchNormalization,
    Convolution,
    Dropout,
    Layer,
    Mode,
    Pooling,
    Relu,
    Tanh,
)
from nl_models import Network, build
from nl_nodes import Add, Constant, Device, Graph, Input, Node
from nl_nodes.compiler.fused import Conv
from nl_nodes.compiler.fused.conv.node import winograd_spec

CHANNELS = 8  # enough for Winograd
SHAPE = (CHANNELS, 6, 6)
T = np.array([0, 2, 1])
Form = Callable[[np.random.Generator], list[tuple[Layer, int]]]


def conv(rng: np.random.Generator, kernels: int = CHANNELS) -> Convolution:
    return Convolution(rng.standard_normal((kernels, CHANNELS, 3, 3)), rng.standard_normal(kernels), pad=1)


def affine(rng: np.random.Generator, count: int) -> Affine:
    return Affine(rng.standard_normal((count, 3)), rng.standard_normal(3))


def plain(rng: np.random.Generator) -> list[tuple[Layer, int]]:
    """Two Winograd convolutions with ReLU, the second with pooling."""
    return [(conv(rng), 1), (Relu(), 1), (conv(rng), 2), (Relu(), 2), (Pooling(2, 2), 2), (affine(rng, 72), 3)]


def normalised(rng: np.random.Generator) -> list[tuple[Layer, int]]:
    norm = BatchNormalization(np.ones(CHANNELS), np.zeros(CHANNELS))
    middle = [(conv(rng), 1), (norm, 1), (Relu(), 1), (conv(rng), 2), (Tanh(), 2)]
    return [*middle, (Dropout(0.3), 2), (affine(rng, 288), 3)]


def overlapping(rng: np.random.Generator) -> list[tuple[Layer, int]]:
    """Overlapping pooling with padding, which no rule fuses."""
    return [(conv(rng), 1), (Pooling(3, 3, 2, 1), 1), (conv(rng), 2), (Relu(), 2), (affine(rng, 72), 3)]


FORMS: list[Form] = [plain, normalised, overlapping]


def network(form: Form, dtype: str = "float64", **device) -> Network:
    device = {"threads": 1, **device}
    spec = {"name": form.__name__, "input_shape": SHAPE, "classes": 3}
    return Network(form(np.random.default_rng(0)), spec, Device(dtype=dtype, **device))


def images(value: float, place: tuple[int, ...] = (1, 3, 2, 4)) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((3, *SHAPE))
    x[place] = value
    return x


def outcome(net: Network, x: np.ndarray, t: np.ndarray = T) -> dict[str, np.ndarray]:
    """Return the results of a prediction and a step, and the state after them."""
    with np.errstate(all="ignore"):
        seen = net.predict(x)
        done = net.step(x, t)
    grads = {f"d{name}": grad.copy() for name, grad in done.grads.items()}
    return {**net.state_dict(), **grads, "seen": seen, "loss": np.asarray(done.loss), "logits": done.logits}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], limit: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        scale = np.abs(array[np.isfinite(array)]).max(initial=1e-3)
        np.testing.assert_allclose(found[name], array, rtol=limit, atol=limit * scale, err_msg=name)


@pytest.mark.parametrize("value", [inf, -inf, nan])
@pytest.mark.parametrize("form", FORMS)
def test_compiled_network_matches_reference_with_a_non_finite_pixel(form: Form, value: float) -> None:
    expected = outcome(network(form, compile=False), images(value))
    assert_same(outcome(network(form), images(value)), expected)


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_non_finite_pixel_gives_the_same_on_every_executor(workers: str) -> None:
    expected = outcome(network(normalised, compile=False), images(inf))
    assert_same(outcome(network(normalised, workers=workers, threads=2), images(inf)), expected)


@pytest.mark.parametrize("value", [inf, -inf, nan])
@pytest.mark.parametrize("name", ["W1", "b1", "W2", "b2", "W3"])
def test_compiled_network_matches_reference_with_a_non_finite_weight(name: str, value: float) -> None:
    nets = network(plain, compile=False), network(plain)
    for net in nets:
        net.params[name].flat[3] = value
    assert_same(outcome(nets[1], images(0)), outcome(nets[0], images(0)))


def test_non_finite_image_does_not_change_other_images_logits() -> None:
    net = network(plain)
    with np.errstate(all="ignore"):
        seen = net.predict(images(inf))
    assert np.isnan(seen).any(axis=1).tolist() == [False, True, False]
    np.testing.assert_allclose(seen[[0, 2]], net.predict(images(0))[[0, 2]], rtol=1e-12)


def test_relu_of_minus_infinity_is_zero_and_its_tile_is_exact() -> None:
    """Every window with the pixel sums to minus infinity, so that ReLU makes all results finite."""
    nets = network(plain, compile=False), network(plain)
    for net in nets:
        net.params["W1"][...] = -np.abs(net.params["W1"])
    x = images(inf)
    expected = outcome(nets[0], x)
    assert np.isfinite(expected["seen"]).all()
    assert np.isfinite(expected["loss"])
    assert_same(outcome(nets[1], x), expected)


def test_gradient_that_overflows_in_backward_matches_the_reference() -> None:
    """The logits are finite, and ReLU blocks the infinite gradients of units that are 0."""

    def deep(rng: np.random.Generator) -> list[tuple[Layer, int]]:
        return [(conv(rng), 1), (Relu(), 1), (conv(rng), 2), (Relu(), 2), (affine(rng, 288), 3), (affine(rng, 3), 4)]

    nets = network(deep, "float32", compile=False), network(deep, "float32")
    for net in nets:
        net.params["b2"][...] = -1e3
        net.params["b2"][:2] = 1e3
        net.params["W3"][72:] = 3e38  # for units that are 0
        net.params["W4"][...] *= 30
    expected = outcome(nets[0], images(0))
    assert np.isfinite(expected["loss"])
    assert_same(outcome(nets[1], images(0)), expected, 1e-4)


def test_non_finite_step_changes_neither_running_statistics_nor_the_next_step() -> None:
    net, other = network(normalised), network(normalised)
    before = net.state_dict()
    with np.errstate(all="ignore"):
        net.step(images(nan), T)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    other.passes = 1
    assert_same(outcome(net, images(0)), outcome(other, images(0)))


class Masked(Layer, abstract=True):
    """Masks the second class."""

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """Add minus infinity to the logit of the second class."""
        return Add(inputs[0], Constant(np.array([0, -inf, 0])))


def test_masked_class_has_zero_gradient() -> None:
    def masked(rng: np.random.Generator) -> list[tuple[Layer, int]]:
        return [*plain(rng), (Masked(), 4)]

    found = []
    for compiled in (False, True):
        net = network(masked, compile=compiled)
        done = net.step(images(0), np.array([0, 2, 2]))
        found.append({"loss": np.asarray(done.loss), **{name: grad.copy() for name, grad in done.grads.items()}})
    assert all(np.isfinite(array).all() for array in found[0].values())
    assert_same(found[1], found[0])


def test_finite_pass_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build("cnn8", width=32, device=Device(threads=1))
    monkeypatch.setattr(net, "_reference", lambda *_: pytest.fail("run again"))
    x = np.random.default_rng(0).standard_normal((2, 1, 28, 28))
    for size in (1, 1e15):  # whose squares overflow float32
        net.predict(x * size)
    net.step(x, [1, 2])


@pytest.mark.parametrize("value", [inf, -inf, nan])
@pytest.mark.parametrize("maps", [(4, 5), (2, 2), (7, 3)])
@pytest.mark.parametrize("what", ["x", "w", "dy"])
def test_winograd_of_non_finite_values_is_exact_or_nan(what: str, maps: tuple[int, int], value: float) -> None:
    """For any position of the number, Winograd gives the value of the definition or NaN."""
    rng = np.random.default_rng(0)
    assert winograd_spec(maps, (2, CHANNELS, 3, 3), 1, 1)
    x, w = rng.standard_normal((*maps, 1, CHANNELS)), rng.standard_normal((2, CHANNELS, 3, 3))
    dy = rng.standard_normal((*maps, 1, 2))
    graph = Graph(Conv(Input("x"), Input("w"), size=maps, pad=1))
    layer = Convolution(w, pad=1)
    for i, j in np.ndindex((3, 3) if what == "w" else maps):
        place = (1, 3, i, j) if what == "w" else (i, j, 0, 1)
        feeds = {"x": x.copy(), "w": w.copy(), "dy": dy.copy()}
        feeds[what][place] = value
        with np.errstate(all="ignore"):
            run = graph.run(x=feeds["x"], w=feeds["w"])
            found = [run.results[0], *run.backward(feeds["dy"]).values()]
            layer.weight.value = feeds["w"]
            y = layer.forward(feeds["x"].transpose(2, 3, 0, 1))
            dx = layer.backward(feeds["dy"].transpose(2, 3, 0, 1))
        expected = [y.transpose(2, 3, 0, 1), dx.transpose(2, 3, 0, 1), layer.grads["weight"]]
        for one, other in zip(found, expected, strict=True):
            same = np.isclose(one, other, rtol=1e-9, atol=1e-9)
            assert (same | np.isnan(one)).all(), place
            assert not (np.isnan(other) & ~np.isnan(one)).any(), place


@pytest.mark.parametrize("seed", range(12))
def test_random_network_matches_reference_with_a_non_finite_pixel(seed: int) -> None:
    key, ((x, t), *_) = random_case(seed)
    rng = np.random.default_rng(seed)
    x = x.copy()
    x.flat[rng.integers(x.size)] = rng.choice([inf, -inf, nan])
    found = []
    for compiled in (False, True):
        net = random_network(key, Device(dtype="float64", threads=1, compile=compiled))
        found.append(outcome(net, x, t))
    assert_same(found[1], found[0], 1e-10)


def test_only_a_pass_that_is_not_finite_is_repeated_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    repeated = []

    def counted(net: Network, train: bool, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        repeated.append(train)
        return reference(net, train, feeds)

    reference = Network._reference
    monkeypatch.setattr(Network, "_reference", counted)
    net, x = build("mlp", input_shape=(4,), hidden=[5], classes=3, device=Device(threads=1)), np.ones((3, 4))
    net.params["b2"][1] = -inf  # an infinite logit, but a finite loss and gradient for these labels
    assert np.isfinite(net.step(x, np.array([0, 2, 0])).loss)
    assert repeated == [True]
    with np.errstate(all="ignore"):
        net.step(nan * x, T)
    net.params["b2"][1] = 0
    net.predict(x)  # gradients are not finite, the prediction is
    assert repeated == [True, True]
