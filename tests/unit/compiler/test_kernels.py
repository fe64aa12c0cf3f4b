"""A tape as kernels, run on a processor beside NumPy; `nox -s kernels` runs all models, nodes and random networks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from support.kernels.comparison import graph_error, network_error
from support.kernels.executor import COMPILER, NO_COMPILER
from support.kernels.full_width import LIMITS, counts, kernels_of

from nl_layers import Affine, Convolution, Relu
from nl_models import Network, build
from nl_nodes import Device, Dot, Exp, Graph, Input, Max, Mul, Node, Sum, Tanh
from nl_nodes.compiler import CompileSpec
from nl_nodes.compiler.cuda.affine import Space
from nl_nodes.compiler.cuda.check import hazards
from nl_nodes.compiler.cuda.fuse import fuse
from nl_nodes.compiler.cuda.kernels import crosses
from nl_nodes.compiler.cuda.launch import grid, launches
from nl_nodes.compiler.cuda.memory import group
from nl_nodes.compiler.cuda.regions import Region, Store
from nl_nodes.compiler.cuda.text import literal
from nl_nodes.compiler.cuda.traffic import Traffic, traffic
from nl_nodes.compiler.cuda.values import Program
from nl_nodes.compiler.fused import Pool
from nl_nodes.compiler.plan import lower

ERROR, ERROR_32 = 1e-12, 1e-5
runs = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)


def net(name: str, dtype: str = "float64", **options: Any) -> Any:
    return build(name, device=Device(dtype=dtype, threads=1), **options)


@runs
@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
def test_kernels_compute_what_numpy_does(train: bool) -> None:
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


@runs
def test_a_sum_of_nothing_is_zero() -> None:
    x, w = Input("x", (0, 3), gradient=False), Input("w", (3, 4), gradient=False)
    feeds = {"x": np.zeros((0, 3)), "w": np.ones((3, 4))}
    assert graph_error(Graph(Sum(Exp(Dot(x, w)))), feeds, None) == 0


@runs
def test_a_chain_of_many_calls_gets_memory_on_the_way() -> None:
    """More calls than Python has stack frames for; a maximum is such a chain, as only the first of equals counts."""
    chain: Node = Input("x", (120, 4), gradient=False)
    for _ in range(250):
        chain = Tanh(chain)
    feeds = {"x": np.random.default_rng(0).standard_normal((120, 4))}
    assert graph_error(Graph(chain), feeds, None) <= ERROR
    assert graph_error(Graph(Max(Input("x", (120, 4), gradient=False), 0)), feeds, None) == 0


@pytest.mark.parametrize("name", ["mlp", "cnn3"])
def test_a_step_takes_few_launches_and_bytes(name: str) -> None:
    found, limit = counts(name), LIMITS[name]
    assert found.launches <= limit.launches
    assert found.bytes <= limit.bytes


def test_a_thread_of_pooling_makes_a_whole_window_forward_and_backward() -> None:
    x = Input("x", (6, 8, 32, 16))
    pooled = Pool(x)
    graph = Graph(Mul(pooled, Input("dy", pooled.shape, gradient=False)))
    feeds = {"x": (x.shape, np.float32), "dy": (pooled.shape, np.float32)}
    (kernel,) = group(Program(lower(graph, CompileSpec(feeds, frozenset(), {}), 1, chunked=False)))
    (region,) = kernel.regions
    assert [n for _, n in region.axes] == [3, 4, 32, 16]
    assert len(region.loads) == 5
    assert len(region.stores) == 8  # the product, three masks and the gradient of four pixels


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


def region(stores: list[int], loads: list[int], step: int = 8, threads: int = 4) -> Region:
    """Threads that store and load float64 at these addresses, `step` bytes apart."""
    nodes = [("load", 0, "f8", (address, step), -1) for address in loads]
    return Region(
        [(0, threads)], [], nodes, [Store(0, "f8", (address, step), (0,)) for address in stores], set(), set()
    )


def test_threads_that_read_what_others_write_are_found() -> None:
    assert not crosses([region([0], [0])])
    assert crosses([region([0], [8])])
    assert not crosses([region([0], [32])])
    assert not crosses([region([0], [8], step=16)])
    assert crosses([region([0], [16], step=16)])
    assert crosses([region([0], []), region([64], [0])])


def test_a_space_is_factored_and_cut() -> None:
    space, rewrite = Space((12, 5), frozenset({1})).factor(0, 4)
    assert (space.sizes, space.loops) == ((3, 4, 5), {2})
    assert rewrite((7, 2, 1)) == (7, 8, 2, 1)
    piece, rewrite = space.cut(1, 1, 2)
    assert piece.sizes == (3, 1, 5)
    assert rewrite((7, 8, 2, 1)) == (9, 8, 0, 1)


@pytest.mark.parametrize(
    ("outputs", "steps"), [(1, 1), (1, 10**6), (10, 128), (64, 100_352), (512, 512), (100_352, 64)]
)
def test_the_grid_of_a_sum_covers_it(outputs: int, steps: int) -> None:
    lanes, rows, pieces = grid(outputs, steps)
    assert lanes * rows == 256
    assert -(-steps // pieces) * pieces >= steps
    assert pieces == 1 or steps > 64 * rows


def test_numbers_are_exact_in_c() -> None:
    assert literal(0.1, "f8") == "0.10000000000000001"
    assert literal(1, "f4") == "1.0f"
    assert literal(np.inf, "f8") == "(double)INFINITY"
    assert literal(2**63, "u8") == f"{2**63}ULL"
