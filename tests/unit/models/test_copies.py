"""Copies of networks, in this process and in others, train like the original and share no memory with it."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from support.copies import COPIES, train
from support.forked import Forked

from nl_layers.optimizers import Adam
from nl_models import Network, mlp
from nl_nodes import Device, DeviceError

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((8, 4)), np.arange(8) % 3
DEVICES = {
    "reference": {"compile": False},
    "one": {"threads": 1},
    "threads": {"threads": 2, "workers": "threads"},
    "processes": {"threads": 2, "workers": "processes"},
}


def network(device: str = "one", **form) -> tuple[Network, Adam]:
    """Return a network with batch norm and dropout, and its optimizer, after some training."""
    made = Device(dtype="float64", **DEVICES[device])
    net, adam = mlp(input_shape=(4,), classes=3, hidden=[6, 5], batch_norm=True, dropout=0.5, device=made), Adam()
    train(net, adam, X, T)
    return net, adam


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in expected)


@pytest.mark.parametrize(
    ("how", "device"), [*((how, "one") for how in COPIES), *(("deepcopy", d) for d in DEVICES if d != "one")]
)
def test_copied_network_trains_equally_and_independently(how: str, device: str) -> None:
    net, adam = network(device)
    twin, other = COPIES[how]((net, adam)) if how != "copy" else (COPIES[how](net), COPIES[how](adam))
    before = net.predict(X)
    result = train(twin, other, X, T)
    np.testing.assert_array_equal(net.predict(X), before)  # the copy's steps have not changed the original
    assert same(result, train(net, adam, X, T))
    assert result["passes"] == 4
    net.params |= {name: array * 0 for name, array in net.params.items()}
    assert same(twin.state_dict(), {k: v for k, v in result.items() if k not in ("loss", "passes")})
    assert np.shares_memory(twin.layers[0].params["weight"], twin.params.flat)
    assert not np.shares_memory(twin.params.flat, net.params.flat)


def test_spawned_process_trains_a_copy() -> None:
    net, adam = network()
    before = net.predict(X)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        result = pool.submit(train, net, adam, X, T).result(timeout=120)
    np.testing.assert_array_equal(net.predict(X), before)
    assert same(result, train(net, adam, X, T))


def listed(result: dict) -> dict:
    return {name: np.asarray(value).tolist() for name, value in result.items()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("device", DEVICES)
def test_forked_process_has_its_own_network(device: str) -> None:
    net, adam = network(device)
    view, params = net.params["W1"], net.params

    def in_child() -> dict:
        result = listed(train(net, adam, X, T))
        assert net.params is params
        net.params["W1"] *= 2  # changed here, but not in the parent
        assert np.array_equal(net.state_dict()["W1"], 2 * np.array(result["W1"]))
        return result

    forked = Forked(in_child)
    expected = listed(train(net, adam, X, T))  # the parent trains on; the waiting child must not be affected
    zeros = {name: array * 0 for name, array in net.params.items()}
    net.params.update(zeros)
    assert forked.result() == expected
    assert not view.any()
    assert not net.params.flat.any()
    net.params.flat[...] = 1
    assert np.isfinite(train(net, adam, X, T)["loss"])  # with its workers, which the child has not ended


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("device", ["one", "threads"])
def test_plan_of_the_parent_is_refused_in_a_fork(device: str) -> None:
    plan, feeds = network(device)[0].plan(True, 8), {"x": X, "t": T}

    def in_child() -> str:
        with pytest.raises(DeviceError, match="compile the graph again"):
            plan.run(feeds, 0)
        return "refused"

    assert Forked(in_child).result() == "refused"
    assert np.isfinite(plan.run(feeds, 0)[0])
