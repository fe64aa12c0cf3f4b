"""Results of nodes for infinite, NaN and extreme inputs, recorded from PyTorch 2.13 in float64.

`tests/peers` compares them with PyTorch. If PyTorch has no such function, the value follows from the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import e, exp, inf, log, nan
from typing import Any

import numpy as np

from nl_nodes import (
    Exp,
    Graph,
    IndexMask,
    Input,
    Log,
    MaskedMul,
    Max,
    MulConst,
    Node,
    Power,
    Reciprocal,
    Sigmoid,
    Softplus,
    Tanh,
    ValueMask,
)
from nl_nodes.compiler import CompileSpec, Executor, compile_graph
from nl_nodes.compiler.fused import Affine, LabelLogSoftmax, Pool

TINY = 4.248354255291589e-18  # sigmoid(-40) and log(1 + e^-40)


@dataclass(frozen=True)
class Point:
    """A node with inputs and expected results.

    Attributes:
        build: makes the node from its input nodes.
        inputs: the values of the inputs.
        y: the expected output.
        dxs: the expected gradient of each input.
        dy: the upstream gradient, ones by default.
    """

    build: Callable[..., Node]
    inputs: tuple[Any, ...]
    y: Any
    dxs: tuple[Any, ...]
    dy: Any = None

    @property
    def graph(self) -> Graph:
        """The node with its inputs x0, x1 and so on."""
        return Graph(self.build(*(Input(f"x{i}", np.shape(x)) for i, x in enumerate(self.inputs))))

    def feeds(self, dtype: str) -> dict[str, np.ndarray]:
        """The inputs by name."""
        return {f"x{i}": np.array(x, dtype) for i, x in enumerate(self.inputs)}

    def upstream(self, dtype: str) -> np.ndarray:
        """The upstream gradient."""
        return np.ones(np.shape(self.y), dtype) if self.dy is None else np.array(self.dy, dtype)


WINDOWS = ([-inf, -inf, -inf], [1, nan, 2], [nan, nan, inf], [inf, 1, inf], [-inf, 3, -inf])
SHIFTED = [0, exp(0) / (1 + e), e / (1 + e)]  # softmax of (-inf, 0, 1)

POINTS: dict[str, list[Point]] = {
    "ValueMask": [
        Point(ValueMask, ([-inf, inf, nan, 0, 2.0**-140],), [0, inf, nan, 0, 2.0**-140], ([0, 1, 1, 0, 1],)),
        Point(ValueMask, ([-1, 1, -1, 1],), [0, 1, 0, 1], ([0, inf, 0, nan],), [-inf, inf, nan, nan]),
        Point(lambda x: ValueMask(x, 0.5), ([-inf, inf, nan, 0.5],), [0, inf, nan, 0], ([0, 1, 1, 0],)),
        Point(lambda x: ValueMask(x, -1), ([-inf, -1, -0.5],), [0, 0, -0.5], ([0, 0, 1],)),
    ],
    "IndexMask": [  # the last two random words of this stream are below one half
        Point(lambda x: IndexMask(x, 0.5, seed=3), ([inf, nan, nan, -inf],), [inf, nan, nan, nan], ([1, 1, 0, 0],)),
    ],
    "Sigmoid": [
        Point(
            Sigmoid,
            ([-inf, inf, nan, -40, 40, -1e30, 1e30],),
            [0, 1, nan, TINY, 1, 0, 1],
            ([0, 0, nan, TINY, 0, 0, 0],),
        ),
    ],
    "Softplus": [
        Point(
            Softplus,
            ([-inf, inf, nan, -40, 40, -1e30, 1e30],),
            [0, inf, nan, TINY, 40, 0, 1e30],
            ([0, 1, nan, TINY, 1, 0, 1],),
        ),
    ],
    "Tanh": [Point(Tanh, ([-inf, inf, nan, 1e30],), [-1, 1, nan, 1], ([0, 0, nan, 0],))],
    "Exp": [Point(Exp, ([-inf, inf, nan, -1e30],), [0, inf, nan, 0], ([0, inf, nan, 0],))],
    "Log": [Point(Log, ([0, inf, nan],), [-inf, inf, nan], ([inf, 0, nan],))],
    "Reciprocal": [Point(Reciprocal, ([0, inf, -inf, nan],), [inf, 0, 0, nan], ([-inf, 0, 0, nan],))],
    "Power": [
        Point(lambda x: Power(x, 2), ([0, inf, -inf, nan],), [0, inf, inf, nan], ([0, inf, -inf, nan],)),
        Point(lambda x: Power(x, 0.5), ([0, inf, nan],), [0, inf, nan], ([inf, 0, nan],)),
        Point(lambda x: Power(x, -0.5), ([0, inf, nan],), [inf, 0, nan], ([-inf, 0, nan],)),
    ],
    "Max": [
        Point(
            lambda x: Max(x, 1),
            (WINDOWS,),
            [-inf, nan, nan, inf, 3],
            ([[1, 0, 0], [0, 2, 0], [3, 0, 0], [4, 0, 0], [0, 5, 0]],),
            [1, 2, 3, 4, 5],
        ),
        Point(lambda x: Max(x, 1), ([[1, 3], [3, 1]],), [3, 3], ([[0, inf], [nan, 0]],), [inf, nan]),
    ],
    "MaskedMul": [
        Point(
            MaskedMul,
            ([0, 0, 0, 2, 2, 2], [-inf, inf, nan, -inf, inf, nan]),
            [0, 0, 0, -inf, inf, nan],
            ([-inf, inf, nan, -inf, inf, nan], [0, 0, 0, 2, 2, 2]),
        ),
        Point(MaskedMul, ([0, 2], [[inf, 1], [3, inf]]), [[0, 2], [0, inf]], ([inf, inf], [[0, 2], [0, 2]])),
        Point(MaskedMul, ([[0], [2]], [inf, 1]), [[0, 0], [inf, 2]], ([[inf], [inf]], [2, 2])),
    ],
    "LabelLogSoftmax": [
        Point(
            LabelLogSoftmax,
            ([[-inf, 0, 1]] * 2, [[0, 1, 0], [1, 0, 0]]),
            [-log(1 + e), -inf],
            (
                [[0, 1 - SHIFTED[1], -SHIFTED[2]], [1, -SHIFTED[1], -SHIFTED[2]]],
                [[-inf, -log(1 + e), 1 - log(1 + e)]] * 2,
            ),
        ),
        Point(LabelLogSoftmax, ([[nan, 0]], [[0, 1]]), [nan], ([[nan, nan]], [[nan, nan]])),
    ],
    "Affine": [
        Point(
            lambda x, w, b: Affine(x, w, b, relu=True),
            ([[1], [-1]], [[1, 1]], [-inf, inf]),
            [[0, inf]] * 2,
            ([[1], [1]], [[0, 0]], [0, 2]),
        ),
    ],
    "Pool": [
        Point(
            lambda x: MulConst(Pool(x), 1),
            (np.reshape([-inf, -inf, -inf, -inf], (2, 2, 1, 1)),),
            [[[[-inf]]]],
            (np.reshape([1, 0, 0, 0], (2, 2, 1, 1)),),
        ),
    ],
}


def points() -> Iterator[tuple[str, Point]]:
    """Yield the points of every node, with the node's name."""
    return ((name, point) for name, found in POINTS.items() for point in found)


def non_finite_values_match(name: str) -> None:
    """A node gives the recorded values in both precisions, in the reference and compiled."""
    for point in POINTS.get(name, ()):
        for dtype in ("float32", "float64"):
            with np.errstate(all="ignore"):
                run = point.graph.run(**point.feeds(dtype))
                close(run.results[0], point.y, dtype)
                found = run.backward(point.upstream(dtype))
            for dx, expected in zip(found.values(), point.dxs, strict=True):
                close(dx, expected, dtype)
            close(compiled(point.graph, point.feeds(dtype)), point.y, dtype)


def compiled(graph: Graph, feeds: dict[str, np.ndarray]) -> Any:
    """Return the output of a graph's plan."""
    shapes = {name: (x.shape, x.dtype) for name, x in feeds.items()}
    return compile_graph(graph, CompileSpec(shapes), Executor()).run(feeds, 0)[0]


def close(found: Any, expected: Any, dtype: str) -> None:
    """Assert that values are equal up to the relative precision of the dtype."""
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6 if dtype == "float32" else 1e-14)
