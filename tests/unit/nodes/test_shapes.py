"""The arithmetic of shapes and axes."""

import numpy as np
import pytest

from nl_nodes import ShapeError
from nl_nodes.shapes import broadcast, normalise, reduced, unbroadcast


@pytest.mark.parametrize(
    ("axis", "expected"),
    [(None, (0, 1, 2)), (0, (0,)), (-1, (2,)), ((-1, 0), (0, 2)), ((2, 0, 1), (0, 1, 2)), ((), ())],
)
def test_axes_are_sorted_and_not_negative(axis, expected) -> None:
    assert normalise(axis, 3) == expected


@pytest.mark.parametrize("axis", [3, -4, (0, 3), (1, -2)])
def test_an_axis_out_of_range_or_named_twice_is_refused(axis) -> None:
    with pytest.raises(ShapeError, match="does not fit 3 axes"):
        normalise(axis, 3)


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("axes", [(), (1,), (0, 2), (0, 1, 2)])
def test_reduced_is_the_shape_of_a_sum(axes, keepdims: bool) -> None:
    assert reduced((2, 3, 4), axes, keepdims) == np.ones((2, 3, 4)).sum(axes, keepdims=keepdims).shape


@pytest.mark.parametrize(
    "shapes",
    [((4, 1), (3,)), ((), (2,)), ((2, 3), (2, 3)), ((1, 1), (1,)), ((0, 3), (1, 1)), ((5, 1, 1), (3, 1), (2,))],
)
def test_broadcast_shapes_are_those_of_numpy(shapes) -> None:
    assert broadcast(*shapes) == np.broadcast_shapes(*shapes)


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((2, 3), (2, 1), (4,))])
def test_shapes_without_a_common_one_are_refused(shapes) -> None:
    with pytest.raises(ValueError, match="no common shape"):
        broadcast(*shapes)


@pytest.mark.parametrize("shape", [(), (4,), (1,), (3, 1), (3, 4), (1, 4), (2, 1, 4), (1, 1, 1)])
def test_a_gradient_is_summed_over_the_axes_that_were_broadcast(shape) -> None:
    dy = np.arange(24.0).reshape(2, 3, 4)
    expected = np.zeros(shape)
    places = np.broadcast_to(np.arange(expected.size).reshape(shape), dy.shape)
    np.add.at(expected.reshape(-1), places, dy)
    np.testing.assert_array_equal(unbroadcast(dy, shape), expected)
    assert unbroadcast(dy, shape).shape == shape


def test_an_empty_batch_has_an_empty_gradient() -> None:
    assert unbroadcast(np.ones((2, 0)), (0,)).shape == (0,)


def test_a_gradient_that_was_not_broadcast_is_not_summed() -> None:
    dy = np.ones((1, 3))
    assert unbroadcast(dy, (1, 3)) is dy
