"""A tape as kernels, run on a processor beside NumPy; `nox -s kernels` runs all nodes."""

from __future__ import annotations

import numpy as np
import pytest
from support.kernels.comparison import graph_error
from support.kernels.executor import COMPILER, NO_COMPILER

from nl_nodes import Dot, Exp, Graph, Input, Max, Mul, Node, Sum, Tanh
from nl_nodes.compiler import CompileSpec
from nl_nodes.compiler.cuda.affine import Space
from nl_nodes.compiler.cuda.kernels import crosses
from nl_nodes.compiler.cuda.launch import grid
from nl_nodes.compiler.cuda.memory import group
from nl_nodes.compiler.cuda.regions import Region, Store
from nl_nodes.compiler.cuda.text import literal
from nl_nodes.compiler.cuda.values import Program
from nl_nodes.compiler.fused import Pool
from nl_nodes.compiler.plan import lower

ERROR, ERROR_32 = 1e-12, 1e-5
runs = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)


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
