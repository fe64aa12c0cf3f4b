"""Faults of kernels that the tests must notice, each planted in the kernels of a small plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.kernels.comparison import graph_error
from support.kernels.executor import COMPILER, NO_COMPILER, KernelExecutor
from support.kernels.forms import ERROR, model
from support.kernels.networks import network_error
from support.kernels.planted import BESIDE_READ, BESIDE_WRITTEN, Planted, rewritten, without
from support.kernels.recorded import run_recorded

from nl_nodes import Graph, Input, Sum
from nl_nodes.runtime.call import Call

pytestmark = [pytest.mark.kernels, pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)]
SHAPE = (3000, 40)
BARRIER = "THEN_EACH_THREAD"


def sum_error(kernels: KernelExecutor) -> float:
    """Return the error of a sum that takes two launches."""
    x = np.random.default_rng(0).standard_normal(SHAPE)
    return graph_error(Graph(Sum(Input("x", SHAPE, gradient=False), 0)), {"x": x}, {}, kernels)


def test_a_missing_barrier_is_noticed() -> None:
    """Each but the last one, after which a thread reads what it wrote itself."""
    counts: list[int] = []

    def counted(calls: list[Call]) -> list[Call]:
        counts.extend(args[0].text.count(BARRIER) for _, args in calls)
        return calls

    assert sum_error(Planted(counted)) <= ERROR
    assert len(counts) == 2
    for number in range(max(counts) - 1):
        with pytest.raises(AssertionError, match="accesses to what another thread writes"):
            sum_error(Planted(rewritten(BARRIER, "EACH_THREAD", number)))


@pytest.mark.parametrize("plant", [BESIDE_READ, BESIDE_WRITTEN], ids=["read", "written"])
def test_an_access_outside_an_array_is_noticed(plant: Any) -> None:
    with pytest.raises(AssertionError, match="accesses outside an array"):
        network_error(model("mlp", "plain"), 5, kernels=Planted(plant))


def test_a_thread_that_writes_what_another_one_reads_is_noticed() -> None:
    """The threads of an update, in place, read the parameter beside theirs."""
    x = np.random.default_rng(0).standard_normal(300)
    with pytest.raises(AssertionError, match="accesses to what another thread writes"):
        shifted(x, Planted(rewritten(r"(= p\d\[)a0\]", r"\g<1>(a0 + 1) % 300]")))
    shifted(x, KernelExecutor())


def shifted(x: np.ndarray, kernels: KernelExecutor) -> None:
    run_recorded(halve, [x], {"factor": 0.5}, kernels)


def halve(arrays: Any, numbers: Any) -> None:
    (x,) = arrays
    x *= numbers["factor"]


def test_a_kernel_or_product_left_out_is_noticed() -> None:
    """What it should have written is read as NaN, or stays NaN."""
    net, counts = model("mlp", "plain"), list[int]()
    assert network_error(net, 5, kernels=Planted(lambda calls: counts.append(len(calls)) or calls)) <= ERROR
    for number in range(counts[0]):
        assert not network_error(net, 5, kernels=Planted(without(number))) <= ERROR
