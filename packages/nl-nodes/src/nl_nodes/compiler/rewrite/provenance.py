"""Provenance: which nodes of the original graph each node of the rewritten one computes."""

from __future__ import annotations

from nl_nodes.compiler.fused import ZeroPad
from nl_nodes.graph import Graph, topological_order
from nl_nodes.node import Node
from nl_nodes.nodes.structure import Reshape, Transpose

MOVERS = (ZeroPad, Reshape, Transpose)
"""Nodes that rules add around a fused node only to move data."""


class Provenance:
    """The original nodes that each node of a rewritten graph computes, recorded while it is rewritten.

    Nodes that a rule adds only to move data inherit none; nodes that cancel, such as two transpositions, are dropped.

    >>> from nl_nodes import Add, Dot, Graph, Input
    >>> from nl_nodes.compiler import RULES, rewrite
    >>> graph = Graph(Add(Dot(Input("x", (2, 3)), Input("w", (3, 4))), Input("b", (4,))))
    >>> provenance = Provenance(graph)
    >>> (fused,) = rewrite(graph, RULES, provenance).outputs
    >>> fused, sorted(map(repr, provenance.of(fused)))
    (Affine(2, 4), ['Add(2, 4)', 'Dot(2, 4)'])
    """

    def __init__(self, graph: Graph) -> None:
        self._of = {node: frozenset((node,)) for node in graph.order}

    def of(self, node: Node) -> frozenset[Node]:
        """Return the original nodes that this one computes."""
        return self._of[node]

    def alias(self, node: Node, twin: Node) -> None:
        """Record that the twin, a copy or an equal node, replaces the node."""
        self._of[twin] = self._of.get(twin, frozenset()) | self._of[node]

    def replace(self, old: Node, new: Node) -> None:
        """Record that a rule replaced the old node, and all that led to it alone, by the new one and its inputs.

        A new node inherits the removed nodes of its own class; the others go to the nodes of new classes.
        """
        before, after = set(topological_order([old])), set(topological_order([new]))
        removed, added = before - after, after - before
        for node in added:
            self._of.setdefault(node, frozenset())
        computing = [node for node in added if not isinstance(node, MOVERS)]
        inheritors = [c for c in computing if not any(type(n) is type(c) for n in removed)] or computing
        for n in removed:
            for node in [c for c in computing if type(c) is type(n)] or inheritors:
                self._of[node] |= self._of[n]
