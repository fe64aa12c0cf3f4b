"""Gradients of every layer and loss compared with the complex step and central differences."""

import numpy as np
import pytest
from support.layer_cases import LAYERS
from support.node_cases import checks_of

import nl_layers
from nl_layers import LayerCase
from nl_layers.module import Module
from nl_nodes.verify import check_graph, complex_step, draw, upstream

pytestmark = pytest.mark.gradient


@pytest.mark.parametrize(("case", "oracle"), checks_of(LAYERS))
def test_layer_gradient(case: LayerCase, oracle) -> None:
    rng = np.random.default_rng(11)
    layer = case.make(lambda what: draw(rng, what))
    graph = layer.graph(tuple(d.shape for d in case.draws), case.train)
    feeds = {name: draw(rng, d) for name, d in zip(layer.feeds, case.draws, strict=True)}
    dy = upstream(rng, graph.run(**feeds).results[0].shape)
    limit = 1e-10 if oracle is complex_step else 1e-6
    for residual in check_graph(graph, feeds, dy, oracle):
        assert residual.value <= limit, residual
        assert (residual.size == 0) == (residual.name in case.zero), residual


def test_every_public_layer_has_a_case() -> None:
    public = {name for name in nl_layers.__all__ if isinstance(getattr(nl_layers, name), type)}
    layers = {name for name in public if issubclass(getattr(nl_layers, name), Module)} - {"Layer", "Loss"}
    assert layers == set(LAYERS)
    assert all(list(layer.cases()) for layer in LAYERS.values())
