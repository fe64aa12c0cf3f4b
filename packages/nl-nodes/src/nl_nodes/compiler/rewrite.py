"""Rewriting: a graph in, an equal graph out, in which rules have replaced patterns of nodes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from nl_nodes.compiler.sources import Sources
from nl_nodes.graph import Graph, topological_order
from nl_nodes.node import Node, claim

Rule = Callable[[Node], Node | None]
"""What to put in a node's place, or None where the pattern does not fit; values and gradients stay the same."""

PLAIN = bool | int | float | complex | str | bytes | None
"""Settings that are equal where their text is: it tells -0.0 from 0.0, and finds a NaN equal to itself."""


def rewrite(graph: Graph, stages: Sequence[Sequence[Rule]], sources: Sources | None = None) -> Graph:
    """The graph with each stage's rules applied until none fits any more, and equal nodes made one.

    Args:
        graph: what is rewritten; it is not changed.
        stages: the rules of each stage.
        sources: where it is noted what comes from what, for who wants to know.
    """
    for rules in stages:
        changed = True
        while changed:
            graph, changed = _once(graph, rules, sources)
    return graph


def _once(graph: Graph, rules: Sequence[Rule], sources: Sources | None) -> tuple[Graph, bool]:
    new: dict[Node, Node] = {}
    same: dict[Hashable, Node] = {}
    changed = False
    for node in graph.order:
        inputs = tuple(new[n] for n in node.inputs)
        made = node if inputs == node.inputs else node.replace(inputs)
        if sources:
            sources.again(node, made)
        for rule in rules:
            better = rule(made)
            if better is not None and _as_defined(made, better):
                claim([better], made.path)
                if sources:
                    sources.replaced(made, better)
                made, changed = better, True
        new[node] = _merged(made, same, sources)
    outputs = [new[n] for n in graph.outputs]
    return Graph(*outputs, updates={buffer: new[n] for buffer, n in graph.updates.items()}), changed


def _as_defined(old: Node, new: Node) -> bool:
    """Whether all operations that go are those the rules know: a class derived from one of them may do otherwise."""
    gone = set(topological_order([old])) - set(topological_order([new]))
    known = set(Node.registry.values())
    return not any(known.intersection(type(node).__mro__[1:]) for node in gone)


def _merged(node: Node, same: dict[Hashable, Node], sources: Sources | None) -> Node:
    """The first node that is equal to this one: same operation, settings and inputs."""
    if not node.inputs:
        return node
    first = same.setdefault((type(node), node.inputs, _exact(sorted(node.attributes.items()))), node)
    if sources:
        sources.again(node, first)
    return first


def _exact(value: Any) -> Hashable:
    """A key that is equal for equal settings alone: arrays by their bytes, what has no value to compare by itself."""
    kind = type(value)
    if isinstance(value, np.ndarray | np.generic):
        return kind, value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, tuple | list):
        return kind, *map(_exact, value)
    return kind, repr(value) if isinstance(value, PLAIN) else id(value)
