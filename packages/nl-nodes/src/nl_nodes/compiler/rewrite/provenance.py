"""Where the nodes of a rewritten graph come from."""

from __future__ import annotations

from nl_nodes.compiler.fused import ZeroPad
from nl_nodes.graph import Graph, topological_order
from nl_nodes.node import Node
from nl_nodes.nodes.structure import Reshape, Transpose

MOVERS = (ZeroPad, Reshape, Transpose)
"""What a rule puts around the node that does the work."""


class Provenance:
    """The nodes of a graph whose work each node of the rewritten one does, noted while it is rewritten.

    What a rule puts in only to move numbers does no work of the graph's; what no node has taken over is gone, such as
    two transpositions that undo each other.

    >>> from nl_nodes import Add, Dot, Graph, Input
    >>> from nl_nodes.compiler import RULES, rewrite
    >>> graph = Graph(Add(Dot(Input("x", (2, 3)), Input("w", (3, 4))), Input("b", (4,))))
    >>> sources = Sources(graph)
    >>> (fused,) = rewrite(graph, RULES, sources).outputs
    >>> fused, sorted(map(repr, sources.of(fused)))
    (Affine(2, 4), ['Add(2, 4)', 'Dot(2, 4)'])
    """

    def __init__(self, graph: Graph) -> None:
        self._of = {node: frozenset((node,)) for node in graph.order}

    def of(self, node: Node) -> frozenset[Node]:
        """The nodes whose work this one does."""
        return self._of[node]

    def alias(self, node: Node, twin: Node) -> None:
        """The twin stands for the node, as the same operation or an equal one."""
        self._of[twin] = self._of.get(twin, frozenset()) | self._of[node]

    def replace(self, old: Node, new: Node) -> None:
        """The new node stands in the old one's place, and with it whatever leads to the one alone.

        A node of a kind that was there before does the same work; all other work is that of the new kinds.
        """
        before, after = set(topological_order([old])), set(topological_order([new]))
        gone, come = before - after, after - before
        for node in come:
            self._of.setdefault(node, frozenset())
        workers = [node for node in come if not isinstance(node, MOVERS)]
        inheritors = [w for w in workers if not any(type(n) is type(w) for n in gone)] or workers
        for n in gone:
            for node in [w for w in workers if type(w) is type(n)] or inheritors:
                self._of[node] |= self._of[n]
