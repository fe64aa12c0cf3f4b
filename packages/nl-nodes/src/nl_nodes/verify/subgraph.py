"""The subgraph downstream of a leaf, so that moving one leaf does not recompute the rest of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nl_nodes.graph import Graph
from nl_nodes.node import Node
from nl_nodes.nodes.leaves import Constant


def node_values(graph: Graph, feeds: Mapping[str, Any]) -> dict[Node, Any]:
    """Return the output of every node in one pass."""
    everything = Graph(*graph.order)
    everything.passes = graph.passes
    return dict(zip(graph.order, everything.run(**feeds).results, strict=True))


def tail(graph: Graph, name: str, values: Mapping[Node, Any]) -> Graph:
    """Return the subgraph from one leaf to the first output, with constants in place of all other nodes.

    Its nodes run the same forward code. If the output does not depend on the leaf, the whole graph is returned.
    """
    leaf: Node = graph.leaves[name]
    changed = {leaf: leaf}
    for node in graph.order:
        if any(n in changed for n in node.inputs):
            changed[node] = node.replace([changed[n] if n in changed else Constant(values[n]) for n in node.inputs])
    if graph.outputs[0] not in changed:
        return graph
    short = Graph(changed[graph.outputs[0]])
    short.passes = graph.passes
    return short
