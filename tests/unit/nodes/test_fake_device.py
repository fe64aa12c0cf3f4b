"""Every node gives the CPU's values on the fake device, which refuses what a GPU refuses."""

import numpy as np
import pytest
from support.fake_device import FakeArray, FakeBackend, install
from support.node_cases import NODE_CASES

from nl_nodes import Add, Device, DeviceError, Graph, Input
from nl_nodes.cases import Case
from nl_nodes.device.backend import backends
from nl_nodes.verify import draw, upstream

install()
FAKE = FakeBackend()


@pytest.mark.parametrize("case", NODE_CASES)
def test_node_on_the_device(case: Case) -> None:
    rng = np.random.default_rng(0)
    feeds = {f"x{i}": draw(rng, d) for i, d in enumerate(case.draws)}
    inputs = [Input(name, gradient=d.domain != "labels") for name, d in zip(feeds, case.draws, strict=True)]
    graph = Graph(case.build(*inputs))
    y = graph.forward(**feeds)
    dy = upstream(rng, y.shape)
    expected = graph.backward(dy)
    on_device = graph.forward(**{name: FAKE.array(value) for name, value in feeds.items()})
    graph.passes = 0
    assert isinstance(on_device, FakeArray)
    grads = graph.backward(FAKE.array(dy))
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        assert isinstance(grad, FakeArray)
        if "IndexMask" not in repr(graph.order):
            np.testing.assert_array_equal(FAKE.host(grad), expected[name])


def test_it_refuses_what_a_gpu_refuses() -> None:
    array = FAKE.array([1.0, 2.0])
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(array)
    for mix in (lambda: array + np.ones(2), lambda: np.ones(2) * array, lambda: np.exp(array)):
        with pytest.raises(TypeError):
            mix()
    with pytest.raises(AttributeError):
        _ = FAKE.xp.tensordot


def test_mixed_devices_are_refused() -> None:
    graph = Graph(Add(Input("a"), Input("b")))
    with pytest.raises(DeviceError, match="different devices"):
        graph.forward(a=np.ones(2), b=FAKE.array([1.0, 2.0]))


def test_a_second_gpu_in_one_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends(), "gpu", FAKE)
    assert Device("gpu").index == 0
    with pytest.raises(DeviceError, match=r"device\.index=1: this process uses GPU 0"):
        Device("gpu", index=1)
