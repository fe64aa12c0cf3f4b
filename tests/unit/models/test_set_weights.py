"""Weights set by any dictionary method are used in training and prediction."""

import numpy as np
import pytest
from support.assertions import refused

from nl_layers import Dropout, SigmoidWithLoss, Tanh
from nl_models import Network, mlp
from nl_nodes import Device, Parameter
from nl_nodes.compiler import compile_graph

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((5, 4)), np.arange(5) % 3


def network(compile: bool = True) -> Network:
    return mlp(input_shape=(4,), classes=3, hidden=[6], batch_norm=True, device=Device(compile=compile, threads=1))


def test_a_pass_is_compiled_anew_only_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def counted(*args):
        compiled.append(args)
        return compile_graph(*args)

    monkeypatch.setattr("nl_models.network.compile_graph", counted)
    net = mlp(input_shape=(4,), classes=3, hidden=[6], dropout=0.5, device=Device(threads=1))
    for rate in (0.5, 0.25):
        next(layer for layer in net.layers if isinstance(layer, Dropout)).rate = rate
        before = len(compiled)
        for _ in range(3):
            net.step(X, T)
        assert len(compiled) - before == 1
    before = len(compiled)
    for rate in (0.5, 0.25):
        network().layers[0].rate = rate  # of another network
        net.step(X, T)
    assert len(compiled) == before
    compared = []
    monkeypatch.setattr(net, "_wiring", lambda: compared.append(1))
    net.step(X, T)
    assert not compared  # nothing has changed at all


@pytest.mark.parametrize("compile", [True, False])
def test_textbook_update_loop_trains(compile: bool) -> None:
    one, other = network(compile), network(compile)
    for _ in range(5):
        grads = one.gradient(X, T)
        for name in grads:
            one.params[name] = one.params[name] - 0.1 * grads[name]
        grads = other.gradient(X, T)
        for name in grads:
            other.params[name] -= 0.1 * grads[name]
    assert one.loss(X, T) < network(compile).loss(X, T) - 0.05
    for name, value in other.state_dict().items():
        np.testing.assert_allclose(one.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_params_can_be_assigned_at_once() -> None:
    net, other = network(), mlp(input_shape=(4,), classes=3, hidden=[6], batch_norm=True, seed=1)
    net.predict(X)
    params = net.params
    net.params = other.params
    np.testing.assert_array_equal(net.params.flat, other.params.flat)
    net.params |= {"b2": [1, 2, 3]}
    assert net.params is params
    assert net.state_dict()["b2"].tolist() == [1, 2, 3]
    assert other.params["b2"].tolist() == [0, 0, 0]
    with refused("lack", "beta1"):
        net.params = {name: array for name, array in other.params.items() if name != "beta1"}


def test_layer_shares_memory_with_the_flat_buffer() -> None:
    net, weight = network(), RNG.standard_normal((4, 6))
    before = net.predict(X)
    net.layers[0].params["weight"] = weight
    np.testing.assert_array_equal(net.params["W1"], weight.astype("float32"))
    assert np.abs(net.predict(X) - before).max() > 0.1
    net.layers[0].weight = weight / 2
    np.testing.assert_array_equal(net.state_dict()["W1"], (weight / 2).astype("float32"))
    net.layers[1].running_mean = np.full(6, 9)
    np.testing.assert_array_equal(net.state_dict()["running_mean1"], np.full(6, 9, "float32"))


def test_refused_update_changes_nothing() -> None:
    net = network()
    before = net.state_dict()
    zeros = {name: array * 0 for name, array in net.params.items()}
    for name, bad in (("W2", np.zeros(3)), ("W3", np.zeros(3)), ("b2", np.zeros(3) * 1j)):
        with refused(name):
            net.params.update({**zeros, name: bad})
    with refused("removed"):
        del net.params["W1"]
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("compile", [True, False])
def test_layer_attribute_changed_between_passes_takes_effect(compile: bool) -> None:
    net = mlp(input_shape=(4,), classes=3, hidden=[6], dropout=0.5, device=Device(compile=compile, threads=1))
    plain = mlp(input_shape=(4,), classes=3, hidden=[6], device=Device(compile=compile, threads=1))
    assert net.step(X, T).loss != plain.step(X, T).loss
    next(layer for layer in net.layers if isinstance(layer, Dropout)).ratio = 0.0
    assert net.step(X, T).loss == pytest.approx(plain.step(X, T).loss, rel=1e-6)
    net.predict(X)
    for one in (net, plain):
        one.loss_layer = SigmoidWithLoss()
        one.layers[1] = Tanh()
    rebuilt = mlp(input_shape=(4,), classes=3, hidden=[6], activation="tanh", device=Device(threads=1))
    np.testing.assert_allclose(net.predict(X), rebuilt.predict(X), rtol=1e-5)
    assert net.step(X, T).loss == plain.step(X, T).loss == pytest.approx(rebuilt_loss(rebuilt), rel=1e-5)


def rebuilt_loss(net: Network) -> float:
    return float(SigmoidWithLoss().forward(net.predict(X), T))


def test_replacing_a_parameter_object_is_refused() -> None:
    net = network()
    net.predict(X)
    net.layers[0].weight = Parameter(np.zeros((4, 6)), "W1")
    for call in (lambda: net.predict(X), lambda: net.step(X, T)):
        with refused("mlp", "Affine"):
            call()
