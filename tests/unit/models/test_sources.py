"""Provenance of compiled nodes: it covers every node of the graph, and each fused node has its own layers' nodes."""

import pytest
from support.random_networks import random_case, random_network

from nl_models import build
from nl_nodes import Device, Graph, Leaf, Reshape, Transpose
from nl_nodes.compiler import RULES, Provenance, rewrite
from nl_nodes.compiler.fused import ZeroPad

MOVERS = (ZeroPad, Reshape, Transpose)


def told(provenance: Provenance, graph: Graph) -> dict[str, set[str]]:
    """Return the original nodes of each computing node, by layer and class."""
    return {
        f"{node.path} {type(node).__name__}": {f"{n.path} {type(n).__name__}" for n in provenance.of(node)}
        for node in graph.order
        if not isinstance(node, (Leaf, *MOVERS))
    }


def test_provenance_of_a_fused_node_has_all_replaced_nodes() -> None:
    graph = build("cnn3", width=8).wire(2, train=True)
    provenance = Provenance(graph)
    found = told(provenance, rewrite(graph, RULES, provenance))
    windows = {f"Pooling 1 {kind}" for kind in ("Img2Matrix", "Transpose", "Reshape", "Max")}
    product = {f"Convolution 1 {kind}" for kind in ("Reshape", "Img2Matrix", "Dot", "Add", "Transpose")}
    assert found["Convolution 1 Conv"] == product | windows | {"Relu 1 ValueMask"}
    assert found["Affine 2 Affine"] == {"Affine 2 Reshape", "Affine 2 Dot", "Affine 2 Add", "Relu 2 ValueMask"}
    assert found["Affine 3 Affine"] == {"Affine 3 Dot", "Affine 3 Add"}
    assert found["SoftmaxWithLoss OneHot"] == {"SoftmaxWithLoss OneHot"}
    softmax = {f"SoftmaxWithLoss {kind}" for kind in ("Add", "Exp", "Log", "MaskedMul", "Max", "MulConst", "Sum")}
    assert found["SoftmaxWithLoss LabelLogSoftmax"] == softmax
    assert found["SoftmaxWithLoss Sum"] == {"SoftmaxWithLoss Mean"}


def test_batch_normalization_has_three_parts_in_provenance() -> None:
    graph = build("cnn3", width=8, batch_norm="before_activation").wire(2, train=True)
    provenance = Provenance(graph)
    made = {type(node).__name__: provenance.of(node) for node in rewrite(graph, RULES, provenance).order}
    kinds = {name: {type(n).__name__ for n in of} for name, of in made.items()}
    assert kinds["ChannelMean"] == {"Mean"}
    assert kinds["ChannelVariance"] == {"Mean", "Mul", "Add", "MulConst"}
    assert not made["ChannelMean"] & made["ChannelVariance"]
    assert kinds["Normalize"] >= {"Power", "AddConst", "ValueMask", "Max"}
    assert "Mean" not in kinds["Normalize"]


@pytest.mark.parametrize("seed", range(20))
def test_provenance_covers_all_nodes_of_random_networks(seed: int) -> None:
    key, batches = random_case(seed)
    graph = random_network(key, Device(dtype="float64")).wire(len(batches[0][0]), train=True)
    provenance = Provenance(graph)
    compiled = rewrite(graph, RULES, provenance)
    ctx = {n for node in compiled.order for n in provenance.of(node)}
    assert ctx <= set(graph.order)
    assert all(node in ctx for node in graph.order if not isinstance(node, MOVERS))
    assert all(provenance.of(node) for node in compiled.order if not isinstance(node, MOVERS))
    assert all(provenance.of(leaf) == {leaf} for leaf in compiled.leaves.values())
    plain = rewrite(graph, RULES).order
    assert list(map(repr, compiled.order)) == list(map(repr, plain))
