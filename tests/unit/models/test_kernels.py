"""Networks as kernels, run on a processor beside exact passes; `nox -s kernels` runs all models and random networks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from support.kernels.executor import COMPILER, NO_COMPILER
from support.kernels.full_width import LIMITS, counts, kernels_of
from support.kernels.networks import network_error

from nl_layers import Affine, Convolution, Relu
from nl_models import Network, build
from nl_nodes import Device
from nl_nodes.compiler.cuda.check import hazards
from nl_nodes.compiler.cuda.fuse import fuse
from nl_nodes.compiler.cuda.launch import launches
from nl_nodes.compiler.cuda.traffic import Traffic, traffic

ERROR, ERROR_32 = 1e-12, 1e-5
runs = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)


def net(name: str, dtype: str = "float64", **options: Any) -> Any:
    return build(name, device=Device(dtype=dtype, threads=1), **options)


@runs
@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
def test_kernels_compute_the_network(train: bool) -> None:
    assert network_error(net("mlp", batch_norm=True, dropout=0.3), 20, train) <= ERROR
    assert network_error(net("cnn3", width=8), 5, train) <= ERROR


@runs
def test_single_precision_stays_single() -> None:
    assert 0 < network_error(net("mlp", "float32", batch_norm=True, dropout=0.3), 20) <= ERROR_32


@runs
def test_winograd_tiles_and_pooling_are_kernels() -> None:
    assert network_error(net("cnn8", width=8, input_shape=(1, 13, 12)), 3) <= ERROR


@runs
def test_a_frame_and_what_is_inside_it_are_written_by_two_launches() -> None:
    """Of one launch, either may come last: here of the mask of windows that are all zero."""
    rng = np.random.default_rng(0)
    layers = [Convolution(rng.standard_normal((40, 40, 3, 3)), np.zeros(40), pad=1), Relu()]
    layers.append(Affine(rng.standard_normal((640, 3)), np.zeros(3)))
    spec = {"name": "framed", "input_shape": (40, 4, 4), "classes": 3}
    framed = Network([(layer, n) for n, layer in enumerate(layers, 1)], spec, Device(dtype="float64", threads=1))
    assert network_error(framed, 4) <= ERROR


@runs
def test_each_call_alone_is_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nl_nodes.compiler.cuda.fuse.fuse", partial(fuse, each_call=True))
    assert network_error(net("mlp", width=6, batch_norm=True, dropout=0.3), 5) <= ERROR
    assert network_error(net("cnn8", width=8, input_shape=(1, 13, 12)), 3) <= ERROR


@pytest.mark.parametrize("name", ["mlp", "cnn3"])
def test_a_step_takes_few_launches_and_bytes(name: str) -> None:
    found, limit = counts(name), LIMITS[name]
    assert found.launches <= limit.launches
    assert found.bytes <= limit.bytes


def test_a_sum_is_made_by_the_threads_that_make_its_terms() -> None:
    """The gradient of a bias, with the gradient of what it was added to: 128 rows of 100 features."""
    program, kernels = kernels_of("mlp")
    summed = [kernel for kernel in kernels if kernel.terms]
    assert len(summed) == 4
    for kernel in summed:
        assert [program.calls[value.end].name for value in kernel.outputs] == ["add", "multiply"]
        assert traffic(program, kernel.regions) == Traffic(read=4 * 2 * 128 * 100, written=4 * (128 * 100 + 100))


def test_equal_tapes_give_equal_text() -> None:
    texts = [[launches(k) for k in kernels_of("mlp")[1] if k.kind != "gemm"] for _ in range(2)]
    assert texts[0] == texts[1]


def test_kernels_in_the_wrong_order_are_found() -> None:
    program, kernels = kernels_of("mlp")
    assert not hazards(program, kernels)
    for at in range(len(kernels) - 1):
        later = kernels[at + 1]
        if later.loaded.intersection(kernels[at].outputs):
            assert hazards(program, [*kernels[:at], later, kernels[at], *kernels[at + 2 :]])


def test_a_read_of_an_overwritten_version_is_found() -> None:
    program, kernels = kernels_of("cnn8")
    last = {value.block: value for kernel in kernels for value in kernel.outputs}
    late = [
        kernel
        for kernel in kernels
        if any(last[v.block] is not v and not program.blocks[v.block].external for v in kernel.loaded)
    ]
    assert late
    assert all(hazards(program, [*kernels, kernel]) for kernel in late[:2])
