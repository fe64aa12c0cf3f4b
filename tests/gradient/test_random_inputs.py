"""Every node on random shapes, memory layouts and constructor arguments; `--thorough` draws 200 per node."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fused_cases import FUSED
from support.layouts import LAYOUTS, laid_out
from support.node_cases import NODES
from support.random_cases import CASES

from nl_nodes import Graph, Input
from nl_nodes.verify import check_graph, draw, sample_check, upstream

pytestmark = pytest.mark.gradient

LIMIT = 1e-10
ALL = {**CASES, **FUSED}


def test_every_node_has_random_inputs() -> None:
    assert set(ALL) == set(NODES)


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
def test_node_on_random_inputs(name: str, data: st.DataObject, pytestconfig: pytest.Config) -> None:
    """Element by element; fused nodes along random directions unless thorough."""
    case = data.draw(ALL[name], label="case")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    plain = {f"x{i}": draw(rng, d) for i, d in enumerate(case.draws)}
    feeds = {n: laid_out(x, data.draw(LAYOUTS, label=f"layout of {n}")) for n, x in plain.items()}
    inputs = [Input(name, d.shape, gradient=d.domain != "labels") for name, d in zip(plain, case.draws, strict=True)]
    graph = Graph(case.build(*inputs))

    expected = graph.run(**plain).results[0]
    done = graph.run(**feeds)
    assert done.results[0].shape == graph.outputs[0].shape
    assert done.results[0].dtype == np.float64
    np.testing.assert_allclose(done.results[0], expected, rtol=1e-12, atol=1e-13)

    dy = upstream(rng, expected.shape)
    given_dy = laid_out(dy, data.draw(LAYOUTS, label="layout of dy"))
    elements = name not in FUSED or pytestconfig.getoption("--thorough")
    for residual in check_graph(graph, feeds, given_dy) if elements else sample_check(graph, feeds, given_dy, rng):
        assert residual.shape == plain[residual.name].shape
        assert residual.value <= LIMIT, residual
    for now, before in ((given_dy, dy), *((feeds[n], plain[n]) for n in feeds)):
        np.testing.assert_array_equal(now, before)
