"""Hessian products of every node, layer and loss: symmetric, and equal to central differences of the gradient."""

import numpy as np
import pytest
from support.layer_cases import LAYERS
from support.node_cases import FUSED_NODES, NODES, cases_of

from nl_layers import LayerCase
from nl_nodes import Constant, Graph, Input, Node, Sum, Tanh
from nl_nodes.cases import Case
from nl_nodes.curvature import hessian_product
from nl_nodes.verify import draw
from nl_nodes.verify.numeric import CENTRAL_H

pytestmark = pytest.mark.gradient

PLAIN = {name: node for name, node in NODES.items() if name not in FUSED_NODES}
Arrays = dict[str, np.ndarray]


def loss_of(output: Node, feeds: Arrays, rng: np.random.Generator) -> Graph:
    """Return a graph of a weighted sum of cubes, so that the gradient of a linear node's output changes too."""
    weights = Constant(rng.uniform(0.5, 1.5, Graph(output).run(**feeds).results[0].shape))
    return Graph(Sum(output * output * output * weights))


def moved(graph: Graph, feeds: Arrays, v: Arrays, h: float) -> Arrays:
    values = {name: feeds.get(name, graph.leaves[name].value) for name in v}
    return {**feeds, **{name: values[name] + h * array for name, array in v.items()}}


def worst(graph: Graph, feeds: Arrays, rng: np.random.Generator) -> tuple[float, float]:
    """Return the relative asymmetry, and the relative difference to central differences."""
    shapes = {name: grad.shape for name, grad in graph.run(**feeds).backward(1.0).items()}
    u, v = ({name: rng.standard_normal(shape) for name, shape in shapes.items()} for _ in range(2))
    hu, hv = hessian_product(graph, feeds, u), hessian_product(graph, feeds, v)
    sides = [graph.run(**moved(graph, feeds, v, h)).backward(1.0) for h in (CENTRAL_H, -CENTRAL_H)]
    central = {name: (sides[0][name] - sides[1][name]) / (2 * CENTRAL_H) for name in shapes}
    size = max(float(np.abs(array).max(initial=0.0)) for array in hv.values()) or 1.0
    difference = max(float(np.abs(hv[name] - central[name]).max(initial=0.0)) for name in shapes)
    terms = [float(np.sum(np.abs(u[name] * hv[name]))) for name in shapes]
    asymmetry = sum(float(np.sum(u[name] * hv[name]) - np.sum(v[name] * hu[name])) for name in shapes)
    return abs(asymmetry) / (sum(terms) or 1.0), difference / size


@pytest.mark.parametrize("case", cases_of(PLAIN))
def test_node(case: Case) -> None:
    if case.surrogate:
        pytest.skip("the gradient is no derivative")
    rng = np.random.default_rng(7)
    feeds = {f"x{i}": draw(rng, d) for i, d in enumerate(case.draws)}
    inputs = [Input(name, gradient=d.domain != "labels") for (name, d) in zip(feeds, case.draws, strict=True)]
    asymmetry, difference = worst(loss_of(case.build(*inputs), feeds, rng), feeds, rng)
    assert asymmetry <= 1e-13
    assert difference <= 1e-6


@pytest.mark.parametrize("case", cases_of(LAYERS))
def test_layer(case: LayerCase) -> None:
    if case.surrogate:
        pytest.skip("the gradient is no derivative")
    rng = np.random.default_rng(11)
    layer = case.make(lambda what: draw(rng, what))
    output = layer.graph(tuple(d.shape for d in case.draws), case.train).outputs[0]
    feeds = {name: draw(rng, d) for name, d in zip(layer.feeds, case.draws, strict=True)}
    asymmetry, difference = worst(loss_of(output, feeds, rng), feeds, rng)
    assert asymmetry <= 1e-12
    assert difference <= 1e-6


class RealGradient(Tanh, abstract=True):
    """A node whose gradient is right, but without the imaginary part."""

    def backward(self, ctx, dy):
        return super().backward(ctx, dy).real


class RealForward(Tanh, abstract=True):
    """A node whose output is right, but without the imaginary part."""

    def forward(self, ctx, *inputs):
        return super().forward(ctx, *inputs).real


@pytest.mark.parametrize("node", [RealGradient, RealForward])
def test_a_node_that_drops_the_imaginary_part_is_found(node: type[Node]) -> None:
    rng = np.random.default_rng(3)
    feeds = {"x": rng.standard_normal((2, 3))}
    assert worst(loss_of(node(Input("x")), feeds, rng), feeds, rng)[1] > 0.1
