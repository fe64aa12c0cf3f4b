"""The contract of every node and layer, each rule a check of one verification case.

A check takes a new `Subject`, and raises if the rule is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_nodes import Graph, Input, Node
from nl_nodes.cases import Case, Draw
from nl_nodes.verify import draw, sample_check, upstream

if TYPE_CHECKING:
    from nl_layers import LayerCase

SEED = 7
H = 1e-30
TOLERANCE = 1e-12
# float32 against float64, in units of eps32 sqrt(n): the worst of all cases at this seed was 0.7 when it was fitted,
# 2026-11. It detects mistakes, not rounding: ill-conditioned draws (a steep tanh, a sum that cancels) exceed it.
FLOAT32_TOLERANCE = 2.0
# The distance of a value moved below a kink: exact beside integers and halves, and far smaller than their distance.
BELOW = 2.0**-40

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """One case, ready to run.

    Attributes:
        graph: its graph.
        feeds: an array for each leaf by name, in float64, or int64 for labels.
        dy: an upstream gradient.
        zero: leaves whose gradient is zero by construction.
        linear: whether the output is linear in all inputs together.
        kinked: the draws of inputs that are kept away from kinks, by name.
    """

    graph: Graph
    feeds: Arrays
    dy: np.ndarray
    zero: set[str]
    linear: bool
    kinked: dict[str, Draw]

    def cast(self, dtype: str) -> Arrays:
        """Return the feeds in another dtype; labels stay integers."""
        return {name: x if x.dtype == np.int64 else x.astype(dtype) for name, x in self.feeds.items()}

    def gradients(self, feeds: Arrays | None = None, dy: np.ndarray | None = None) -> Arrays:
        """Return the gradients at these feeds for this upstream gradient, by default the subject's own."""
        return self.graph.run(**(self.feeds if feeds is None else feeds)).backward(self.dy if dy is None else dy)


def of_node(case: Case) -> Subject:
    """Return the subject of a node's case."""
    rng = np.random.default_rng(SEED)
    draws = {f"x{i}": d for i, d in enumerate(case.draws)}
    return _subject(graph_of(case), draws, rng, {f"x{i}" for i in case.zero}, case.linear)


def graph_of(case: Case) -> Graph:
    """Return a node's case as a graph of inputs x0, x1, ..."""
    return Graph(case.build(*(Input(f"x{i}", gradient=d.domain != "labels") for i, d in enumerate(case.draws))))


def of_layer(case: LayerCase) -> Subject:
    """Return the subject of a layer's case; parameters and buffers are among the feeds."""
    rng = np.random.default_rng(SEED)
    layer = case.make(lambda d: draw(rng, d))
    graph = layer.graph(tuple(d.shape for d in case.draws), case.train)
    return _subject(graph, dict(zip(layer.feeds, case.draws, strict=True)), rng, set(case.zero), linear=False)


def _subject(graph: Graph, draws: dict[str, Draw], rng: np.random.Generator, zero: set[str], linear: bool) -> Subject:
    held = {name: np.asarray(leaf.value) for name, leaf in graph.leaves.items() if leaf.value is not None}
    # Rounded to float32, so that both precisions are taken at the same point.
    drawn = {name: draw(rng, d) for name, d in draws.items()}
    feeds = {n: x if x.dtype == np.int64 else x.astype("f4").astype("f8") for n, x in {**held, **drawn}.items()}
    dy = upstream(rng, graph.run(**feeds).results[0].shape).astype("f4").astype("f8")
    kinked = {name: d for name, d in draws.items() if d.domain in ("away", "distinct")}
    return Subject(graph, feeds, dy, zero, linear, kinked)


def gradient_along_directions(s: Subject) -> None:
    """Along random directions; `tests/gradient` compares every element."""
    for residual in sample_check(s.graph, s.feeds, s.dy, np.random.default_rng(3)):
        assert residual.value <= 1e-10, residual


def gradient_is_zero_only_if_declared(s: Subject) -> None:
    for name, grad in s.gradients().items():
        assert bool(np.any(grad)) == (name not in s.zero), name


def inferred_shape_matches_output(s: Subject) -> None:
    shapes = s.graph.shapes({name: x.shape for name, x in s.feeds.items()})
    results = s.graph.run(**s.feeds).results
    assert [shapes[node] for node in s.graph.outputs] == [y.shape for y in results]


def inputs_and_upstream_are_unchanged(s: Subject) -> None:
    feeds, dy = _copies(s.feeds), s.dy.copy()
    run = s.graph.run(**feeds)
    y = run.results[0].copy()
    first = run.backward(dy)
    _same({**feeds, "dy": dy, "y": run.results[0]}, {**s.feeds, "dy": s.dy, "y": y})
    for array in (*feeds.values(), dy):
        array.setflags(write=False)
    _same(s.gradients(feeds, dy), first)


def results_share_no_memory(s: Subject) -> None:
    run = s.graph.run(**s.feeds)
    grads = run.backward(s.dy)
    given = [*s.feeds.values(), s.dy]
    fresh = [*run.results, *grads.values()]
    pairs = [*combinations(fresh, 2), *((new, old) for new in fresh for old in given)]
    assert not any(np.shares_memory(a, b) for a, b in pairs)


def output_may_be_overwritten(s: Subject) -> None:
    """Writing into a returned output does not change the gradients."""
    expected = s.gradients()
    run = s.graph.run(**s.feeds)
    for y in run.results:
        if isinstance(y, np.ndarray):
            y.fill(np.nan)
    _same(run.backward(s.dy), expected)


def zero_upstream_gives_zero_gradient(s: Subject) -> None:
    assert not any(np.any(grad) for grad in s.gradients(dy=np.zeros_like(s.dy)).values())


def backward_is_linear(s: Subject) -> None:
    other = upstream(np.random.default_rng(SEED + 1), s.dy.shape)
    both = s.gradients(dy=3 * s.dy - 0.7 * other)
    one, two = s.gradients(), s.gradients(dy=other)
    for name, grad in both.items():
        parts = np.abs(3 * one[name]) + np.abs(0.7 * two[name])
        assert np.all(np.abs(grad - (3 * one[name] - 0.7 * two[name])) <= TOLERANCE * parts.max(initial=0.0)), name


def passes_are_independent(s: Subject) -> None:
    """A second backward is bit-identical, whatever ran in between."""
    run = s.graph.run(**s.feeds)
    first = run.backward(s.dy)
    other = {name: x if x.dtype == np.int64 else 1.25 * x for name, x in s.feeds.items()}
    s.gradients(other)
    _same(run.backward(s.dy), first)


def dtype_is_preserved(s: Subject) -> None:
    for dtype in ("float32", "float64"):
        run = s.graph.run(**s.cast(dtype))
        dtypes = {x.dtype for x in (*run.results, *run.backward(s.dy.astype(dtype)).values())}
        assert dtypes == {np.dtype(dtype)}, dtypes
    assert s.graph.run(**s.cast("complex128")).results[0].dtype == np.complex128


def float32_agrees(s: Subject) -> None:
    expected, found = s.gradients(), s.gradients(s.cast("float32"), s.dy.astype("float32"))
    assert float32_error(s, found, expected) <= FLOAT32_TOLERANCE


def float32_error(s: Subject, found: Arrays, expected: Arrays) -> float:
    """Return the largest error in units of eps32 sqrt(n) max|gradient|, n the size of the largest leaf."""
    unit = np.finfo("float32").eps * np.sqrt(max(1, *(x.size for x in s.feeds.values())))
    scales = {name: np.abs(grad).max(initial=0.0) or 1.0 for name, grad in expected.items()}
    return max(float(np.abs(found[n] - g).max(initial=0.0) / (unit * scales[n])) for n, g in expected.items())


def adjoint_is_exact(s: Subject) -> None:
    """For a linear case `<A x, dy> = <x, A' dy>`, exactly, on small integers."""
    if not s.linear:
        return
    rng = np.random.default_rng(SEED + 2)
    for dtype in ("float32", "float64"):
        feeds = {name: rng.integers(-8, 9, x.shape).astype(dtype) for name, x in s.feeds.items()}
        dy = rng.integers(-8, 9, s.dy.shape).astype(dtype)
        run = s.graph.run(**feeds)
        grads = run.backward(dy)
        assert np.sum(run.results[0] * dy) == sum(np.sum(feeds[name] * grad) for name, grad in grads.items())


def hessian_is_symmetric(s: Subject) -> None:
    """`<w, H u> = <u, H w>`, with H u by a complex step through backward: the Hessian is symmetric."""
    rng = np.random.default_rng(SEED + 3)
    names = list(s.gradients())
    u, w = ({name: upstream(rng, s.feeds[name].shape) for name in names} for _ in range(2))
    hu, hw = _curvature(s, u), _curvature(s, w)
    left, right = _products(w, hu), _products(u, hw)
    assert abs(left.sum() - right.sum()) <= TOLERANCE * (np.abs(left).sum() + np.abs(right).sum())


def _curvature(s: Subject, direction: Arrays) -> Arrays:
    point = {name: x + 1j * H * direction[name] if name in direction else x for name, x in s.feeds.items()}
    return {name: grad.imag / H for name, grad in s.gradients(point).items()}


def _products(a: Arrays, b: Arrays) -> np.ndarray:
    return np.concatenate([(a[name] * b[name]).ravel() for name in a])


def value_and_gradient_at_kink_are_those_below(s: Subject) -> None:
    """On a kink, value and gradient are those just below it: ReLU'(0) = 0, the first of tied maxima.

    Values are rounded onto the kinks, and then lowered, each slightly more than the one before it.
    """
    if not s.kinked:
        return
    on, below = dict(s.feeds), dict(s.feeds)
    for name, drawn in s.kinked.items():
        x = on[name] = drawn.point + np.rint(s.feeds[name] - drawn.point)
        below[name] = x - BELOW * np.arange(1, x.size + 1).reshape(x.shape)
        assert np.any(x == drawn.point)
        assert np.unique(x).size < x.size
    np.testing.assert_allclose(s.graph.run(**on).results[0], s.graph.run(**below).results[0], rtol=0, atol=1e-9)
    _same(s.gradients(on), s.gradients(below))


def gradients_do_not_depend_on_each_other(s: Subject) -> None:
    """A leaf's gradient does not depend on which others are needed; those that are not are not computed."""
    together = s.gradients()
    for wanted in [one for name in together for one in ({name}, together.keys() - {name})]:
        for leaf in s.graph.leaves.values():
            leaf.trainable = leaf.name in wanted
        alone = Graph(*s.graph.outputs, updates=s.graph.updates)
        watched = [_watch(node, alone) for node in alone.order if node.inputs]
        _same(alone.run(**s.feeds).backward(s.dy), {name: g for name, g in together.items() if name in wanted})
        for node in watched:
            del node.backward


def only_declared_values_are_saved(s: Subject) -> None:
    for node in s.graph.order:
        if node.inputs:
            _watch_saved(node)
    s.graph.run(**s.feeds)


def _watch_saved(node: Node) -> None:
    original = node.forward

    def forward(ctx: Any, *inputs: np.ndarray) -> np.ndarray:
        y = original(ctx, *inputs)
        assert hasattr(ctx, "saved") == ("saved" in node.saves), node
        return y

    node.forward = forward  # type: ignore[method-assign]


def _watch(node: Node, graph: Graph) -> Any:
    """Make a node's backward fail if it returns a gradient that is not needed and is neither None nor dy itself."""
    original = node.backward

    def backward(ctx: Any, dy: np.ndarray) -> Any:
        dxs = original(ctx, dy)
        for n, dx in zip(node.inputs, dxs if isinstance(dxs, tuple) else (dxs,), strict=True):
            assert n in graph.needs or dx is None or dx is dy, f"{node}: a gradient that is not needed"
        return dxs

    node.backward = backward  # type: ignore[method-assign]
    return node


def _copies(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}


def _same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(found[name], array), (name, found[name], array)


CHECKS: Iterable[Callable[[Subject], None]] = (
    gradient_along_directions,
    gradient_is_zero_only_if_declared,
    inferred_shape_matches_output,
    inputs_and_upstream_are_unchanged,
    results_share_no_memory,
    output_may_be_overwritten,
    zero_upstream_gives_zero_gradient,
    backward_is_linear,
    passes_are_independent,
    dtype_is_preserved,
    float32_agrees,
    adjoint_is_exact,
    hessian_is_symmetric,
    value_and_gradient_at_kink_are_those_below,
    gradients_do_not_depend_on_each_other,
    only_declared_values_are_saved,
)
