"""Copies and pickles of layers, losses, optimizers, parameters and devices are equal and independent."""

import numpy as np
import pytest
from support.copies import COPIES
from support.fake_device import FakeArray, FakeBackend, install

from nl_layers import Affine, BatchNormalization, Dropout, FlatDict, SigmoidWithLoss, SoftmaxWithLoss, optimizers
from nl_layers.optimizers import Adam
from nl_nodes import Device, UserError

install()
FAKE = FakeBackend()
RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((6, 4)), np.array([0, 1, 2, 3, 0, 1])
LAYERS = {
    "affine": lambda: Affine(np.random.default_rng(1).standard_normal((4, 4)), np.zeros(4)),
    "batch norm": lambda: BatchNormalization(np.ones(4), np.zeros(4), momentum=0.5, eps=0.1),
    "dropout": lambda: Dropout(0.5, seed=3, stream=2),
}
OPTIMIZERS = [getattr(optimizers, name) for name in optimizers.__all__ if name != "Optimizer"]


def two_passes(layer) -> list[np.ndarray]:
    found = []
    for _ in range(2):
        found += [layer.forward(X), layer.backward(X), *layer.grads.values(), layer.forward(X, train=False)]
    return found


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", LAYERS)
def test_copied_layer_is_equal_and_independent(name: str, how: str) -> None:
    layer = LAYERS[name]()
    two_passes(layer)
    twin, expected = COPIES[how](layer), two_passes(COPIES[how](layer))
    with pytest.raises(UserError, match="run forward first"):
        twin.backward(X)
    for leaf in (*layer.parameters.values(), *layer.buffers.values()):
        leaf.value[...] = 7  # must not change the copy
    for found, value in zip(two_passes(twin), expected, strict=True):
        np.testing.assert_array_equal(found, value)
    assert all((leaf.value == 7).all() for leaf in (*layer.parameters.values(), *layer.buffers.values()))
    twin.params |= {key: array * 0 for key, array in twin.params.items()}


@pytest.mark.parametrize("how", COPIES)
def test_copied_loss_keeps_its_settings(how: str) -> None:
    for loss in (SoftmaxWithLoss("exact", eta=0.1), SigmoidWithLoss()):
        value = loss.forward(X, T)
        twin = COPIES[how](loss)
        assert twin.forward(X, T) == value
        np.testing.assert_array_equal(twin.backward(), loss.backward())


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda c: c.__name__)
def test_copied_optimizer_is_equal_and_independent(make, how: str) -> None:
    optimizer = make()
    start = FlatDict({"W1": (4, 4), "b1": (4,)}, np.ones)
    optimizer.update(start, start)
    twin = COPIES[how](optimizer)
    results = []
    for one in (optimizer, twin, optimizer):
        params = FlatDict({"W1": (4, 4), "b1": (4,)}, np.ones)
        one.update(params, start)
        results.append(params.flat)
    np.testing.assert_array_equal(results[0], results[1])
    assert (optimizer.steps, twin.steps) == (3, 2)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "read-only"])
def test_copied_params_are_independent_and_flat(how: str) -> None:
    flat = FlatDict({"b1": (2,), "W1": (2, 2)}, np.zeros)
    flat["W1"] = [[1, 2], [3, 4]]
    twin, layer = COPIES[how](flat), Affine(np.ones((1, 1)))
    flat["W1"] = np.zeros((2, 2))
    assert list(twin) == ["b1", "W1"]
    assert twin.flat.tolist() == [1, 2, 3, 4, 0, 0]
    twin["b1"] = [5, 6]
    Adam().update(twin, twin)
    assert twin.flat[-1] != 6
    plain = COPIES[how](layer.params)
    layer.weight = [[9]]
    assert plain["weight"].tolist() == [[1]]


def test_copied_layers_keep_shared_parameters_shared() -> None:
    one, other = LAYERS["affine"](), LAYERS["affine"]()
    other.weight = one.weight
    for copied in (COPIES["deepcopy"], COPIES["pickle"]):
        first, second = copied([one, other])
        first.weight = np.full((4, 4), 2)
        assert (second.params["weight"] == 2).all()
        assert not (one.params["weight"] == 2).any()


def test_copied_layer_stays_on_its_device() -> None:
    layer = Affine(FAKE.array(np.ones((2, 2))))
    assert isinstance(COPIES["deepcopy"](layer).params["weight"], FakeArray)


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_copied_device_has_equal_settings(how: str) -> None:
    device = Device("cpu", dtype="float64", compile=False, threads=3, workers="threads")
    twin = COPIES[how](device)
    for name in ("name", "dtype", "compile", "threads", "workers", "index", "tf32", "backend"):
        assert getattr(twin, name) == getattr(device, name)
