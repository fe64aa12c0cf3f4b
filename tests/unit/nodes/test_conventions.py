"""Conventions at kinks and ties, and refused shapes and settings."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nl_nodes import Graph, Input, Max, Mean, Node, Reshape, ShapeError, Softplus, ValueMask
from nl_nodes.verify import upstream

INF = float("inf")
TINY = 5e-324  # the smallest number above 0
ABOVE = np.nextafter(0.5, 1)
BELOW = np.nextafter(0.5, 0)


def both(node: Node, x: object, dy: object = None, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Return a node's output and input gradient for the input x; dy is 1, 2, 3, ... unless given."""
    done = Graph(node).run(x=np.array(x, dtype))
    y = done.results[0]
    dy = np.arange(1, y.size + 1).reshape(y.shape) if dy is None else np.array(dy)
    return y, done.backward(dy.astype(dtype))["x"]


@pytest.mark.parametrize(
    ("threshold", "x", "y", "dx"),
    [
        (0, [-1, -TINY, -0.0, 0.0, TINY, 1], [0, 0, 0, 0, TINY, 1], [0, 0, 0, 0, 5, 6]),
        (0.5, [0, BELOW, 0.5, ABOVE, 9], [0, 0, 0, ABOVE, 9], [0, 0, 0, 4, 5]),
        (-1, [-2, -1, -0.5, 0], [0, 0, -0.5, 0], [0, 0, 3, 4]),
    ],
)
def test_a_mask_stops_its_threshold(threshold: float, x: list, y: list, dx: list) -> None:
    got = both(ValueMask(Input("x"), threshold), x)
    assert [a.tolist() for a in got] == [y, dx]


def test_softplus_where_its_branches_meet() -> None:
    y, dx = both(Softplus(Input("x")), [-TINY, 0.0, TINY, -1e4, 1e4])
    np.testing.assert_allclose(y, [np.log(2)] * 3 + [0, 1e4], rtol=1e-15)
    assert dx.tolist() == [0.5, 1, 1.5, 0, 5]


TIED = [[1, 3, 3], [3, 1, 3]]


@pytest.mark.parametrize(
    ("axis", "x", "y", "dx"),
    [
        (None, TIED, 3, [[0, 1, 0], [0, 0, 0]]),
        ((0, 1), TIED, 3, [[0, 1, 0], [0, 0, 0]]),
        ((1, 0), TIED, 3, [[0, 1, 0], [0, 0, 0]]),
        (0, TIED, [3, 3, 3], [[0, 2, 3], [1, 0, 0]]),
        (-2, TIED, [3, 3, 3], [[0, 2, 3], [1, 0, 0]]),
        (1, TIED, [3, 3], [[0, 1, 0], [2, 0, 0]]),
        (None, [-0.0, 0.0], 0, [1, 0]),
        (0, [-INF, -INF], -INF, [1, 0]),
        ((), [4, 4], [4, 4], [1, 2]),
        (None, 5, 5, 1),
        ((0, 2), [[[0, 0], [1, 1]], [[2, 2], [1, 1]]], [2, 1], [[[0, 0], [2, 0]], [[1, 0], [0, 0]]]),
    ],
)
def test_the_first_of_tied_maxima_takes_the_whole_gradient(axis, x: list, y: list, dx: list) -> None:
    got = both(Max(Input("x"), axis), x)
    assert [a.tolist() for a in got] == [y, dx]


@pytest.mark.parametrize("order", ["C", "F"])
@given(data=st.data())
def test_ties_are_decided_by_the_axes_and_not_by_the_memory(order: str, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4), label="shape"))
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1)), label="axes"))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    x = np.array(rng.integers(0, 2, shape), float, order=order)
    dy = upstream(rng, tuple(1 if a in axes else n for a, n in enumerate(shape)))
    done = Graph(Max(Input("x"), tuple(axes), keepdims=True)).run(x=x)

    dx = np.zeros(shape)
    for out in np.ndindex(dy.shape):
        places = product(*(range(n) if a in axes else (out[a],) for a, n in enumerate(shape)))
        dx[max(places, key=lambda at: x[at])] = dy[out]  # of ties the first
    got = done.backward(dy)["x"]
    np.testing.assert_array_equal(got, dx)
    np.testing.assert_array_equal(got.sum(tuple(axes), keepdims=True), dy)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Max(Input("x", (0, 3)), 0), "no elements, got (0, 3)"),
        (lambda: Max(Input("x", (0, 0)), 0), "no elements, got (0, 0)"),
        (lambda: Max(Input("x", (2, 0))), "no elements, got (2, 0)"),
        (lambda: Mean(Input("x", (0, 3)), 0), "no elements, got (0, 3)"),
        (lambda: Reshape(Input("x", (6,)), (-2, -3)), "cannot become (-2, -3), got (6,)"),
        (lambda: Reshape(Input("x", (6,)), (-1, -2)), "cannot become (-1, -2), got (6,)"),
    ],
)
def test_invalid_shapes_and_arguments_are_refused(build, told: str) -> None:
    with pytest.raises(ShapeError) as error:
        build()
    assert told in str(error.value)
