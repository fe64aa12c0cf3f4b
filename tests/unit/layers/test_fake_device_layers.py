"""Every layer, loss and optimizer gives the CPU's values on the fake device, a strict stand-in for a GPU."""

import numpy as np
import pytest
from support.fake_device import FakeArray, FakeBackend, install
from support.layer_cases import LAYER_CASES

from nl_layers import FlatDict, LayerCase, add_weight_decay, optimizers
from nl_layers.module import Module
from nl_nodes import DeviceError
from nl_nodes.verify import draw, upstream

install()
FAKE = FakeBackend()
OPTIMIZERS = [getattr(optimizers, name) for name in optimizers.__all__ if name != "Optimizer"]
SHAPES = {"W1": (3, 4), "b1": (4,), "W2": (4, 2), "gamma1": (4,)}


def passes(case: LayerCase, move) -> tuple[Module, list]:
    """Return the results of a layer's case: two passes forward and backward, then one in inference mode."""
    rng = np.random.default_rng(0)
    layer = case.make(lambda what: move(draw(rng, what)))
    mode = {} if "t" in layer.feeds else {"train": case.train}
    found = []
    for _ in range(2):
        inputs = [move(draw(rng, d)) for d in case.draws]
        y = layer.forward(*inputs, **mode)
        dx = layer.backward(move(upstream(rng, y.shape)))
        found += [y, dx, *layer.grads.values(), *(b.value for b in layer.buffers.values())]
    if mode:
        found.append(layer.forward(*inputs, train=False))
    return layer, found


@pytest.mark.parametrize("case", LAYER_CASES)
def test_layer_on_fake_device_matches_cpu(case: LayerCase) -> None:
    on_cpu, expected = passes(case, lambda value: value)
    on_device, found = passes(case, FAKE.array)
    assert on_device.grads.keys() == on_cpu.grads.keys()
    assert all(isinstance(array, FakeArray) for array in found)
    for array, value in zip(found, expected, strict=True):
        assert array.dtype == value.dtype
        np.testing.assert_array_equal(FAKE.host(array), value)


@pytest.mark.parametrize("name", ["SoftmaxWithLoss", "SigmoidWithLoss", "CrossEntropy"])
def test_loss_on_device_accepts_a_number_as_upstream(name: str) -> None:
    loss, reference = Module.registry[name](), Module.registry[name]()
    rng = np.random.default_rng(1)
    x, t = rng.uniform(0.1, 0.9, (4, 3)).astype("float32"), rng.integers(0, 3, 4)
    assert float(loss.forward(FAKE.array(x), FAKE.array(t))) == float(reference.forward(x, t))
    for dy in (1, 2.5):
        gradient = loss.backward(dy)
        assert gradient.dtype == "float32"
        np.testing.assert_array_equal(FAKE.host(gradient), reference.backward(dy))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("flat", [True, False])
def test_optimizer_on_fake_device_matches_cpu(optimizer, flat: bool) -> None:
    def arrays(seed: int, move) -> dict:
        rng = np.random.default_rng(seed)
        return {name: move(rng.standard_normal(shape)) for name, shape in SHAPES.items()}

    def held(seed: int):
        if not flat:
            return arrays(seed, FAKE.array)
        buffer = FlatDict(SHAPES, lambda size: FAKE.xp.zeros(size, dtype="float64"))
        for name, value in arrays(seed, FAKE.array).items():
            buffer[name][...] = value
        return buffer

    one, two = optimizer(), optimizer()
    params, expected = held(0), arrays(0, np.array)
    for step in range(1, 6):
        grads, others = held(step), arrays(step, np.array)
        add_weight_decay(params, grads, 0.1)
        add_weight_decay(expected, others, 0.1)
        one.update(params, grads)
        two.update(expected, others)
    for name, value in expected.items():
        assert isinstance(params[name], FakeArray)
        np.testing.assert_array_equal(FAKE.host(params[name]), value)
    assert all(isinstance(a, FakeArray) for state in one.state.values() for a in state.values())


def test_layer_on_device_refuses_host_arrays() -> None:
    case = next(c for c in Module.registry["Affine"].cases())
    layer, _ = passes(case, FAKE.array)
    with pytest.raises(DeviceError, match="different devices"):
        layer.forward(np.ones((3, 4)))
