"""A benchmark that needs no clock: what a compiled step does, and that it does no more than it did."""

import tracemalloc

import numpy as np
import pytest

from nl_models import build
from nl_nodes import Device
from nl_nodes.compiler.fused import Conv

BATCH = 32
# Calls of the busier of two workers, and bytes of the arena: `python scripts/bench.py --counts`. Less is better; who
# gets there writes the new figure here.
COUNTS = {
    ("mlp", False): (67, 612_288),
    ("mlp", True): (283, 760_448),
    ("cnn3", False): (117, 10_094_912),
    ("cnn3", True): (173, 12_307_904),
    ("cnn8", False): (398, 11_982_784),
    ("cnn8", True): (719, 15_458_048),
}
STEADY = 5_000
"""Bytes that a step may take for a moment: for its results and for Python. The least map or layer has 12,800."""


@pytest.mark.parametrize(("name", "batch_norm"), COUNTS)
def test_a_step_takes_no_more_calls_and_memory_than_before(name: str, batch_norm: bool) -> None:
    net = build(name, batch_norm=batch_norm, device=Device(workers="threads", threads=2))
    plan = net.plan(True, BATCH)
    calls, size = COUNTS[name, batch_norm]
    most = max(map(len, plan.calls))
    assert most <= calls
    assert plan.size <= size


def test_windows_copy_runs_of_images_and_not_one_pixel_at_a_time() -> None:
    plan = build("cnn3", device=Device(threads=1)).plan(True, BATCH)
    read = [
        args[1]
        for (name, args), (node, _) in zip(plan.calls[0], plan.owners[0], strict=True)
        if isinstance(node, Conv) and name == "copyto" and args[1].shape[2:] == (BATCH, 1)
    ]
    assert len(read) == 2 * 2 * 25  # each place in a window of 5x5, in two parts, forward and backward
    assert {array.strides[2] for array in read} == {4}


@pytest.mark.parametrize(("name", "batch_norm"), COUNTS)
def test_the_third_step_allocates_nothing(name: str, batch_norm: bool) -> None:
    net = build(name, batch_norm=batch_norm, device=Device(threads=1))
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((BATCH, 1, 28, 28)).astype("float32"), rng.integers(0, 10, BATCH)
    # Where a call mixes types, NumPy converts a few numbers at a time, in memory of its own; they should not count.
    usual = np.setbufsize(16)
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
        np.setbufsize(usual)
    assert peak - before < STEADY
