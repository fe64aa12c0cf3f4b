"""Python's operators on nodes, each wiring the node of the same operation."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, cast

from nl_nodes.errors import UserError

if TYPE_CHECKING:
    from nl_nodes.node import Node


class Operators:
    """Base of `Node` with `+`, `-`, `*`, `/`, `**`, `@` and `.T`; the other operand is a node, an array or a number.

    An array becomes a `Constant`; a number an attribute of the node, as in `AddConst`.

    >>> from nl_nodes import Graph, Input
    >>> x = Input("x", (2,))
    >>> [node for node in Graph((1 - x) ** 2 / 4).order]
    [Input('x'), MulConst(2,), AddConst(2,), Power(2,), MulConst(2,)]
    """

    __array_ufunc__ = None  # `array + node` is left to the node

    def __add__(self, other: Any) -> Node:
        from nl_nodes.nodes import Add, AddConst

        operand = _operand(other)
        return AddConst(_node(self), operand) if isinstance(operand, int | float) else Add(_node(self), operand)

    def __mul__(self, other: Any) -> Node:
        from nl_nodes.nodes import Mul, MulConst

        operand = _operand(other)
        return MulConst(_node(self), operand) if isinstance(operand, int | float) else Mul(_node(self), operand)

    def __radd__(self, other: Any) -> Node:
        return self + other if isinstance(other, Real) else _node(other) + self

    def __rmul__(self, other: Any) -> Node:
        return self * other if isinstance(other, Real) else _node(other) * self

    def __neg__(self) -> Node:
        return self * -1

    def __sub__(self, other: Any) -> Node:
        return self + -_operand(other)

    def __rsub__(self, other: Any) -> Node:
        return -self + other if isinstance(other, Real) else _node(other) - self

    def __truediv__(self, other: Any) -> Node:
        return self * (1 / _operand(other))

    def __rtruediv__(self, other: Any) -> Node:
        from nl_nodes.nodes import Reciprocal

        inverse = Reciprocal(_node(self))
        return inverse if isinstance(other, Real) and other == 1 else other * inverse

    def __pow__(self, p: Any) -> Node:
        from nl_nodes.nodes import Power

        if not isinstance(p, Real):
            raise UserError(f"{self!r} ** {type(p).__name__}: the exponent must be a number")
        return Power(_node(self), _number(p))

    def __matmul__(self, other: Any) -> Node:
        from nl_nodes.nodes import Dot

        return Dot(_node(self), _node(other))

    def __rmatmul__(self, other: Any) -> Node:
        return _node(other) @ self

    @property
    def T(self) -> Node:
        """The transpose of a matrix."""
        from nl_nodes.nodes import T

        return T(_node(self))


def _operand(value: Any) -> float | Node:
    """Return a node for an operand, or Python's number for a number."""
    return _number(value) if isinstance(value, Real) else _node(value)


def _number(value: Real) -> float:
    """Return Python's number: one of NumPy would change the dtype of arrays."""
    return int(value) if isinstance(value, Integral) else float(value)


def _node(value: Any) -> Node:
    """Return a node for an operand; an array becomes a `Constant`.

    Raises:
        UserError: for anything that is neither a node nor an array.
    """
    from nl_nodes.nodes import Constant

    if isinstance(value, Operators):
        return cast("Node", value)
    if not hasattr(value, "shape"):
        raise UserError(f"a node cannot be combined with {type(value).__name__}: use a node, an array or a number")
    return Constant(value)
