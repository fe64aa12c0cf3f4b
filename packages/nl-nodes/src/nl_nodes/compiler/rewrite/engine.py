"""Graph rewriting: rules replace patterns of nodes, and equal nodes are merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from nl_nodes.compiler.rewrite.pattern import Rule
from nl_nodes.compiler.rewrite.provenance import Provenance
from nl_nodes.graph import Graph, topological_order
from nl_nodes.node import Node, assign_scope

BY_REPR = bool | int | float | complex | str | bytes | None
"""Attribute types compared by their repr: it tells -0.0 from 0.0, and NaN equals itself."""


class RulesByRoot(dict[type[Node], list[Rule]]):
    """For each class of nodes the rules, in order, whose pattern may have such a node as its root."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules

    def __missing__(self, kind: type[Node]) -> list[Rule]:
        return self.setdefault(kind, [rule for rule in self.rules if issubclass(kind, rule.pattern.kinds)])


def rewrite(graph: Graph, stages: Sequence[Sequence[Rule]], provenance: Provenance | None = None) -> Graph:
    """Return the graph with each stage's rules applied until none matches, and equal nodes merged.

    Args:
        graph: the graph; it is not changed.
        stages: the rules of each stage.
        provenance: optional record of which nodes each new node replaces.
    """
    for rules in stages:
        by_root = RulesByRoot(rules)
        changed = True
        while changed:
            graph, changed = rewrite_pass(graph, by_root, provenance)
    return graph


def rewrite_pass(graph: Graph, by_root: RulesByRoot, provenance: Provenance | None) -> tuple[Graph, bool]:
    """Rewrite every node once, in order, until no rule matches it; return the new graph and whether a rule matched."""
    new: dict[Node, Node] = {}
    same: dict[Hashable, Node] = {}
    uses: Counter[Node] = Counter()
    changed = False
    for node in graph.order:
        inputs = tuple(new[n] for n in node.inputs)
        rewritten = node if inputs == node.inputs else node.replace(inputs)
        if provenance:
            provenance.alias(node, rewritten)
        while (replacement := _replacement(rewritten, by_root[type(rewritten)], uses)) is not None:
            assign_scope([replacement], rewritten.path)
            if provenance:
                provenance.replace(rewritten, replacement)
            rewritten, changed = replacement, True
        new[node] = eliminate_common_subexpressions(rewritten, same, provenance)
        uses[new[node]] += graph.uses[node]
    outputs = [new[n] for n in graph.outputs]
    return Graph(*outputs, updates={buffer: new[n] for buffer, n in graph.updates.items()}), changed


def _replacement(node: Node, rules: Sequence[Rule], uses: Mapping[Node, int]) -> Node | None:
    """Return the replacement of a node by the first rule that matches, or None."""
    found = (rule(node, uses) for rule in rules)
    return next((new for new in found if new is not None and _replaces_known_kinds(node, new)), None)


def _replaces_known_kinds(old: Node, new: Node) -> bool:
    """Whether no replaced node is of a subclass of a node class: a subclass may compute something else."""
    removed = set(topological_order([old])) - set(topological_order([new]))
    known = set(Node.registry.values())
    return not any(known.intersection(type(node).__mro__[1:]) for node in removed)


def eliminate_common_subexpressions(node: Node, same: dict[Hashable, Node], provenance: Provenance | None) -> Node:
    """Return the first node with the same class, attributes and inputs as this one."""
    if not node.inputs:
        return node
    first = same.setdefault((type(node), node.inputs, _hashable(sorted(node.attributes.items()))), node)
    if provenance:
        provenance.alias(node, first)
    return first


def _hashable(value: Any) -> Hashable:
    """Return a key that is equal for equal attributes only: arrays by their bytes, opaque objects by identity."""
    kind = type(value)
    if isinstance(value, np.ndarray | np.generic):
        return kind, value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, tuple | list):
        return kind, *map(_hashable, value)
    return kind, repr(value) if isinstance(value, BY_REPR) else id(value)
