"""Setting parameters and gradients by name copies the values, or is refused and changes nothing."""

import numpy as np
import pytest
from support.assertions import refused
from support.fake_device import FakeBackend, install

from nl_layers import Affine, BatchNormalization, Dropout, FlatDict, Params, SoftmaxWithLoss
from nl_layers.flat import blocks, decayed, paired
from nl_layers.optimizers import SGD
from nl_nodes import Device, Parameter
from nl_nodes.device import backends

install()
FAKE = FakeBackend()
SHAPES = {"W1": (2, 3), "b1": (3,)}


def flat(dtype: str = "float32") -> FlatDict:
    return FlatDict(SHAPES, lambda size: np.zeros(size, dtype))


def plain(dtype: str = "float32") -> Params:
    return Params({name: np.zeros(shape, dtype) for name, shape in SHAPES.items()})


W, B = np.arange(6.0).reshape(2, 3), np.array([7, 8, 9])
SETTING = {
    "item": lambda p: [p.__setitem__("W1", W), p.__setitem__("b1", B)],
    "update from a dictionary": lambda p: p.update({"W1": W, "b1": B}),
    "update from pairs": lambda p: p.update([("W1", W), ("b1", B)]),
    "update by keyword": lambda p: p.update({"W1": W}, b1=B),
    "or": lambda p: p.__ior__({"W1": W.tolist(), "b1": list(B)}),
    "assign": lambda p: p.assign({"b1": B, "W1": W}),
}
REFUSED = {
    "a wrong shape": (lambda p: p.update(b1=B, W1=W.T), ("W1", "(2, 3)", "(3, 2)")),
    "a number for an array": (lambda p: p.update(b1=B, W1=0), ("W1", "(2, 3)", "()")),
    "complex numbers": (lambda p: p.update(b1=B, W1=W * 1j), ("W1", "complex128", "float32")),
    "strings": (lambda p: p.update(b1=B, W1=W.astype(str)), ("W1", "float32")),
    "nothing": (lambda p: p.update(b1=B, W1=None), ("W1", "float32")),
    "a ragged list": (lambda p: p.update(b1=B, W1=[[1], [2, 3]]), ("W1", "(2, 3)", "list")),
    "an unknown name": (lambda p: p.update(b1=B, W2=W), ("'W2'", "W1, b1")),
    "an unknown name by default": (lambda p: p.setdefault("W2", W), ("'W2'", "W1, b1")),
    "a missing name": (lambda p: p.assign({"b1": B}), ("W1",)),
    "no dictionary": (lambda p: p.assign(3), ("int",)),
    "del": (lambda p: p.__delitem__("W1"), ("removed",)),
    "pop": (lambda p: p.pop("W1"), ("removed",)),
    "pop with a default": (lambda p: p.pop("W1", None), ("removed",)),
    "popitem": (lambda p: p.popitem(), ("removed",)),
    "clear": (lambda p: p.clear(), ("removed",)),
}


@pytest.mark.parametrize("make", [flat, plain])
@pytest.mark.parametrize("how", SETTING)
def test_values_are_copied_into_the_live_arrays(make, how: str) -> None:
    params = make()
    before = dict(params)
    SETTING[how](params)
    for name, values in (("W1", W), ("b1", B)):
        assert params[name] is before[name]
        assert params[name].dtype == "float32"
        np.testing.assert_array_equal(params[name], values)
    if isinstance(params, FlatDict):
        np.testing.assert_array_equal(params.flat, [*W.ravel(), *B])


@pytest.mark.parametrize("make", [flat, plain])
@pytest.mark.parametrize("what", REFUSED)
def test_invalid_value_is_refused_and_changes_nothing(make, what: str) -> None:
    params = make()
    change, named = REFUSED[what]
    with refused(*named):
        change(params)
    assert list(params) == list(SHAPES)
    assert not any(array.any() for array in params.values())


def test_entries_may_be_set_from_each_other() -> None:
    params = Params({"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])})
    params.update(a=params["b"], b=params["a"])
    assert [array.tolist() for array in params.values()] == [[3, 4], [1, 2]]
    params["a"] = params["a"][::-1]
    params["b"] -= 1
    params |= {"b": params["b"] * 2}
    assert [array.tolist() for array in params.values()] == [[4, 3], [0, 2]]
    assert params.setdefault("a", np.zeros(2)) is params["a"]


def test_integer_parameters_refuse_fractions() -> None:
    params = plain("int64")
    params["b1"] = B.astype("uint8")
    with refused("b1", "float64", "int64"):
        params["b1"] = B + 0.5
    assert params["b1"].tolist() == B.tolist()


def test_params_copy_is_independent() -> None:
    params = flat()
    params.assign({"W1": W, "b1": B})
    ctx = params.copy()
    params["b1"] = B * 2
    assert ctx["b1"].tolist() == B.tolist()


def test_flat_buffer_can_be_set_at_once() -> None:
    params = flat()
    params.flat = np.arange(9)
    params.flat -= 1
    params.decayed *= 2
    assert [array.tolist() for array in params.values()] == [[[-2, 0, 2], [4, 6, 8]], [5, 6, 7]]
    with refused("flat", "(9,)", "(3,)"):
        params.flat = np.zeros(3)


def test_flat_arrays_are_processed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    flat, matrix = np.arange(12), np.zeros((6, 2))
    monkeypatch.setattr(backends()["cpu"], "block", 5)
    assert [a.tolist() for (a,) in blocks(flat)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert [a.shape for (a,) in blocks(matrix)] == [(6, 2)]
    monkeypatch.setattr(backends()["cpu"], "block", None)
    assert [a.size for (a,) in blocks(flat)] == [12]


def test_device_arrays_accept_host_values() -> None:
    params = FlatDict(SHAPES, Device("fake").zeros)
    params.assign({"W1": W, "b1": FAKE.array(B)})
    np.testing.assert_array_equal(FAKE.host(params.flat), [*W.ravel(), *B])


def test_flat_parameters_and_gradients_are_one_array_each() -> None:
    params, grads = flat(), flat()
    ((param, grad),) = paired(params, grads).values()
    assert (param is params.flat, grad is grads.flat) == (True, True)
    (weights,) = decayed(params)
    assert weights is params.decayed


@pytest.mark.parametrize("of_grads", [flat, plain])
@pytest.mark.parametrize("of_params", [flat, plain])
def test_optimizer_uses_gradients_that_were_set(of_params, of_grads) -> None:
    params, grads = of_params(), of_grads()
    grads["W1"] = grads["W1"] + W
    SGD(lr=1).update(params, grads)
    np.testing.assert_array_equal(params["W1"], -W)


X = np.ones((1, 2))


def test_setting_a_parameter_by_name_changes_the_layer() -> None:
    layer = Affine(np.ones((2, 3)), np.zeros(3))
    layer.forward(X)
    layer.params["weight"] = W
    np.testing.assert_array_equal(layer.forward(X), X @ W)
    layer.weight, layer.bias = 2 * W, B
    np.testing.assert_array_equal(layer.forward(X), X @ (2 * W) + B)
    layer.params = {"bias": [0, 0, 0], "weight": W}
    np.testing.assert_array_equal(layer.forward(X), X @ W)
    layer.params["weight"] -= W
    layer.params.update(bias=B)
    assert isinstance(layer.weight, Parameter)
    np.testing.assert_array_equal(layer.forward(X), [B])


def test_running_statistics_can_be_set() -> None:
    layer = BatchNormalization(np.ones(2), np.zeros(2), eps=0.0)
    layer.running_mean, layer.running_var = [1, 2], np.array([4, 4])
    np.testing.assert_array_equal(layer.forward([[3.0, 2.0]], train=False), [[1, 0]])
    with refused("running_var", "(2,)", "(3,)"):
        layer.running_var = np.ones(3)


def test_invalid_layer_parameter_is_refused() -> None:
    layer = Affine(np.ones((2, 3)))
    for change in (
        lambda: setattr(layer, "weight", np.ones((3, 2))),
        lambda: setattr(layer, "weight", None),
        lambda: setattr(layer, "bias", np.zeros(3)),
        lambda: setattr(layer, "params", {"weight": W, "bias": B}),
        lambda: layer.params.update(weight=W * 1j),
        lambda: layer.params.pop("weight"),
    ):
        with refused():
            change()
    np.testing.assert_array_equal(layer.forward(X), [[2, 2, 2]])


def test_attribute_changed_after_a_pass_takes_effect() -> None:
    layer, loss = Dropout(0.5), SoftmaxWithLoss()
    assert not layer.forward(np.ones(100)).all()
    layer.ratio = 0.0
    np.testing.assert_array_equal(layer.forward(np.ones(100)), np.ones(100))
    value = loss.forward(np.zeros((1, 2)), [0])
    loss.gradient, loss.eta = "exact", 0.5
    assert loss.forward(np.zeros((1, 2)), [0]) == 0.0 < value
