"""Counts of a step's kernels, and the least time that a GPU takes for them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from support.kernels.full_width import BATCH, counts
from support.scripts import SCRIPTS, run_script

from nl_layers.optimizers import SGD
from nl_models import build
from nl_nodes import Device
from nl_nodes.compiler.cuda.check import Counts


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_the_scripts_counts_are_those_whose_limits_are_tested() -> None:
    net = build("mlp", device=Device(threads=1))
    kernel_counts: Any = import_module("kernel_counts")
    found = kernel_counts.step_counts(net, BATCH)
    assert found == counts("mlp")
    # Forward, and backward to weights and to inputs, the first layer's apart.
    sizes = [p.size for p in net.params.values() if p.ndim == 2]
    assert found.flops >= 2 * BATCH * (3 * sum(sizes) - sizes[0])
    assert found.product_bytes > 2 * net.params.flat.nbytes


def test_an_update_is_one_launch_over_parameters_and_gradients() -> None:
    net = build("mlp", device=Device(threads=1))
    kernel_counts: Any = import_module("kernel_counts")
    before, size = net.params.flat.copy(), net.params.flat.nbytes
    found = kernel_counts.update_counts(net, SGD())
    assert (found.launches, found.products) == (1, 0)
    assert 3 * size <= found.bytes <= 3 * size + 64  # parameters read and written, gradients read, and the rate
    assert (net.params.flat == before).all()


def test_the_table_has_a_cell_for_each_column() -> None:
    kernel_counts: Any = import_module("kernel_counts")
    row = kernel_counts.row("a", Counts(5, 2, 4_000_000, 3_000_000, 6 * 10**9), Counts(1, 0, 2_000_000))
    assert row == ["a", "5", "2", "4.0", "3.0", "6.00", "0", "1", "2.0"]
    assert len(row) == len(kernel_counts.COLUMNS)


def test_the_bound_is_the_slower_of_bytes_and_operations_of_products_beside_the_kernels() -> None:
    roofline: Any = import_module("roofline")
    speed = roofline.Speed(bandwidth=1e12, flops=1e13, tf32=1e14)
    counts = Counts(9, 3, 2 * 10**9, 5 * 10**8, 10**10)
    assert speed.bound(counts) == pytest.approx(2e-3 + 1e-3)  # the operations
    assert speed.bound(counts, tf32=True) == pytest.approx(2e-3 + 0.5e-3)  # the bytes


def test_the_command_line_counts_without_a_gpu_and_measures_none() -> None:
    done = run_script("bench.py", "--counts", "--device", "gpu", "--models", "mlp", "--batch-norm", "no")
    assert done.returncode == 0, done.stderr
    assert "128 images" in done.stdout
    done = run_script("bench.py", "--device", "gpu")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("--device gpu is for --counts; scripts/bench_gpu.py measures a GPU")
