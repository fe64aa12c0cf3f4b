"""Patterns of nodes, written like array maths, and rules that replace what they match."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from nl_nodes.node import Node
from nl_nodes.nodes.arithmetic import Add, AddConst, Mul, MulConst, Power
from nl_nodes.nodes.products import Dot

Kinds = type[Node] | tuple[type[Node], ...]
"""A node class or several."""


@dataclass(frozen=True)
class Setting:
    """Any value of a node's setting; where it stands several times in a rule, the values are equal."""

    name: str


@dataclass(frozen=True, eq=False)
class Pattern:
    """A node of one of some classes; a pattern that stands several times in a rule matches one node.

    Attributes:
        name: the argument of the rule's function that takes the node; "" for none.
        kinds: the classes.
        inputs: the patterns of all inputs, in order; () matches any.
        settings: values of attributes of the node, or a `Setting`; others may have any value.
    """

    name: str
    kinds: Kinds
    inputs: tuple[Pattern, ...]
    settings: dict[str, Any]

    def match(self, node: Node, found: dict[Any, Any]) -> bool:
        """Whether the node matches, given what has been found; adds the nodes and settings found here."""
        return (
            found.setdefault(self, node) is node
            and isinstance(node, self.kinds)
            and all(_equal(value, getattr(node, name), found) for name, value in self.settings.items())
            and len(self.inputs) in (0, len(node.inputs))
            and all(pattern.match(n, found) for pattern, n in zip(self.inputs, node.inputs, strict=False))
        )

    def __add__(self, other: Pattern | Setting | float) -> Pattern:
        return op(Add, self, other) if isinstance(other, Pattern) else op(AddConst, self, c=other)

    def __sub__(self, other: Pattern) -> Pattern:
        return self + other * -1

    def __mul__(self, other: Pattern | Setting | float) -> Pattern:
        return op(Mul, self, other) if isinstance(other, Pattern) else op(MulConst, self, c=other)

    def __pow__(self, p: float) -> Pattern:
        return op(Power, self, p=p)

    def __matmul__(self, other: Pattern) -> Pattern:
        return op(Dot, self, other)


def op(kinds: Kinds, *inputs: Pattern, **settings: Any) -> Pattern:
    """Return the pattern of a node that the rule's function does not take."""
    return Pattern("", kinds, inputs, settings)


def var(name: str, kinds: Kinds = Node, *inputs: Pattern, **settings: Any) -> Pattern:
    """Return the pattern of a node that the rule's function takes as `name`: any node by default."""
    return Pattern(name, kinds, inputs, settings)


@dataclass(frozen=True)
class Rule:
    """A pattern, and the function that returns the replacement of a node that matches it.

    Attributes:
        pattern: the pattern; the rule is tried on nodes of its classes.
        replacement: takes the nodes and settings with a name; returns a node with the same values and gradients, or
            None where they do not fit together.
        sole: the name of a node that may have no other use: the rule would compute it twice.
    """

    pattern: Pattern
    replacement: Callable[..., Node | None]
    sole: str = ""

    def __call__(self, node: Node, uses: Mapping[Node, int] | None = None) -> Node | None:
        """Return the replacement of a node, or None where the rule does not match.

        Args:
            node: the node.
            uses: the number of uses of each node of the graph; one that is not there has one.
        """
        found: dict[Any, Any] = {}
        if not self.pattern.match(node, found):
            return None
        named = {part.name: value for part, value in found.items() if part.name}
        if self.sole and (uses or {}).get(named[self.sole], 1) > 1:
            return None
        return self.replacement(**named)


def rule(pattern: Pattern, sole: str = "") -> Callable[[Callable[..., Node | None]], Rule]:
    """Return a decorator that makes a function the rule for a pattern; `sole` names a node without other uses."""
    return partial(Rule, pattern, sole=sole)


def _equal(expected: Any, value: Any, found: dict[Any, Any]) -> bool:
    """Whether a setting has the expected value, for a `Setting` the one found before."""
    return bool((found.setdefault(expected, value) if isinstance(expected, Setting) else expected) == value)
