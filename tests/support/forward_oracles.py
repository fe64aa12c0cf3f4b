"""An independent formula for every node, and naive evaluation of a graph as a tree of these formulas.

Each formula takes the node, for its attributes, and float64 arrays. Oracles of optimized nodes are plain: loops over
elements, Python's math functions and integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np

from nl_nodes import Graph, Node
from nl_nodes.nodes import Leaf

Oracle = Callable[..., np.ndarray]
ORACLES: dict[str, Oracle] = {}
REDUCING: set[str] = set()


def oracle(name: str, reduces: bool = False) -> Callable[[Oracle], Oracle]:
    """Register a node's formula; `reduces` means that it sums, with rounding that depends on the order."""

    def register(formula: Oracle) -> Oracle:
        ORACLES[name] = formula
        if reduces:
            REDUCING.add(name)
        return formula

    return register


def naive(node: Node, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the node's output in a graph's first pass, evaluating each node once per path to it."""
    if isinstance(node, Leaf):
        return feeds.get(node.name, node.value)
    return ORACLES[type(node).__name__](node, *(naive(n, feeds) for n in node.inputs))


def assert_forward(graph: Graph, feeds: Mapping[str, np.ndarray]) -> None:
    """Assert that the graph's outputs match the formulas."""
    assert_formulas(graph, formulas(graph, feeds), graph.run(**feeds).results)


def formulas(graph: Graph, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the graph's outputs by the formulas."""
    return [np.asarray(naive(output, feeds)) for output in graph.outputs]


def assert_formulas(graph: Graph, wanted: Iterable[np.ndarray], results: Iterable[np.ndarray]) -> None:
    """Assert that results match: within 4 ulp, or with sums in the graph within 1e-13 of the largest."""
    reduces = any(type(node).__name__ in REDUCING for node in graph.order)
    for expected, found in zip(wanted, results, strict=True):
        assert found.shape == expected.shape, (found.shape, expected.shape)
        scale = 1e-13 * np.abs(expected).max(initial=0.0) if reduces else 4 * np.spacing(np.abs(expected))
        assert np.all(np.abs(found - expected) <= scale), (found, expected)


def each(function: Callable[[float], float], x: np.ndarray) -> np.ndarray:
    return np.array([function(float(value)) for value in x.ravel()]).reshape(x.shape)


oracle("Add")(lambda node, a, b: np.add(a, b))
oracle("Mul")(lambda node, a, b: np.multiply(a, b))
oracle("MaskedMul")(
    lambda node, a, b: np.multiply(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=a != 0)
)
oracle("AddConst")(lambda node, x: np.add(x, float(node.c)))
oracle("MulConst")(lambda node, x: np.multiply(x, float(node.c)))
oracle("Reciprocal")(lambda node, x: each(lambda value: 1 / value, x))
oracle("Power")(lambda node, x: each(lambda value: math.pow(value, node.p), x))
oracle("Exp")(lambda node, x: each(math.exp, x))
oracle("Log")(lambda node, x: each(math.log, x))
oracle("Tanh")(lambda node, x: each(math.tanh, x))
oracle("Sigmoid")(lambda node, x: each(lambda value: 1 / (1 + math.exp(-value)), x))
oracle("Softplus")(lambda node, x: np.logaddexp(0.0, x))
oracle("StopGradient")(lambda node, x: x)
oracle("ValueMask")(lambda node, x: each(lambda value: value if value > node.threshold else 0.0, x))
oracle("Repeat")(lambda node, x: np.take(x, np.arange(x.shape[node.axis] * node.repeats) // node.repeats, node.axis))


def groups(x: np.ndarray, axis: Any, keepdims: bool, reduce: Callable[[list[float]], float]) -> np.ndarray:
    """Reduce each group of elements along the axes, in row-major order, by a function of a list."""
    axes = range(x.ndim) if axis is None else [a % x.ndim for a in np.atleast_1d(axis)]
    found: dict[tuple[int, ...], list[float]] = {}
    for index in np.ndindex(x.shape):
        place = tuple(0 if i in axes else n for i, n in enumerate(index))
        found.setdefault(place, []).append(float(x[index]))
    y = np.zeros([1 if i in axes else n for i, n in enumerate(x.shape)])
    for place, values in found.items():
        y[place] = reduce(values)
    return y if keepdims else y.reshape([n for i, n in enumerate(x.shape) if i not in axes])


oracle("Sum", reduces=True)(lambda node, x: groups(x, node.axis, node.keepdims, math.fsum))
oracle("Mean", reduces=True)(lambda node, x: groups(x, node.axis, node.keepdims, lambda v: math.fsum(v) / len(v)))
oracle("Max")(lambda node, x: groups(x, node.axis, node.keepdims, max))


@oracle("Dot", reduces=True)
def dot(node: Node, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Sum over the shared axis for each output element."""
    y = np.zeros((*x.shape[:-1], *w.shape[1:]))
    for row, column in product(np.ndindex(x.shape[:-1]), np.ndindex(w.shape[1:])):
        y[(*row, *column)] = math.fsum(float(x[(*row, k)]) * float(w[(k, *column)]) for k in range(len(w)))
    return y


@oracle("Img2Matrix")
def img2matrix(node: Any, x: np.ndarray) -> np.ndarray:
    """Copy each window pixel by pixel; outside the image use the fill value or the nearest pixel."""
    n, c, h, w = x.shape
    oh = (h + 2 * node.pad - node.height) // node.stride + 1
    ow = (w + 2 * node.pad - node.width) // node.stride + 1
    y = np.full((c, node.height, node.width, oh, ow, n), float(node.fill or 0))
    for k, a, b, i, j in np.ndindex(y.shape[:-1]):
        row, column = i * node.stride + a - node.pad, j * node.stride + b - node.pad
        if node.fill is None:
            row, column = min(max(row, 0), h - 1), min(max(column, 0), w - 1)
        if 0 <= row < h and 0 <= column < w:
            y[k, a, b, i, j] = x[:, k, row, column]
    return y.reshape(-1, oh, ow, n)


@oracle("Reshape")
def reshape(node: Any, x: np.ndarray) -> np.ndarray:
    """Copy the elements in row-major order into the target shape."""
    shape = [x.shape[i] if n == 0 else n for i, n in enumerate(node.target)]
    if -1 in shape:
        moved = [n for i, n in enumerate(x.shape) if i >= len(node.target) or node.target[i] != 0]
        shape[shape.index(-1)] = math.prod(moved) // math.prod(n for n in node.target if n > 0)
    y = np.zeros(shape)
    for place, value in zip(np.ndindex(y.shape), [x[index] for index in np.ndindex(x.shape)], strict=True):
        y[place] = value
    return y


def permuted(x: np.ndarray, axes: list[int]) -> np.ndarray:
    y = np.zeros([x.shape[a] for a in axes])
    for index in np.ndindex(x.shape):
        y[tuple(index[a] for a in axes)] = x[index]
    return y


oracle("Transpose")(lambda node, x: permuted(x, [a % x.ndim for a in node.axes]))
oracle("Slice")(lambda node, x: x[np.ix_(*(range(*s.indices(n)) for s, n in zip(node.slices, x.shape, strict=True)))])
oracle("T")(lambda node, x: permuted(x, list(range(x.ndim))[::-1]))


@oracle("Pad")
def padded(node: Any, x: np.ndarray) -> np.ndarray:
    """Copy element by element into zeros, shifted by the widths before each axis."""
    y = np.zeros([n + sum(widths) for n, widths in zip(x.shape, node.widths, strict=True)])
    for index in np.ndindex(x.shape):
        y[tuple(i + before for i, (before, _) in zip(index, node.widths, strict=True))] = x[index]
    return y


@oracle("OneHot")
def one_hot(node: Node, t: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return rows of zeros with a one at each label; rows, and targets for single logits, are unchanged."""
    if t.size == like.size:
        return t.reshape(like.shape) * 1.0
    y = np.zeros(like.shape)
    for n, k in np.ndindex(y.shape):
        y[n, k] = 1.0 if t[n] == k else 0.0
    return y


@oracle("IndexMask")
def index_mask(node: Any, x: np.ndarray) -> np.ndarray:
    """Keep element i where random word i is at least ratio * 2^64."""
    bits = [word for block in range(-(-x.size // 4)) for word in philox((block, 0, 0, 0), (node.seed, node.stream))]
    limit = int(node.ratio * 2**64)  # exact: a scaling by a power of two
    return np.array([v if bits[i] >= limit else 0.0 for i, v in enumerate(x.ravel().tolist())]).reshape(x.shape)


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x64-10 in Python integers; Salmon et al., Parallel Random Numbers (2011), section 3.3."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * c2, 2**64)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % 2**64, (k1 + 0xBB67AE8584CAA73B) % 2**64
    return c0, c1, c2, c3
