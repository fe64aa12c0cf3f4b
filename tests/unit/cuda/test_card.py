"""Networks on a stand-in for a GPU: the CPU's numbers, one graph a pass, and nothing in it that a GPU forbids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.assertions import refused
from support.fake_card import GRAPH, LAUNCH, PRODUCT, FakeCard, FakeCardBackend
from support.fake_device import ALLOCATION, EVENTS, TO_DEVICE, WAIT, FakeArray
from support.forked import Forked
from support.kernels.executor import COMPILER, NO_COMPILER
from support.small_models import CLASSES, FORMS, WIDTHS

import nl_models
from nl_models import Network
from nl_nodes import Device
from nl_nodes.compiler import profile
from nl_nodes.device import backends
from nl_nodes.runtime.cuda import CudaExecutor

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

BATCH = 5


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCard:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend = FakeCardBackend()
    monkeypatch.setitem(backends(), "fake", backend)
    return backend.card


def build(device: Device, name: str = "mlp", **form: Any) -> Network:
    return nl_models.build(name, device=device, width=WIDTHS[name], classes=CLASSES, **form)


def on_card(name: str = "mlp", **form: Any) -> Network:
    return build(Device("fake", dtype="float64"), name, **form)


def batch(net: Network, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((BATCH, *net.input_shape)), rng.integers(0, CLASSES, BATCH)


def events_of(run: Callable[[], object]) -> Counter[str]:
    before = Counter(EVENTS)
    run()
    return Counter(EVENTS) - before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["mlp", "cnn3", "cnn8"])
def test_a_network_trains_and_predicts_as_on_the_cpu(name: str, form: str) -> None:
    nets = [build(Device(dtype="float64", threads=1), name, **FORMS[form]), on_card(name, **FORMS[form])]
    for step in range(2):
        found = []
        for net in nets:
            done = net.step(*batch(net, step))
            found.append([net.device.host(a) for a in (done.loss, done.logits, done.grads.flat)])
            net.params.flat[...] = net.params.flat - 0.1 * done.grads.flat
        for expected, array in zip(*found, strict=True):
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    expected, found_ = (net.device.host(net.predict(batch(net)[0])) for net in nets)
    np.testing.assert_allclose(found_, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    for key, value in nets[0].state_dict().items():
        np.testing.assert_allclose(nets[1].state_dict()[key], value, rtol=0, atol=1e-10 * np.abs(value).max())


def test_a_pass_is_one_graph() -> None:
    net = on_card(batch_norm=True)
    x, t = batch(net)
    plan = net.plan(True, BATCH)
    done = events_of(lambda: plan.run({"x": x, "t": t}, 0))
    assert done == {GRAPH: 1, LAUNCH: 1, TO_DEVICE: 2, ALLOCATION: 2}  # the number of the pass; loss and logits


def test_replays_are_equal_bit_by_bit_and_differ_with_the_pass() -> None:
    net = on_card(dropout=0.5)
    x, t = batch(net)
    plan = net.plan(True, BATCH)
    grads = []
    for number in (0, 1, 0):
        plan.run({"x": x, "t": t}, number)
        grads.append(net.device.host(net._grads.flat))
    assert np.array_equal(grads[0], grads[2])
    assert not np.array_equal(grads[0], grads[1])


def test_the_fastest_algorithm_is_timed_once_and_kept(card: FakeCard) -> None:
    def step() -> set[int]:
        net = on_card()
        net.step(*batch(net))
        executor = net.device.executor
        assert isinstance(executor, CudaExecutor)
        found = executor.algorithms.state()["algorithms"]
        assert isinstance(found, dict)
        return {int.from_bytes(bytes.fromhex(text)[:8], "little") for text in found.values()}

    assert step() == {43}  # of the two deterministic ones the stand-in's later one is faster
    timed = card.timed
    assert timed > 0
    assert step() == {43}
    assert card.timed == timed


FAULTS: dict[str, tuple[Callable[[FakeArray], object], str]] = {
    "a host conversion": (lambda a: np.asarray(a), "conversion"),
    "a host array beside one of the device": (lambda a: a + np.ones(1), "unsupported operand|mixed"),
    "an allocation": (lambda a: a + a, "an allocation"),
    "a synchronisation": (lambda a: bool(a), "a synchronisation"),
    "a copy to the host": (lambda a: backends()["fake"].host(a), "a synchronisation"),
    "a copy from the host": (lambda a: backends()["fake"].array(np.ones(1)), "a copy from the host"),
    "CuPy's own product": (lambda a: backends()["fake"].xp.matmul(a, a), "cuBLAS API during stream capture"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_pass_is_caught_in_capture(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls are then launched one by one, and a line says why; an error of its own stays one."""
    plant, named = FAULTS[fault]
    bind = CudaExecutor._bound_call

    def planted(self: CudaExecutor, call: Any, *args: Any) -> Callable[[], None]:
        bound = bind(self, call, *args)

        def run() -> None:
            bound()
            if EVENTS.capturing:
                plant(self._pass_index)

        return run

    monkeypatch.setattr(CudaExecutor, "_bound_call", planted)
    net = on_card()
    with pytest.warns(RuntimeWarning, match=f"no CUDA graph, each kernel is launched by itself: .*({named})"):
        plan = net.plan(True, BATCH)
    x, t = batch(net)
    done = events_of(lambda: plan.run({"x": x, "t": t}, 0))
    assert done[GRAPH] == 0
    assert done[LAUNCH] + done[PRODUCT] == len(plan.calls[0]) + 1


def test_without_a_graph_the_numbers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net = on_card(batch_norm=True, dropout=0.3)
    expected = net.device.host(net.step(*batch(net)).grads.flat)
    other = build(Device("fake", dtype="float64", debug=True), batch_norm=True, dropout=0.3)
    assert events_of(lambda: other.step(*batch(other)))[GRAPH] == 0
    other.passes = 0
    assert np.array_equal(other.device.host(other.step(*batch(other)).grads.flat), expected)


def test_debug_names_the_node_whose_kernel_fails(card: FakeCard) -> None:
    net = build(Device("fake", dtype="float64", debug=True), "cnn3")
    plan = net.plan(True, BATCH)
    number = next(n for n, (name, _) in enumerate(plan.calls[0]) if name == "kernel" and plan.owners[0][n][0].path)
    card.broken = plan.calls[0][number][1][0].name
    node, direction = plan.owners[0][number]
    x, t = batch(net)
    with refused(f"{direction} of {node!r} of {node.path}", "illegal memory access"):
        plan.run({"x": x, "t": t}, 0)
    with refused(f"{direction} of {node!r} of {node.path}", "illegal memory access"):
        net.plan(True, BATCH)  # which runs the calls once


def test_without_debug_an_error_says_how_to_find_the_call(card: FakeCard) -> None:
    net = on_card()
    card._error = "cudaErrorIllegalAddress: an illegal memory access was encountered"
    with refused("the GPU failed", "illegal memory access", "device.debug=true"):
        net.step(*batch(net))


def test_a_plan_that_does_not_fit_names_the_batch_that_does(card: FakeCard) -> None:
    net = on_card("cnn3")
    card.limit = net.plan(True, 8).size
    with refused("are needed on the GPU", "are free", "trainer.batch_size="):
        net.plan(True, 40)
    card.limit = 64
    with refused("are needed on the GPU", "smaller batches"):
        net.plan(True, 8)


def test_a_plan_is_profiled_call_by_call() -> None:
    net = on_card("cnn3")
    x, t = batch(net)
    rows = profile(net.plan(True, BATCH), {"x": x, "t": t}, repeats=2)
    assert {row.direction for row in rows} == {"forward", "backward"}
    assert all(row.seconds > 0 for row in rows)


def test_arrays_of_the_host_are_copied_by_a_plan_and_those_of_the_gpu_stay_there() -> None:
    compiled, reference = Device("fake"), Device("fake", compile=False)
    assert type(compiled.feed([1.0])) is np.ndarray
    assert type(reference.feed([1.0])) is type(compiled.feed(compiled.array([1.0]))) is FakeArray
    assert (compiled.card is None, reference.card is None, Device().card is None) == (False, True, True)


def test_debug_is_for_a_gpu() -> None:
    with refused("device.debug=true is for a GPU"):
        Device(debug=True)


def test_a_fork_cannot_use_the_gpu() -> None:
    net = on_card()
    net.step(*batch(net))

    assert "cannot be used in a fork" in Forked(lambda: net.device.executor).result()


def test_a_step_copies_from_the_host_once_and_waits_once() -> None:
    net = on_card(batch_norm=True, dropout=0.3)
    x, t = batch(net)
    net.step(x, t)
    done = events_of(lambda: net.step(x, t))
    assert done == {GRAPH: 1, LAUNCH: 1, TO_DEVICE: 2, ALLOCATION: 2, WAIT: 1}


@pytest.mark.parametrize("where", ["image", "weight"])
def test_a_pass_that_is_not_finite_is_left_to_the_reference(where: str) -> None:
    """Running statistics stay as they are where the loss is not finite, as on the CPU."""
    found = []
    for net in (build(Device(dtype="float64", threads=1), "cnn3", batch_norm=True), on_card("cnn3", batch_norm=True)):
        x, t = batch(net)
        net.step(x, t)
        if where == "image":
            x[0, 0, 3, 3] = np.inf
        else:
            net.params["W1"][...] = net.device.array(np.full(net.params["W1"].shape, np.nan))
        with np.errstate(all="ignore"):
            done = net.step(x, t)
        found.append((net.device.host(done.grads.flat), net.state_dict()))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-9)
    for key, value in found[0][1].items():
        np.testing.assert_allclose(found[1][1][key], value, rtol=1e-9)


def test_compiling_leaves_running_statistics_alone() -> None:
    net = on_card("cnn3", batch_norm=True)
    before = net.state_dict()
    net.plan(True, BATCH)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
