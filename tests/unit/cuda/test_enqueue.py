"""A training step on a stand-in for a GPU is one graph with the optimizer's step in it, and has the CPU's numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_card import GRAPH, LAUNCH, FakeCardBackend
from support.fake_device import ALLOCATION, EVENTS, TO_DEVICE
from support.kernels.executor import COMPILER, NO_COMPILER

from nl_layers import add_weight_decay
from nl_layers.optimizers import LAMB, SGD, AdaGrad, Adam, AdamW, Lion, Momentum, Muon, Nesterov, Optimizer, RMSprop
from nl_models import Network, mlp
from nl_nodes import Device, UserError
from nl_nodes.device import backends

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

BATCH, DECAY = 5, 1e-2


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(backends(), "fake", FakeCardBackend())


def networks(**form: Any) -> tuple[Network, Network]:
    """Return a network on the CPU and the same on the stand-in."""
    cpu = mlp((1, 3, 3), 4, hidden=[6], device=Device(dtype="float64", threads=1), **form)
    return cpu, cpu.on(Device("fake", dtype="float64"))


def batch(net: Network, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((BATCH, *net.input_shape)), rng.integers(0, net.classes, BATCH)


def cpu_step(net: Network, optimizer: Optimizer, x: Any, t: Any) -> tuple[float, int]:
    done = net.step(x, t)
    add_weight_decay(net.params, done.grads, DECAY)
    optimizer.update(net.params, done.grads)
    return float(done.loss), net.count_correct(done.logits, t)


def events_of(run: Callable[[], object]) -> Counter[str]:
    before = Counter(EVENTS)
    run()
    return Counter(EVENTS) - before


@pytest.mark.parametrize("kind", [SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam, AdamW, Lion])
def test_a_step_is_one_graph_with_the_cpus_numbers(kind: type[Optimizer]) -> None:
    cpu, gpu = networks(batch_norm=True, dropout=0.2)
    optimizers = kind(), kind()
    for step in range(4):
        for optimizer in optimizers:
            optimizer.lr *= 0.5
            if step == 2:  # as from a checkpoint
                optimizer.load_state_dict(optimizer.state_dict(), optimizer.steps)
        expected = cpu_step(cpu, optimizers[0], *batch(cpu, step))
        done = gpu.enqueue(optimizers[1], *batch(gpu, step), DECAY)
        assert (float(done.loss), int(done.hits), bool(done.finite)) == (*map(pytest.approx, expected), True)
    for key, value in cpu.state_dict().items():
        np.testing.assert_allclose(gpu.state_dict()[key], value, rtol=1e-9, atol=1e-12)
    for key, value in optimizers[0].state_dict().items():
        found = gpu.device.host(optimizers[1].state_dict()[key])
        np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-12)


def test_a_step_does_not_wait() -> None:
    _, net = networks(batch_norm=True)
    optimizer, given = Adam(), batch(net)
    net.enqueue(optimizer, *given, DECAY)
    done = events_of(lambda: net.enqueue(optimizer, *given, DECAY))
    # launches: the number of the pass and Adam's two numbers; memory: loss, logits, and three on the way to the hits
    assert done == {GRAPH: 1, LAUNCH: 3, TO_DEVICE: 2, ALLOCATION: 5}


@pytest.mark.parametrize("where", ["an image", "a weight"])
def test_nothing_changes_from_a_pass_on_that_is_not_finite(where: str) -> None:
    _, net = networks(batch_norm=True)
    optimizer, (x, t) = Momentum(), batch(net)
    assert net.enqueue(optimizer, x, t).finite
    if where == "a weight":
        net.params["W1"][...] = net.device.array(np.full((9, 6), np.inf))
    before, velocity = net.state_dict(), optimizer.state_dict()["/velocity"]
    bad = np.where(np.arange(BATCH)[:, None, None, None] == 1, np.nan, x) if where == "an image" else x
    assert not net.enqueue(optimizer, bad, t).finite
    assert not net.enqueue(optimizer, x, t).finite
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    np.testing.assert_array_equal(net.device.host(optimizer.state_dict()["/velocity"]), net.device.host(velocity))
    if where == "an image":
        net.finite_so_far[...] = 0
        assert net.enqueue(optimizer, x, t).finite
        assert not np.array_equal(net.state_dict()["W1"], before["W1"])


def test_a_step_without_a_gpu_is_refused() -> None:
    cpu, _ = networks()
    optimizer = SGD()
    for net in (cpu, cpu.on(Device("fake", compile=False))):
        with pytest.raises(UserError, match="enqueue needs compiled graphs on a GPU: take step, then optimizer"):
            net.enqueue(optimizer, *batch(net))
    assert optimizer.steps == cpu.passes == 0


@pytest.mark.parametrize("kind", [LAMB, Muon])
def test_an_optimizer_that_is_not_elementwise_is_refused(kind: type[Optimizer]) -> None:
    _, net = networks()
    optimizer, before = kind(), net.state_dict()
    with pytest.raises(UserError, match=f"{kind.__name__} is not elementwise, so a GPU does not record it: take step"):
        net.enqueue(optimizer, *batch(net))
    assert (optimizer.steps, net.passes) == (0, 0)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_compiling_a_step_changes_nothing() -> None:
    _, net = networks(batch_norm=True)
    optimizer, before = Momentum(), net.state_dict()
    x, t = batch(net)
    net.enqueue(optimizer, x * np.nan, t)  # compiles, and changes nothing itself
    assert (optimizer.now, optimizer.lr, optimizer.steps) == ({"lr": 0.01}, 0.01, 1)
    assert not net.device.host(optimizer.state[""]["velocity"]).any()
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


class ReadsLr(SGD):
    """An optimizer whose learning rate a recording would keep as it is at the first step."""

    def update_array(self, param, grad, **state):
        param -= self.lr * grad


def test_an_optimizer_that_reads_a_changing_number_is_refused() -> None:
    _, net = networks()
    optimizer = ReadsLr()
    with pytest.raises(UserError, match=r"ReadsLr\.update_array reads self\.lr: on a GPU take it from self\.now"):
        net.enqueue(optimizer, *batch(net))
    assert optimizer.lr == 0.01


def test_another_optimizer_or_setting_is_recorded_anew() -> None:
    nets = networks()
    for net, take in zip(nets, (cpu_step, lambda net, *given: net.enqueue(*given, DECAY)), strict=True):
        optimizers = [SGD(), Momentum(momentum=0.5), SGD(), Momentum(momentum=0.1)]
        optimizers[3].state = optimizers[1].state
        for optimizer in optimizers:
            take(net, optimizer, *batch(net))
        optimizers[1].momentum = 0.8  # type: ignore[attr-defined]
        take(net, optimizers[1], *batch(net))
    expected, found = (net.device.host(net.params.flat) for net in nets)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)
