"""Operators wire the nodes that a reader would write by name, and give NumPy's values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.assertions import refused

from nl_nodes import Graph, Input, Node
from nl_nodes.verify import check_graph, upstream

X, Y = np.array([[1.0, 2.0], [0.5, 4.0]]), np.array([[3.0, 0.25], [2.0, 1.0]])
EXPRESSIONS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "sum": (lambda x, y: x + y, "Add"),
    "number added": (lambda x, y: 2 + x, "AddConst"),
    "fraction added": (lambda x, y: x + 0.5, "AddConst"),
    "array added": (lambda x, y: Y + x, "Add"),
    "difference": (lambda x, y: x - y, "MulConst Add"),
    "number less": (lambda x, y: 1 - x, "MulConst AddConst"),
    "array less": (lambda x, y: Y - x, "MulConst Add"),
    "negative": (lambda x, y: -x, "MulConst"),
    "product": (lambda x, y: x * y, "Mul"),
    "multiple": (lambda x, y: np.float64(3) * x, "MulConst"),
    "quotient": (lambda x, y: x / y, "Reciprocal Mul"),
    "part": (lambda x, y: x / 2, "MulConst"),
    "inverse": (lambda x, y: 1 / x, "Reciprocal"),
    "inverse multiple": (lambda x, y: 3 / x, "Reciprocal MulConst"),
    "array over": (lambda x, y: Y / x, "Reciprocal Mul"),
    "power": (lambda x, y: x**2, "Power"),
    "matrix product": (lambda x, y: x @ y, "Dot"),
    "array times": (lambda x, y: Y @ x, "Dot"),
    "transpose": (lambda x, y: x.T @ y, "T Dot"),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_operator_wires_nodes_with_numpys_value_and_a_right_gradient(name: str) -> None:
    formula, nodes = EXPRESSIONS[name]
    node = formula(Input("x"), Input("y"))
    graph = Graph(node)
    assert " ".join(type(n).__name__ for n in graph.order if n.inputs) == nodes
    feeds = {key: value for key, value in {"x": X, "y": Y}.items() if key in graph.leaves}
    np.testing.assert_array_equal(graph.forward(**feeds), formula(X, Y) if name != "quotient" else X * (1 / Y))
    for residual in check_graph(graph, feeds, upstream(np.random.default_rng(0), X.shape)):
        assert residual.value < 1e-10


def test_numbers_keep_the_dtype() -> None:
    x = Input("x")
    graph = Graph(np.float64(2) * x + np.int64(1) - x / np.float64(3))
    assert graph.forward(x=X.astype("float32")).dtype == "float32"


def test_operands_keep_their_order_and_numbers_their_type() -> None:
    x, y = Input("x"), Input("y")
    assert (x + y).inputs == (x * y).inputs == (x, y)
    assert repr((x * np.int64(2)).attributes) == "{'c': 2}"


def test_other_operands_are_refused() -> None:
    x: Node = Input("x")
    with refused("cannot be combined with str", "array"):
        x * "text"
    with refused("exponent must be a number"):
        x**x
