"""Devices: their arrays, random words, workers and BLAS threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from support.fake_device import FakeArray, FakeBackend, install
from support.forked import Forked
from support.forward_oracles import philox as block_of

from nl_nodes import Device, DeviceError
from nl_nodes.device import backend_of, backends
from nl_nodes.philox import philox
from nl_nodes.runtime import Executor, Processes, Threads

SEEDS = [(0, 0, 0), (2**63 + 5, 3, 0), (7, 2**63 + 1, 1), (1, 2, 2**64 - 1)]


def random_bits(seed: int, stream: int, counter: int, count: int) -> list[int]:
    """Return the first words by the definition: words 4b to 4b + 3 are block (b, counter)."""
    blocks = (block_of((b, counter, 0, 0), (seed, stream)) for b in range(-(-count // 4)))
    return [word for block in blocks for word in block][:count]


@pytest.mark.parametrize(("seed", "stream", "counter"), SEEDS)
def test_random_words_are_philoxs_from_any_number_on(seed: int, stream: int, counter: int) -> None:
    expected = random_bits(seed, stream, counter, 30)
    assert backends()["cpu"].random_bits(seed, stream, counter, 30).tolist() == expected
    for start in (0, 1, 3, 4, 6, 13, 20):
        for count in (0, 1, 5, 8):
            found = philox(seed, stream, counter, count, start)
            assert found.tolist() == expected[start : start + count]


def test_a_network_takes_numpys_arrays_numbers_and_lists() -> None:
    install()
    cpu, fake = backends()["cpu"], backends()["fake"]
    for values in ([np.zeros(2)], [np.float32(1), [1.0]], [2.0, [1, 2]], []):
        assert backend_of(values) is cpu
    for values in ([FakeArray(np.zeros(2))], [1.0, FakeArray(np.zeros(2))]):
        assert backend_of(values) is fake
    assert cpu.owns(np.zeros(2))
    assert cpu.owns(np.float32(1))
    assert not cpu.owns(1.0)


def test_arrays_have_the_devices_dtype_and_labels_their_own() -> None:
    for dtype in ("float32", "float64"):
        device, given = Device(dtype=dtype, threads=1), np.arange(3)
        array = device.array(given)
        assert (array.dtype, array.tolist()) == (dtype, [0.0, 1.0, 2.0])
        assert device.array(array) is array
        assert device.labels(given) is given
        assert device.zeros(3).dtype == dtype
        assert device.zeros(3).tolist() == [0.0, 0.0, 0.0]


def test_graphs_run_compiled_on_numpy_alone_and_where_asked_for() -> None:
    install()
    assert Device(threads=1).compiles
    assert not Device(compile=False).compiles
    assert not Device("fake").compiles
    assert not Device("fake", compile=False).compiles


def test_values_are_finite_where_their_squares_overflow_too(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(threads=1)
    large = np.full(3, 1e30, "float32")
    assert device.finite(large, large)
    for bad in (np.inf, -np.inf, np.nan):
        assert not device.finite(large, np.array([1.0, bad, 2.0], "float32"))
    monkeypatch.delattr(np, "isfinite")  # which is slow, and only used if the sum of squares is not finite
    assert device.finite(np.ones(3), np.zeros((0, 2)))


@pytest.fixture
def five_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nl_nodes.device.device.cpu_count", lambda: 5)


@pytest.mark.usefixtures("five_cores")
@pytest.mark.parametrize(
    ("compile_", "threads", "limit"), [(False, None, 5), (False, 3, 3), (True, None, 1), (True, 3, 1)]
)
def test_blas_has_the_threads_that_no_worker_takes(
    compile_: bool, threads: int | None, limit: int, monkeypatch
) -> None:
    library = SimpleNamespace(num_threads=8)
    library.set_num_threads = lambda count: setattr(library, "num_threads", count)
    monkeypatch.setattr("nl_nodes.device.blas._libraries", lambda: [library])
    with Device(compile=compile_, threads=threads).limits():
        assert library.num_threads == limit
    assert library.num_threads == 8


class RoundingBackend(FakeBackend):
    """The fake GPU, which has TF32."""

    rounds = False

    @contextmanager
    def tf32(self) -> Iterator[None]:
        self.rounds = True
        yield
        self.rounds = False


def test_tf32_is_on_in_the_passes_of_its_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = RoundingBackend()
    monkeypatch.setitem(backends(), "rounding", backend)
    rounding, exact = Device("rounding", tf32=True), Device("rounding")
    for device, rounds in ((rounding, True), (exact, False)):
        with device.limits():
            assert backend.rounds == rounds
        assert not backend.rounds
    with pytest.raises(DeviceError, match=r"device\.tf32=true is for a GPU"):
        Device(tf32=True)


@pytest.mark.usefixtures("five_cores")
def test_a_device_has_the_workers_that_are_asked_for() -> None:
    for workers, kind in (("threads", Threads), ("processes", Processes), ("auto", Processes)):
        device = Device(workers=workers, threads=2)
        assert type(device.executor) is kind
        assert device.executor is device.executor
        assert device.executor.count == 2
        alone = Device(workers=workers, threads=1)
        assert type(alone.executor) is Executor
        assert alone.executor is alone.executor
    assert Device(workers="threads").executor.count == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_workers_of_its_own() -> None:
    device = Device(threads=1)
    assert device.executor.process == os.getpid()
    assert Forked(lambda: device.executor.process == os.getpid()).result() is True


def test_where_processes_share_no_memory_workers_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nl_nodes.device.device.can_share_memory", lambda: False)
    assert type(Device(threads=2).executor) is Threads
    assert type(Device(threads=2, workers="threads").executor) is Threads
