"""Patterns match nodes by class, inputs and settings, and hand a rule the nodes and settings with a name."""

from __future__ import annotations

from typing import Any

import pytest

from nl_nodes import Add, AddConst, Dot, Exp, Input, Mul, MulConst, Node, Power, Sum, Transpose
from nl_nodes.compiler.rewrite.pattern import Pattern, Rule, Setting, op, rule, var
from nl_nodes.nodes.arithmetic import Elementwise

X, Y = Input("x", (3, 3)), Input("y", (3, 3))
x, y, c = var("x"), var("y"), Setting("c")


def found(pattern: Pattern, node: Node) -> dict[str, Any] | None:
    """Return what a rule's function is given for a node, or None where the pattern does not match."""
    given: dict[str, Any] = {}
    matched = Rule(pattern, lambda **named: given.update(named) or X)(node)
    return given if matched is X else None


@pytest.mark.parametrize(
    ("pattern", "node", "expected"),
    [
        (x + y, Add(X, Y), {"x": X, "y": Y}),
        (x - y, Add(X, MulConst(Y, -1)), {"x": X, "y": Y}),
        (x * y, Mul(X, Y), {"x": X, "y": Y}),
        (x @ y, Dot(X, Y), {"x": X, "y": Y}),
        (x + c, AddConst(X, 2.5), {"x": X, "c": 2.5}),
        (x + 2, AddConst(X, 2), {"x": X}),
        (x * c, MulConst(X, 2.5), {"x": X, "c": 2.5}),
        (x * 2, MulConst(X, 2), {"x": X}),
        (x**-0.5, Power(X, -0.5), {"x": X}),
        (x + y * x, Add(X, Mul(Y, X)), {"x": X, "y": Y}),
    ],
)
def test_arithmetic_on_patterns_matches_the_nodes_of_that_arithmetic(
    pattern: Pattern, node: Node, expected: dict[str, Any]
) -> None:
    assert found(pattern, node) == expected


@pytest.mark.parametrize(
    ("pattern", "node"),
    [
        (x + y, Mul(X, Y)),
        (x - y, Add(X, MulConst(Y, 1))),
        (x - y, Add(MulConst(X, -1), MulConst(Y, 1))),
        (x + 2, AddConst(X, 1)),
        (x + 2, AddConst(X, 3)),
        (x**-0.5, Power(X, 0.5)),
        (op(Exp, x) + y, Add(X, Exp(Y))),
        (op(Sum, x, axis=0), Sum(X, 1)),
        (op(Sum, x, axis=0, keepdims=False), Sum(X, 0, keepdims=True)),
        (op(Add, x), Add(X, X)),
        (op(Exp, x, y), Exp(X)),
    ],
)
def test_another_class_setting_or_number_of_inputs_does_not_match(pattern: Pattern, node: Node) -> None:
    assert found(pattern, node) is None


def test_a_pattern_in_several_places_matches_one_node_alone() -> None:
    assert found(x * x, Mul(X, X)) == {"x": X}
    assert found(x * x, Mul(X, Y)) is None
    power = op(Exp, x)
    assert found(power * power, (lambda e: Mul(e, e))(Exp(X))) == {"x": X}
    assert found(power * power, Mul(Exp(X), Exp(X))) is None
    assert found(op(Exp, x) * op(Exp, x), Mul(Exp(X), Exp(X))) == {"x": X}
    assert found(op(Exp, x) * op(Exp, x), Mul(Exp(X), Exp(Y))) is None


def test_a_setting_in_several_places_has_one_value() -> None:
    axes = Setting("axes")
    pattern = op(Transpose, op(Transpose, x, axes=axes), axes=Setting("axes"))
    assert found(pattern, Transpose(Transpose(X, (1, 0)), (1, 0))) == {"x": X, "axes": (1, 0)}
    assert found(pattern, Transpose(Transpose(X, (1, 0)), (0, 1))) is None


def test_classes_inputs_and_settings_that_are_not_named_may_be_any() -> None:
    pattern = var("node", (Sum, Elementwise))
    for node in (Sum(X, 0), Sum(X, 1, keepdims=True), Exp(Y), AddConst(X, 3)):
        assert found(pattern, node) == {"node": node}
    assert found(pattern, Add(X, Y)) is None


def test_a_rule_returns_the_replacement_or_none() -> None:
    @rule(x * y + x)
    def factored(x: Node, y: Node) -> Node | None:
        return Mul(x, AddConst(y, 1)) if y is Y else None

    replaced = factored(Add(Mul(X, Y), X))
    assert isinstance(replaced, Mul)
    assert replaced.inputs[0] is X
    assert factored(Add(Mul(Y, X), Y)) is None
    assert factored(Add(Mul(X, Y), Y)) is None


def test_a_rule_leaves_a_node_with_another_use_alone() -> None:
    @rule(op(Exp, var("inner", AddConst)), sole="inner")
    def negated(inner: Node) -> Node:
        return MulConst(inner.inputs[0], -1)

    inner = AddConst(X, 1)
    once, twice = {inner: 1}, {inner: 2}
    assert isinstance(negated(Exp(inner)), MulConst)
    assert isinstance(negated(Exp(inner), once), MulConst)
    assert negated(Exp(inner), twice) is None
