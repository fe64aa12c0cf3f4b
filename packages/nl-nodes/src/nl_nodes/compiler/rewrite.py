"""Rewriting: a graph in, an equal graph out, in which rules have replaced patterns of nodes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from copy import copy

from nl_nodes.graph import Graph
from nl_nodes.node import Node, claim

Rule = Callable[[Node], Node | None]
"""What to put in a node's place, or None where the pattern does not fit; values and gradients stay the same."""


def rewrite(graph: Graph, stages: Sequence[Sequence[Rule]]) -> Graph:
    """The graph with each stage's rules applied until none fits any more, and equal nodes made one."""
    for rules in stages:
        changed = True
        while changed:
            graph, changed = _once(graph, rules)
    return graph


def _once(graph: Graph, rules: Sequence[Rule]) -> tuple[Graph, bool]:
    new: dict[Node, Node] = {}
    same: dict[Hashable, Node] = {}
    changed = False
    for node in graph.order:
        made = with_inputs(node, tuple(new[n] for n in node.inputs))
        for rule in rules:
            better = rule(made)
            if better is not None:
                claim([better], made.path)
                made, changed = _merged(better, same), True
        new[node] = _merged(made, same)
    outputs = [new[n] for n in graph.outputs]
    return Graph(*outputs, updates={buffer: new[n] for buffer, n in graph.updates.items()}), changed


def _merged(node: Node, same: dict[Hashable, Node]) -> Node:
    """The first node that is equal to this one: same operation, settings and inputs."""
    if not node.inputs:
        return node
    settings = {name: value for name, value in vars(node).items() if name not in ("inputs", "shape", "path")}
    return same.setdefault((type(node), node.inputs, repr(sorted(settings.items()))), node)


def with_inputs(node: Node, inputs: tuple[Node, ...]) -> Node:
    """The same operation on other inputs of the same shapes."""
    if all(a is b for a, b in zip(node.inputs, inputs, strict=True)):
        return node
    twin = copy(node)
    twin.inputs = inputs
    return twin
