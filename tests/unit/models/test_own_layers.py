"""Layers and losses of users: every change of a setting counts, and what a network would not see is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.assertions import refused

from nl_layers import (
    Affine,
    BatchNormalization,
    Dropout,
    Layer,
    Loss,
    Mode,
    Relu,
    Sigmoid,
    SigmoidWithLoss,
    SoftmaxWithLoss,
)
from nl_layers import Sequential as Container
from nl_layers.optimizers import SGD
from nl_models import BatchNormSpec, DenseSpec, Network, Sequential
from nl_nodes import Buffer, Device, Input, Node, Parameter, Sum
from nl_nodes.typing import Array

X, T = np.random.default_rng(0).standard_normal((5, 4)), np.arange(5) % 3


class Scaled(Layer, abstract=True):
    """Multiplies by a setting; it calls no `__init__` of `Layer`."""

    factor = 2.0

    def __init__(self) -> None:
        pass

    def wire(self, *inputs, mode):
        return inputs[0] * self.factor


class Lambda(Layer, abstract=True):
    """A layer of one function from node to node."""

    def __init__(self, function: Callable[[Node], object]) -> None:
        super().__init__()
        self.function = function

    def wire(self, *inputs, mode):
        return self.function(inputs[0])


class Unreduced(Loss, abstract=True):
    """A loss of each image."""

    def wire(self, *inputs, mode):
        return Sum(inputs[0], axis=1)


def network(*layers: Layer, **device: object) -> Network:
    return Sequential([*layers, DenseSpec(3)], (4,), device=Device(**{"threads": 1, **device}))


@pytest.mark.parametrize("compile", [True, False])
def test_a_setting_of_the_class_may_be_changed_in_a_layer(compile: bool) -> None:
    layer = Scaled()
    net = network(layer, compile=compile)
    for factor in (2.0, 0.5, 3.0):
        if factor != 2:
            layer.factor = factor
        np.testing.assert_array_equal(layer.forward(X), factor * X)
        np.testing.assert_allclose(net.predict(X), factor * X @ net.params["W1"] + net.params["b1"], rtol=1e-5)


@pytest.mark.parametrize(
    "parts", [[Parameter(np.ones(4), "p")], (Buffer(np.ones(4), "p"),), {"p": Parameter(np.ones(4), "p")}]
)
def test_parameters_in_a_collection_are_refused(parts: object) -> None:
    with refused("weights", "attributes, each in its own"):
        Relu().weights = parts


@pytest.mark.parametrize("threads", [1, 2])
def test_parameters_that_wire_makes_are_refused(threads: int) -> None:
    layer = Lambda(lambda x: x * Parameter(np.ones(4), "scale"))
    net = network(layer, threads=threads, workers="threads")
    for call in (lambda: layer.forward(X), lambda: net.step(X, T)):
        with refused("scale", "make it in __init__"):
            call()


@pytest.mark.parametrize("result", [None, (1, 2)])
def test_a_layer_that_wires_no_node_is_refused(result: object) -> None:
    with refused("Lambda.wire must return a node", repr(result)):
        Lambda(lambda x: result).forward(X)


def test_a_layer_without_wire_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Nothing does not define wire"):
        type("Nothing", (Layer,), {}, abstract=True)().forward(X)


def test_a_loss_of_many_numbers_is_refused() -> None:
    net = Sequential([DenseSpec(3)], (4,), Unreduced(), device=Device(threads=1))
    with refused("Unreduced", "(5,)", "a loss is one number"):
        net.step(X, T)


@pytest.mark.parametrize("device", [{}, {"compile": False}, {"threads": 2, "workers": "threads"}])
@pytest.mark.parametrize("kind", ["weight", "running_mean"])
def test_a_replaced_array_is_refused(kind: str, device: dict) -> None:
    net = Sequential([DenseSpec(3), BatchNormSpec()], (4,), device=Device(**device))
    net.predict(X)
    leaf = getattr(net.layers[kind != "weight"], kind)
    before, leaf.value = leaf.value, leaf.value + 1
    for call in (lambda: net.predict(X), lambda: net.step(X, T), net.state_dict):
        with refused(net.name, leaf.name, "copy values into it"):
            call()
    leaf.value = before
    net.predict(X)


UNREAL: dict[str, tuple[object, str]] = {
    "complex": (X * 1j, "complex128"),
    "dates": (X.astype("M8[s]"), "datetime64"),
    "text": ("abc", "<U3"),
    "objects": (np.full((5, 4), None), "object"),
    "ragged": ([[1.0], [1.0, 2.0]], "list"),
    "masked": (np.ma.masked_array(X, X > 0), "mask"),
}


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("what", UNREAL)
def test_images_that_are_no_real_numbers_are_refused(what: str, compile: bool) -> None:
    x, told = UNREAL[what]
    net = network(compile=compile)
    for call in (lambda: net.predict(x), lambda: net.step(x, T)):
        with refused(told):
            call()


def test_masked_labels_are_refused() -> None:
    with refused("mask"):
        network().step(X, np.ma.masked_array(T, T > 1))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64", ">f4"])
def test_images_of_any_real_dtype_are_taken(dtype: str) -> None:
    x: Array = np.array([[0, 1, 1, 0]], dtype)
    net = network()
    np.testing.assert_array_equal(net.predict(x), net.predict(x.astype("float32")))


class Own(Layer, abstract=True):
    """A layer of two parameters without names, of which `wire` uses the second by a setting."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.shift, self.shifts = Parameter(np.eye(4)), Parameter(np.ones(4)), True

    def wire(self, *inputs, mode):
        y = inputs[0] @ self.weight
        return y + self.shift if self.shifts else y


def test_a_parameter_that_is_not_used_has_no_gradient() -> None:
    layer = Own()
    layer.shifts = False
    layer.forward(X)
    layer.backward(np.ones((5, 4)))
    np.testing.assert_allclose(layer.grads["weight"], np.repeat(X.sum(axis=0)[:, None], 4, axis=1))
    np.testing.assert_array_equal(layer.grads["shift"], np.zeros(4))


@pytest.mark.parametrize("compiled", [True, False])
def test_a_parameter_that_is_no_longer_used_keeps_no_gradient(compiled: bool) -> None:
    layer = Own()
    net = Sequential([layer, DenseSpec(3)], (4,), device=Device(dtype="float64", compile=compiled))
    assert net.gradient(X, T)["shift1"].all()
    layer.shifts = False
    grads = net.gradient(X, T)
    assert not grads["shift1"].any()
    assert grads["W1"].any()


def test_parameters_named_as_those_of_the_library_begin_a_new_number() -> None:
    class Short(Layer, abstract=True):
        def __init__(self) -> None:
            super().__init__()
            self.W, self.b = Parameter(np.eye(4), "W"), Parameter(np.zeros(4), "b")

        def wire(self, *inputs, mode):
            return inputs[0] @ self.W + self.b

    assert list(Sequential([Short(), DenseSpec(3)], (4,)).params) == ["W1", "b1", "W2", "b2"]


def test_a_parameter_in_two_layers_is_refused() -> None:
    first, second = Affine(np.eye(4)), Affine(np.eye(4))
    second.weight = first.weight
    for make in (lambda: Container([first, second]), lambda: Sequential([first, Relu(), second], (4,))):
        with refused("is in two layers"):
            make()


def test_a_parameter_may_be_given_as_a_number_of_numpy() -> None:
    class Scale(Layer, abstract=True):
        def __init__(self) -> None:
            super().__init__()
            self.scale = Parameter(np.float64(3), "scale")

        def wire(self, *inputs, mode):
            return inputs[0] * self.scale

    layer = Scale()
    layer.forward(X)
    layer.backward(X)
    SGD(lr=0.1).update(layer.params, layer.grads)
    assert float(layer.scale.value) == pytest.approx(3 - 0.1 * (X * X).sum())


class Twice(Layer, abstract=True):
    """x, wired by one layer, and 3 x + 10 by the same."""

    def __init__(self, cell: Layer) -> None:
        super().__init__()
        self.cell = cell

    def wire(self, *inputs, mode):
        return mode.wire(self.cell, inputs[0]) + mode.wire(self.cell, inputs[0] * 3 + 10) * 1000


def test_batch_norm_wired_twice_counts_both_batches() -> None:
    layer = Twice(BatchNormalization(np.ones(1), np.zeros(1)))
    layer.forward(np.array([[0.0], [2.0]]))
    np.testing.assert_allclose(layer.cell.running_mean.value, (0.1 * 1) * 0.9 + 0.1 * 13)
    np.testing.assert_allclose(layer.cell.running_var.value, (0.9 + 0.1 * 1) * 0.9 + 0.1 * 9)


def test_dropout_wired_twice_has_two_masks() -> None:
    y = Twice(Dropout(0.5)).forward(np.ones((40, 5)))
    first, second = y % 1000 > 0, y >= 1000
    assert 0 < (first & second).sum() < min(first.sum(), second.sum())
    np.testing.assert_array_equal(first, Dropout(0.5).forward(np.ones((40, 5))) > 0)
    mode, layer = Mode(train=True), Relu()
    for _ in range(2):
        mode.wire(layer, Input("x", (2, 3)))
    assert mode.uses[layer] == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_whole_numbers_are_inputs_like_any_others(dtype: type) -> None:
    x, t = np.array([[0, 1, 200, 3], [1, 0, 3, 255]]).astype(dtype), np.array([[0.3, 0.7, 0, 0], [0.25] * 4])
    layers = (Sigmoid, Relu, lambda: Affine(np.arange(8.0).reshape(4, 2)), lambda: Dropout(0.25))
    for make in layers:
        whole, real = make(), make()
        y = real.forward(x.astype(float))
        np.testing.assert_array_equal(whole.forward(x), y)
        dy = np.full(y.shape, 0.5)
        np.testing.assert_array_equal(whole.backward(dy.tolist()), real.backward(dy))
    for loss in (SigmoidWithLoss, SoftmaxWithLoss):
        assert loss().forward(x, t) == loss().forward(x.astype(float), t)


def test_a_masked_array_without_a_mask_is_an_array() -> None:
    net = network()
    np.testing.assert_array_equal(net.predict(np.ma.masked_array(X)), net.predict(X))
