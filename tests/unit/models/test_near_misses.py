"""Graphs that differ from a rule's pattern in one detail: no rule rewrites one to a different result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from support.patterns import PATTERNS, agree, changed, random, sum_of, values

from nl_nodes import (
    Add,
    Buffer,
    Exp,
    Graph,
    Leaf,
    Max,
    Mean,
    Mul,
    Node,
    Parameter,
    ShapeError,
    Sum,
    UserError,
    ValueMask,
)
from nl_nodes.compiler import RULES, Rule, rewrite
from nl_nodes.nodes.arithmetic import Elementwise

KINSHIP: tuple[tuple[type[Node], ...], ...] = ((Add, Mul), (Sum, Mean, Max))
"""Groups of operations with the same arguments, which may replace each other."""
INVALID = (ShapeError, UserError, ValueError, TypeError, IndexError, ZeroDivisionError)
"""The errors of changes that give no valid graph."""
Change = tuple[str, Callable[[], dict[Node, Node]]]
"""A description of the change, and the replaced nodes."""


def changes(graph: Graph) -> Iterator[Change]:
    """Yield every change of one node: an attribute, its inputs, class, shape or consumers."""
    for place, node in enumerate(graph.order):
        name = f"node {place}, {node!r}"
        if isinstance(node, Parameter | Buffer):
            for shape in shapes(node.shape or ()):
                yield f"{name} has shape {shape}", partial(reshaped, node, shape)
        if isinstance(node, Leaf):
            continue
        for setting, value in node.attributes.items():
            shape = node.inputs[0].shape or ()
            axes = (None, *range(-len(shape), len(shape)), *((i,) for i in range(len(shape))))
            for other in (*others(value, shape), *(axes if setting == "axis" else ())):
                yield f"{name} has {setting} {other}", lambda n=node, s=setting, v=other: {n: n.replace(**{s: v})}
        if len(node.inputs) == 2:
            yield f"{name} has its inputs exchanged", lambda n=node: {n: n.replace(n.inputs[::-1])}
        for i, given in enumerate(node.inputs):
            for j, found in enumerate(graph.order[:place]):
                if found is not given and found.shape == given.shape:
                    yield f"{name} has node {j} as input {i}", partial(rewired, node, i, found)
        for kind in {kind for kin in KINSHIP if type(node) in kin for kind in kin} - {type(node)}:
            yield f"{name} is a {kind.__name__}", partial(of_kind, node, kind)
        if isinstance(node, Elementwise):
            yield f"{name} is an Exp", lambda n=node: {n: Exp(n.inputs[0])}


def others(value: Any, shape: tuple[int, ...]) -> Iterator[Any]:
    """Return values similar to an attribute's value."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from {value + 1, value - 1, -value, value + 0.5 if isinstance(value, float) else value + 2} - {value}
    elif isinstance(value, tuple):
        for i in range(len(value)):
            yield value[:i] + value[i + 1 :]
            if isinstance(value[i], int):
                yield from ((*value[:i], value[i] + step, *value[i + 1 :]) for step in (-1, 1, -len(shape)))
            else:
                yield from ((*value[:i], other, *value[i + 1 :]) for other in others(value[i], ()))
            for j in range(i):
                yield (*value[:j], value[i], *value[j + 1 : i], value[j], *value[i + 1 :])
        if len(shape) == len(value):
            yield shape


def shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Return shapes similar to a shape, some of which broadcast equally."""
    yield from {(), (1,), (*shape, 1), (1, *shape), shape[::-1]} - {shape}
    yield from {(*shape[:i], n, *shape[i + 1 :]) for i in range(len(shape)) for n in (1, shape[i] + 1)} - {shape}


def reshaped(leaf: Leaf, shape: tuple[int, ...]) -> dict[Node, Node]:
    return {leaf: type(leaf)(random(*shape), leaf.name)}  # type: ignore[call-arg]


def rewired(node: Node, i: int, found: Node) -> dict[Node, Node]:
    return {node: node.replace([found if j == i else n for j, n in enumerate(node.inputs)])}


def of_kind(node: Node, kind: Callable[..., Node]) -> dict[Node, Node]:
    return {node: kind(*node.inputs, **node.attributes)}


def near(graph: Graph) -> Iterator[tuple[str, Graph, list[np.ndarray]]]:
    """Yield the changed graphs that can run, each with the change and its results."""
    found = sum_of(*graph.outputs)
    yield "nothing is changed", found, values(found)
    for what, make in changes(graph):
        try:
            found = changed(graph, make())
            yield what, found, values(found)
        except INVALID:
            continue
    for place, node in enumerate(graph.order):
        if node.shape is not None and not isinstance(node, Leaf):
            found = sum_of(*graph.outputs, node)
            yield f"node {place}, {node!r}, is used twice", found, values(found)


def kinds(graph: Graph) -> list[type[Node]]:
    return [type(node) for node in graph.order]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_graph_similar_to_a_pattern_is_rewritten_to_an_equal_one_or_unchanged(pattern: str) -> None:
    for what, graph, expected in near(PATTERNS[pattern]()):
        rewritten = rewrite(graph, RULES)
        if kinds(rewritten) != kinds(graph):
            assert agree(values(rewritten), expected), what


class Leaky(ValueMask, abstract=True):
    """A leaky ReLU; no rule may match it as the class from which it is derived."""

    def forward(self, ctx, *inputs):
        return super().forward(ctx, *inputs) + 0.1 * inputs[0]

    def backward(self, ctx, dy):
        return super().backward(ctx, dy) + 0.1 * dy


@pytest.mark.parametrize("pattern", ["affine", "rectified and pooled", "normalised, rectified and pooled"])
def test_subclass_of_a_patterns_node_is_not_matched(pattern: str) -> None:
    graph = PATTERNS[f"{pattern}, sizes alike"]()
    near = changed(graph, {n: Leaky(n.inputs[0]) for n in graph.order if isinstance(n, ValueMask)})
    rewritten = rewrite(near, RULES)
    assert Leaky in kinds(rewritten)
    assert agree(values(rewritten), values(near))


def test_patterns_cover_all_rules() -> None:
    fired = set()

    def noted(rule):
        def run(**found):
            better = rule.replacement(**found)
            if better is not None:
                fired.add(rule)
            return better

        return Rule(rule.pattern, run)

    for make in PATTERNS.values():
        rewrite(make(), [[noted(rule) for rule in stage] for stage in RULES])
    assert fired == {rule for stage in RULES for rule in stage}
