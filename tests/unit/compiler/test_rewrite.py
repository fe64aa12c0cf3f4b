"""Graph rewriting: rules apply until none matches, equal nodes are merged, and other nodes are left unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from nl_nodes import Add, AddConst, Buffer, Constant, Dot, Exp, Graph, Input, Mul, MulConst, Node, Parameter, Sum, Tanh
from nl_nodes.compiler import RULES, Provenance, Rule, rewrite
from nl_nodes.compiler.fused import Affine
from nl_nodes.compiler.rewrite.pattern import Setting, op, rule, var
from nl_nodes.nodes.arithmetic import Elementwise

X = Input("x", (2, 3))


def kinds(*outputs: Node, stages: Any = RULES) -> list[str]:
    """Return the node classes of a rewritten graph, in order."""
    return [type(node).__name__ for node in rewrite(Graph(*outputs), stages).order if node.inputs]


@rule(var("x") + Setting("c"))
def one_less(x: Node, c: float) -> Node | None:
    """Replace x + n by x + (n - 1), for n > 0."""
    return AddConst(x, c - 1) if c > 0 else None


@rule(var("x") + 0)
def as_product(x: Node) -> Node:
    """Replace x + 0 by 1 x."""
    return MulConst(x, 1)


def test_rewriting_terminates() -> None:
    asked = []

    def less(x: Node, c: float) -> Node | None:
        asked.append(c)
        assert len(asked) <= 9
        return one_less.replacement(x, c)

    node = AddConst(Exp(AddConst(X, 3)), 2)
    assert kinds(node, stages=[[Rule(one_less.pattern, less)]]) == ["AddConst", "Exp", "AddConst"]
    assert asked == [3, 2, 1, 0, 2, 1, 0, 0, 0]  # each node until none matches, and all once more


def test_a_rule_is_tried_only_on_nodes_of_the_classes_of_its_root() -> None:
    tried = []

    class Noted(Rule):
        def __call__(self, node: Node, uses: Mapping[Node, int] | None = None) -> Node | None:
            tried.append(type(node))
            return super().__call__(node, uses)

    sums, both = op(Add), op((Mul, Elementwise))
    node = Exp(Mul(Add(X, X), AddConst(X, 1)))
    assert kinds(node, stages=[[Noted(pattern, lambda: None) for pattern in (sums, both)]]) == [
        "Add",
        "AddConst",
        "Mul",
        "Exp",
    ]
    assert tried == [Add, AddConst, Mul, Exp]


def test_a_rule_is_tried_on_what_another_has_put_in_a_nodes_place() -> None:
    """Here on a product, which is in no stage's graph."""
    factor = Rule(var("x") * Setting("c"), lambda x, c: Mul(x, X) if c == 1 else None)
    assert kinds(AddConst(Exp(X), 0), stages=[[factor, as_product]]) == ["Exp", "Mul"]


def test_rules_apply_until_none_matches_stage_by_stage() -> None:
    node = AddConst(Exp(AddConst(X, 3)), 5)
    assert kinds(node, stages=[[one_less], [as_product]]) == ["MulConst", "Exp", "MulConst"]
    assert kinds(node, stages=[[as_product, one_less]]) == ["MulConst", "Exp", "MulConst"]
    assert kinds(node, stages=[[as_product], [one_less]]) == ["AddConst", "Exp", "AddConst"]


@pytest.mark.parametrize(
    ("others", "expected"), [(0, "Tanh MulConst"), (1, "Tanh AddConst Exp"), (2, "Tanh AddConst Exp")]
)
def test_a_rule_of_a_sole_node_leaves_one_with_more_uses(others: int, expected: str) -> None:
    """Equal nodes, which are merged, are uses of one."""
    less = rule(op(Exp, var("inner") + 1), sole="inner")(lambda inner: MulConst(inner, 2))
    outputs = [*(Tanh(X) for _ in range(others)), Exp(AddConst(Tanh(X), 1))]
    assert kinds(*outputs, stages=[[less]]) == expected.split()


def test_nodes_that_no_rule_matches_are_unchanged() -> None:
    w, mean = Parameter(np.ones((3, 4)), "w"), Buffer(np.zeros(4), "mean")
    y = Add(Dot(X, w), mean)
    graph = Graph(Sum(Exp(y)), y, updates={mean: Sum(y, 0)})
    same = rewrite(graph, [[one_less]])
    assert same.order == graph.order
    assert same.outputs == graph.outputs
    assert same.updates == graph.updates


def test_outputs_and_updates_are_rewritten_too() -> None:
    mean = Buffer(np.zeros(3), "mean")
    y = AddConst(Add(X, mean), 0)
    found = rewrite(Graph(Exp(y), y, updates={mean: Sum(y, 0)}), [[as_product]])
    product = found.outputs[1]
    assert isinstance(product, MulConst)
    assert found.outputs[0].inputs == found.updates[mean].inputs == (product,)


class WithAttribute(Elementwise, abstract=True):
    """A node with one attribute."""

    def __init__(self, x: Node, setting: Any) -> None:
        self.setting = setting
        super().__init__(x)


class SameRepr:
    """Objects with equal reprs."""

    def __repr__(self) -> str:
        return "alike"


OBJECT = SameRepr()
F4, NAN = np.float32, float("nan")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (True, True),
        (2, 2),
        (0.5, 0.5),
        (NAN, float("nan")),
        (1j, 1j),
        ("ab", "".join("ab")),
        (b"ab", b"".join([b"a", b"b"])),
        (None, None),
        (F4(0.1), F4(0.1)),
        (np.arange(3), np.arange(3)),
        ((1, (2.0, None)), (1, (2.0, None))),
        ([1, np.arange(3)], [1, np.arange(3)]),
        (OBJECT, OBJECT),
    ],
)
def test_nodes_with_equal_attributes_are_merged_into_the_first(one: Any, other: Any) -> None:
    first, second = WithAttribute(X, one), WithAttribute(X, other)
    graph = rewrite(Graph(Mul(first, AddConst(second, 1))), [()])
    assert [node for node in graph.order if isinstance(node, WithAttribute)] == [first]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (True, 1),
        (2, 2.0),
        (0.0, -0.0),
        (1j, 2j),
        ("a", b"a"),
        ("a", "b"),
        (b"a", b"b"),
        (None, 0),
        (F4(0.1), F4(0.2)),
        (F4(0.5), 0.5),
        (np.arange(3), np.arange(3.0)),
        (np.arange(3), np.arange(3).astype(">i8")),
        (np.zeros((1, 2)), np.zeros((2, 1))),
        ((1, 2), [1, 2]),
        ((1, 2), (1, 3)),
        ([1, 2], [1, 3]),
        (SameRepr(), SameRepr()),
    ],
)
def test_nodes_with_different_attributes_are_not_merged(one: Any, other: Any) -> None:
    assert kinds(Mul(WithAttribute(X, one), WithAttribute(X, other)), stages=[()]) == [
        "WithAttribute",
        "WithAttribute",
        "Mul",
    ]


def test_merged_nodes_have_the_same_class_and_inputs() -> None:
    y = Input("y", (2, 3))
    assert kinds(Add(Mul(X, y), Mul(X, y)), stages=[()]) == ["Mul", "Add"]
    assert kinds(Add(Mul(X, y), Mul(y, X)), stages=[()]) == ["Mul", "Mul", "Add"]
    assert kinds(Add(Mul(X, y), Add(X, y)), stages=[()]) == ["Mul", "Add", "Add"]
    assert kinds(Add(Exp(Exp(X)), Exp(Exp(X))), stages=[()]) == ["Exp", "Exp", "Add"]


def test_leaves_are_not_merged() -> None:
    one, two = Constant(np.ones(3)), Constant(np.full(3, 2.0))
    assert kinds(Add(Mul(X, one), Mul(X, two)), stages=[()]) == ["Mul", "Mul", "Add"]


class Other(Add, abstract=True):
    """A subclass of a node class that rules match."""


class Another(Other, abstract=True):
    """A subclass of that."""


def test_a_subclass_is_no_part_of_a_pattern_but_its_consumers_may_be() -> None:
    w, b = Parameter(np.ones((3, 4)), "w"), Parameter(np.ones(4), "b")
    assert kinds(Add(Dot(Add(X, X), w), b)) == ["Add", "Affine"]
    for kind in (Other, Another):
        assert kinds(kind(Dot(X, w), b)) == ["Dot", kind.__name__]
        assert kinds(Add(Dot(kind(X, X), w), b)) == [kind.__name__, "Affine"]


def test_a_replacement_has_the_path_of_the_node_that_it_replaces() -> None:
    node = Add(Dot(X, Parameter(np.ones((3, 4)), "w")), Parameter(np.ones(4), "b"))
    node.path = node.inputs[0].path = "Affine 1"
    fused = rewrite(Graph(node), RULES).outputs[0]
    assert isinstance(fused, Affine)
    assert fused.path == "Affine 1"


def test_the_provenance_follows_copies_replacements_and_merged_nodes() -> None:
    first, second = AddConst(X, 1), AddConst(X, 1)
    last = Exp(Mul(first, second))
    graph = Graph(last)
    provenance = Provenance(graph)
    exp = rewrite(graph, [[one_less, as_product]], provenance).outputs[0]
    (product,) = exp.inputs
    assert provenance.of(exp) == {last}
    assert provenance.of(product) == {last.inputs[0]}
    assert product.inputs[0] is product.inputs[1]
    assert provenance.of(product.inputs[0]) == {first, second}
