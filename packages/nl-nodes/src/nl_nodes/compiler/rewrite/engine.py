"""Rewriting: a graph in, an equal graph out, in which rules have replaced patterns of nodes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from nl_nodes.compiler.rewrite.provenance import Provenance
from nl_nodes.graph import Graph, topological_order
from nl_nodes.node import Node, assign_scope

Rule = Callable[[Node], Node | None]
"""What to put in a node's place, or None where the pattern does not fit; values and gradients stay the same."""

PLAIN = bool | int | float | complex | str | bytes | None
"""Settings that are equal where their text is: it tells -0.0 from 0.0, and finds a NaN equal to itself."""


def rewrite(graph: Graph, stages: Sequence[Sequence[Rule]], provenance: Provenance | None = None) -> Graph:
    """The graph with each stage's rules applied until none fits any more, and equal nodes made one.

    Args:
        graph: what is rewritten; it is not changed.
        stages: the rules of each stage.
        sources: where it is noted what comes from what, for who wants to know.
    """
    for rules in stages:
        changed = True
        while changed:
            graph, changed = rewrite_pass(graph, rules, provenance)
    return graph


def rewrite_pass(graph: Graph, rules: Sequence[Rule], provenance: Provenance | None) -> tuple[Graph, bool]:
    """Apply the rules once to every node, in order; return the new graph, and whether anything changed."""
    new: dict[Node, Node] = {}
    same: dict[Hashable, Node] = {}
    changed = False
    for node in graph.order:
        inputs = tuple(new[n] for n in node.inputs)
        made = node if inputs == node.inputs else node.replace(inputs)
        if provenance:
            provenance.alias(node, made)
        for rule in rules:
            better = rule(made)
            if better is not None and _replaces_known_kinds(made, better):
                assign_scope([better], made.path)
                if provenance:
                    provenance.replace(made, better)
                made, changed = better, True
        new[node] = eliminate_common_subexpressions(made, same, provenance)
    outputs = [new[n] for n in graph.outputs]
    return Graph(*outputs, updates={buffer: new[n] for buffer, n in graph.updates.items()}), changed


def _replaces_known_kinds(old: Node, new: Node) -> bool:
    """Whether all operations that go are those the rules know: a class derived from one of them may do otherwise."""
    gone = set(topological_order([old])) - set(topological_order([new]))
    known = set(Node.registry.values())
    return not any(known.intersection(type(node).__mro__[1:]) for node in gone)


def eliminate_common_subexpressions(node: Node, same: dict[Hashable, Node], provenance: Provenance | None) -> Node:
    """The first node that is equal to this one: same operation, settings and inputs."""
    if not node.inputs:
        return node
    first = same.setdefault((type(node), node.inputs, _hashable(sorted(node.attributes.items()))), node)
    if provenance:
        provenance.alias(node, first)
    return first


def _hashable(value: Any) -> Hashable:
    """A key that is equal for equal settings alone: arrays by their bytes, what has no value to compare by itself."""
    kind = type(value)
    if isinstance(value, np.ndarray | np.generic):
        return kind, value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, tuple | list):
        return kind, *map(_hashable, value)
    return kind, repr(value) if isinstance(value, PLAIN) else id(value)
