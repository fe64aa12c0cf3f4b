"""Nodes on infinite, NaN and extreme values; see support/not_finite.py."""

import warnings

import numpy as np
import pytest
from support.not_finite import POINTS, close, non_finite_values_match, points

from nl_nodes import Graph, Img2Matrix, Input, Max, Sigmoid, ValueMask
from nl_nodes.verify import check_graph

# NumPy warns at a pole, as it does for numbers, and where infinities cancel to NaN.
POLES = ("Log", "Reciprocal", "Power", "IndexMask")


@pytest.mark.parametrize("name", POINTS)
def test_node_gives_recorded_pytorch_values(name: str) -> None:
    non_finite_values_match(name)


@pytest.mark.parametrize(("name", "point"), [(n, p) for n, p in points() if n not in POLES])
def test_finite_results_give_no_warning(name: str, point) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        point.graph.run(**point.feeds("float64")).backward(point.upstream("float64"))


def test_a_maximum_of_complex_numbers_is_the_first_of_those_whose_real_part_is_largest() -> None:
    x = np.array([[1 + 1j, 3 - 1j], [3 + 5j, 3 + 9j]])
    assert Graph(Max(Input("x"))).run(x=x).results[0] == 3 - 1j
    assert Graph(Max(Input("x"), 0)).run(x=x).results[0].tolist() == [3 + 5j, 3 - 1j]


@pytest.mark.parametrize("shape", [(2,), (3, 4), (2, 1, 3)])
def test_the_oracle_takes_the_first_of_ties_too(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 2, shape).astype(float)
    for residual in check_graph(Graph(Max(Input("x"), axis=0)), {"x": x}, np.ones(shape[1:])):
        assert residual.value <= 1e-12


@pytest.mark.parametrize("threshold", [0, 0.5])
def test_the_oracle_stops_at_the_threshold_too(threshold: float) -> None:
    x = np.array([-1, 0, 0.5, 0.5, 2])
    for residual in check_graph(Graph(ValueMask(Input("x"), threshold)), {"x": x}, np.arange(1.0, 6)):
        assert residual.value <= 1e-12


def test_windows_beyond_the_edge_see_the_nearest_pixel() -> None:
    node = Img2Matrix(Input("x"), 3, 2, 1, 2, fill=None)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 3))
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    expected = Graph(Img2Matrix(Input("x"), 3, 2)).run(x=padded).results[0]
    run = Graph(node).run(x=x)
    np.testing.assert_array_equal(run.results[0], expected)
    assert run.backward(np.ones_like(expected))["x"].sum() == expected.size


def test_float32_keeps_the_small_digits() -> None:
    x = np.array([-20, -80, -100], "float32")
    close(Graph(Sigmoid(Input("x"))).run(x=x).results[0][:2], [2.0611537e-09, 1.804851e-35], "float32")
    assert Graph(Sigmoid(Input("x"))).run(x=x).results[0][2] > 0  # below the normal range
