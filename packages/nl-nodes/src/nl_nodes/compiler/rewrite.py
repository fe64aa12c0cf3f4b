"""Rewriting: a graph in, an equal graph out, in which rules have replaced patterns of nodes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from copy import copy

from nl_nodes.compiler.sources import Sources
from nl_nodes.graph import Graph
from nl_nodes.node import Node, claim

Rule = Callable[[Node], Node | None]
"""What to put in a node's place, or None where the pattern does not fit; values and gradients stay the same."""


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
        made = with_inputs(node, tuple(new[n] for n in node.inputs))
        if sources:
            sources.again(node, made)
        for rule in rules:
            better = rule(made)
            if better is not None:
                claim([better], made.path)
                if sources:
                    sources.replaced(made, better)
                made, changed = _merged(better, same, sources), True
        new[node] = _merged(made, same, sources)
    outputs = [new[n] for n in graph.outputs]
    return Graph(*outputs, updates={buffer: new[n] for buffer, n in graph.updates.items()}), changed


def _merged(node: Node, same: dict[Hashable, Node], sources: Sources | None) -> Node:
    """The first node that is equal to this one: same operation, settings and inputs."""
    if not node.inputs:
        return node
    settings = {name: value for name, value in vars(node).items() if name not in ("inputs", "shape", "path")}
    first = same.setdefault((type(node), node.inputs, repr(sorted(settings.items()))), node)
    if sources:
        sources.again(node, first)
    return first


def with_inputs(node: Node, inputs: tuple[Node, ...]) -> Node:
    """The same operation on other inputs of the same shapes."""
    if all(a is b for a, b in zip(node.inputs, inputs, strict=True)):
        return node
    twin = copy(node)
    twin.inputs = inputs
    return twin
