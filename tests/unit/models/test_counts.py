"""A benchmark without a clock: a compiled step has no more calls and memory than recorded here."""

import tracemalloc
from importlib import import_module

import numpy as np
import pytest

from nl_models import build
from nl_nodes import Device
from nl_nodes.compiler.fused import Conv

BATCH = 32
# The larger call count of two workers, and the arena's bytes: `python scripts/bench.py --counts`. If a change lowers
# one, record the new figure here.
COUNTS = {
    ("mlp", False): (67, 612_288),
    ("mlp", True): (259, 725_952),
    ("cnn3", False): (77, 7_735_616),
    ("cnn3", True): (162, 12_382_656),
    ("cnn8", False): (378, 11_480_960),
    ("cnn8", True): (699, 15_458_048),
    ("resnet20", True): (2250, 54_971_392),
}
STEADY = 5_000
"""Bytes that a step may allocate temporarily, for its results and Python. The smallest feature map has 12,800."""


@pytest.mark.parametrize(("name", "batch_norm"), COUNTS)
def test_step_has_no_more_calls_and_memory_than_recorded(name: str, batch_norm: bool) -> None:
    net = build(name, batch_norm=batch_norm, device=Device(workers="threads", threads=2))
    plan = net.plan(True, BATCH)
    calls, size = COUNTS[name, batch_norm]
    most = max(map(len, plan.calls))
    assert most <= calls
    assert plan.size <= size


def test_few_channels_are_copied_in_runs_of_images_not_single_pixels() -> None:
    plan = build("cnn3", device=Device(threads=1)).plan(True, BATCH)
    read = [
        args[1]
        for (name, args), (node, _) in zip(plan.calls[0], plan.owners[0], strict=True)
        if isinstance(node, Conv) and name == "copyto" and args[1].shape[2:] == (BATCH, 1)
    ]
    assert len(read) == 2 * 5  # each column in a window of 5x5, forward and backward
    assert {array.strides[2] for array in read} == {4}


@pytest.mark.parametrize(("name", "batch_norm"), COUNTS)
def test_third_step_allocates_nothing(name: str, batch_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net = build(name, batch_norm=batch_norm, device=Device(threads=1))
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((BATCH, *net.input_shape)).astype("float32"), rng.integers(0, 10, BATCH)
    # For calls with mixed dtypes NumPy converts in a buffer of its own, which should not count.
    monkeypatch.setattr(import_module("nl_nodes.runtime.executor"), "BUFFER", 16)
    tracemalloc.start()
    try:
        for _ in range(2):
            net.step(x, t)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        net.step(x, t)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - before < STEADY
