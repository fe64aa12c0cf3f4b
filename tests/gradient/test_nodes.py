"""Gradients of every node compared with the complex step and central differences."""

import numpy as np
import pytest
from support.node_cases import NODES, checks_of

from nl_nodes import Graph, Input
from nl_nodes.cases import Case
from nl_nodes.verify import check_graph, complex_step, draw, upstream

pytestmark = pytest.mark.gradient


def graph_of(case: Case, rng: np.random.Generator) -> tuple[Graph, dict[str, np.ndarray]]:
    feeds = {f"x{i}": draw(rng, d) for i, d in enumerate(case.draws)}
    inputs = [Input(name, gradient=d.domain != "labels") for (name, d) in zip(feeds, case.draws, strict=True)]
    return Graph(case.build(*inputs)), feeds


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "oracle" in metafunc.fixturenames:
        metafunc.parametrize(("case", "oracle"), checks_of(NODES, metafunc.config.getoption("--thorough")))


def test_node_gradient(case: Case, oracle) -> None:
    rng = np.random.default_rng(7)
    graph, feeds = graph_of(case, rng)
    dy = upstream(rng, graph.run(**feeds).results[0].shape)
    limit = 1e-10 if oracle is complex_step else 1e-6
    for residual in check_graph(graph, feeds, dy, oracle):
        assert residual.value <= limit, residual
        if int(residual.name[1:]) in case.zero:
            assert residual.size == 0, residual
        else:
            assert residual.size > 0, residual


@pytest.mark.parametrize("name", NODES)
def test_every_node_has_a_case(name: str) -> None:
    assert list(NODES[name].cases())
