"""The contract of fused nodes beyond that of all nodes: chunks and shards change nothing.

A small batch fits in the cache, and the reference has one worker; these checks force chunks and shards all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from nl_nodes import Graph, Input, Mul, Node, Transpose
from nl_nodes.compiler import CompileSpec, Plan
from nl_nodes.compiler.fused import Conv, LabelLogSoftmax, batch_norm, workspace
from nl_nodes.compiler.fused.conv import winograd
from nl_nodes.compiler.fused.conv.im2col import Im2col
from nl_nodes.compiler.fused.conv.mec import Mec
from nl_nodes.compiler.fused.conv.node import padding
from nl_nodes.compiler.fused.conv.winograd import F2_PAD1, F4
from nl_nodes.compiler.fused.pad import padded_shape
from nl_nodes.context import Context, WorkerGroup
from nl_nodes.runtime import Executor
from nl_nodes.runtime.call import Call
from support import fused_oracles  # noqa: F401  (registers its formulas)
from support.contract import Subject
from support.forward_oracles import assert_formulas, assert_forward, formulas

TOLERANCE = 1e-12
# Axes from maps (H, W, N, C) to images that are contiguous in memory, and back.
TO_MAPS, TO_IMAGES = (1, 2, 0, 3), (2, 0, 1, 3)
# Maps, channels and kernels, pad, stride, and the fastest algorithm.
ALGORITHMS = [
    ((3, 4), (8, 3, 3), 1, 1, F4),
    ((4, 3), (9, 3, 3), 1, 1, F4),
    ((5, 5), (8, 3, 3), 0, 1, F4),
    ((1, 7), (8, 3, 3), 2, 1, F4),
    ((4, 4), (8, 3, 3), 0, 1, Im2col),
    ((4, 4), (8, 3, 3), 3, 1, Im2col),
    ((2, 9), (8, 3, 3), 1, 1, Im2col),
    ((3, 3), (7, 3, 3), 1, 1, Im2col),
    ((9, 9), (8, 3, 3), 1, 2, Im2col),
    ((9, 9), (8, 2, 3), 1, 1, Im2col),
    ((9, 9), (8, 3, 2), 1, 1, Im2col),
    ((9, 9), (8, 5, 5), 1, 1, Im2col),
    ((2, 2), (8, 3, 3), 1, 1, F2_PAD1),
    ((2, 2), (8, 3, 3), 2, 1, F4),
    ((2, 2), (8, 3, 3), 0, 1, Im2col),
    ((1, 2), (8, 3, 3), 1, 1, Im2col),
    ((2, 1), (8, 3, 3), 1, 1, Im2col),
    ((4, 4), (5, 3, 3), 1, 1, Im2col),
    ((4, 4), (4, 3, 3), 1, 1, Mec),
    ((4, 5), (4, 1, 1), 0, 2, Mec),
    ((4, 5), (4, 1, 1), 0, 1, Im2col),
]


def results_are_independent_of_chunks(s: Subject) -> None:
    """Chunks of two or three images or rows, with a smaller last one, give the same as one chunk."""
    expected = [*s.graph.run(**s.feeds).results, *s.gradients().values()]
    for count in (2, 3):
        with chunks_of(count):
            found = [*s.graph.run(**s.feeds).results, *s.gradients().values()]
        _close(found, expected)


def backward_writes_to_no_value(s: Subject) -> None:
    """A backward pass leaves inputs and outputs as they are: other nodes may read them."""
    run = s.graph.run(**s.feeds)
    contexts = [(node.saves, ctx) for node, ctx in run._contexts.items()]
    values = [x for saves, ctx in contexts if "inputs" in saves for x in ctx.inputs]
    values += [ctx.output for saves, ctx in contexts if "output" in saves]
    before = [x.copy() for x in values]
    run.backward(s.dy)
    assert all(map(np.array_equal, values, before))


def results_are_independent_of_panels(s: Subject) -> None:
    """Transformed kernels in panels of four or five columns, which divide some counts and not others, give the same."""
    if not any(isinstance(node, Conv) for node in s.graph.order):
        return
    expected = [*s.graph.run(**s.feeds).results, *s.gradients().values()]
    for columns in (4, 5):
        with panels_of(columns):
            _close([*s.graph.run(**s.feeds).results, *s.gradients().values()], expected)


def kernels_lie_in_panels_where_asked(s: Subject) -> None:
    """In panels of whole blocks of columns, and in one panel of other numbers of columns."""
    if any(isinstance(node, Conv) for node in s.graph.order):
        kernels = winograd.Winograd(F4, 1, WorkerGroup(np), (4, 4, 2, 8), (4, 4, 12), np.dtype(float))
        whole = (36, 1, 8, 12)
        for columns, asked, expected in (
            (4, True, (36, 3, 8, 4)),
            (4, False, whole),
            (5, True, whole),
            (12, True, whole),
        ):
            with panels_of(columns, asked):
                assert kernels._panelled(8, 12) == expected


def long_sums_are_taken_by_rows(s: Subject) -> None:
    """The gradient of im2col's kernels is a sum over the rows of a chunk, where nodes work in chunks."""
    if any(isinstance(node, Conv) for node in s.graph.order):
        for chunked, rows in ((True, 3), (False, 1)):
            group = WorkerGroup(np)
            group.chunked = chunked
            windows = Im2col((3, 3), 1, 0, group, (5, 6, 2, 7), (3, 4, 2), np.dtype(float))
            windows.begin_backward(next(windows.chunks(1)), np.ones((5, 6, 2, 7)), np.ones((3, 4, 2, 2)))
            windows.weight_gradient(np.empty((2, 7, 3, 3)), add=False)
            assert windows.workspace._blocks["du"].size == rows * 63 * 2


def rows_of_few_channels_are_copied_once_for_each_column(s: Subject) -> None:
    """The windows of neighbouring rows are views of the same memory: 5 rows for 3 of outputs, not 3 times 3."""
    if any(isinstance(node, Conv) for node in s.graph.order):
        algorithm = Mec((3, 3), 1, 0, WorkerGroup(np), (5, 6, 2, 1), (3, 4, 2), np.dtype(float))
        windows = algorithm._copied_windows(next(algorithm.chunks(1)), np.ones((5, 6, 2, 1)))
        assert windows.shape == (3, 9, 8)
        assert algorithm.workspace._blocks["rows"].size == 5 * 3 * 8
        assert all(np.shares_memory(one, other) for one, other in pairwise(windows))


def results_are_independent_of_workers(s: Subject) -> None:
    """Two workers give the same as one, whichever runs first, and whatever the previous pass left in memory."""
    run = s.graph.run(**s.feeds)
    y, grads = run.results[0], run.backward(s.dy)
    maps = {name for name in ("x0", "x3") if name in s.feeds and s.feeds[name].ndim == 4}  # x3: a residual
    batched = {"x0", "x1"} & set(s.graph.leaves) if y.ndim == 1 and s.feeds["x0"].ndim == 2 else {"x0", *maps}
    feeds = {name: x.transpose(TO_IMAGES) if name in maps else x for name, x in s.feeds.items()}
    feeds["dy"] = s.dy.transpose(TO_IMAGES) if y.ndim == 4 else s.dy
    replicated = maps and y.ndim == 1
    places = {name: np.full(grad.shape, np.nan) for name, grad in grads.items() if name not in batched}
    inputs = frozenset(batched if replicated else {*batched, "dy"})
    graph = _of_images(s.graph, maps, y.ndim == 4)
    spec = CompileSpec({name: (x.shape, x.dtype) for name, x in feeds.items()}, inputs, places)
    plan = Plan(graph, spec, TurnExecutor())
    assert len(plan.calls) == 2
    assert all(plan.calls)
    for first in (0, 1):
        plan.executor.first = first
        with np.errstate(all="ignore"):
            plan.run({n: x if x.dtype == np.int64 else np.full_like(x, np.nan) for n, x in feeds.items()}, 0)
        weighted = plan.run(feeds, 0)[0]
        _close([weighted], [(y * s.dy).transpose(TO_IMAGES) if y.ndim == 4 else y * s.dy])
        found = {name: grad.transpose(TO_MAPS) if name in maps else grad for name, grad in plan.grads.items()}
        _close([found[name] for name in grads], list(grads.values()))


def algorithms_are_the_fastest(s: Subject) -> None:
    """Each convolution takes the algorithm that was measured to be fastest for its shapes."""
    if any(isinstance(node, Conv) for node in s.graph.order):
        for maps, (c, *kernel), pad, stride, expected in ALGORITHMS:
            w = (4, c, *kernel)
            node = Conv(Input("x", (*maps, 4, c)), Input("w", w), size=maps, pad=pad, stride=stride)
            ctx = Context()
            ctx.xp, ctx.group = np, WorkerGroup(np)
            x = padded_shape((*maps, 4, c), padding(maps, w, pad, stride))
            algorithm = node._algorithm(ctx, (np.empty(x), np.empty(w)))
            found = algorithm.spec if isinstance(algorithm, winograd.Winograd) else type(algorithm)
            assert found is expected, (maps, c, kernel, pad, stride)


def zero_windows_give_the_bias(s: Subject) -> None:
    """Exactly, whatever its neighbours hold; a window whose values cancel over the channels is not zero."""
    if sum(isinstance(node, Conv) for node in s.graph.order) != 1:
        return
    with chunks_of(2):
        _zero_windows_give_the_bias(s)
    _zero_windows_give_the_bias(s)


def _zero_windows_give_the_bias(s: Subject) -> None:
    rng = np.random.default_rng(1)
    *pixels, channels = s.feeds["x0"].shape
    signs = np.resize([1.0, -1.0], channels)
    signs[channels // 2 * 2 :] = 0
    x = signs * ((rng.random(pixels) < 1 / 8) * rng.standard_normal(pixels))[..., None]
    feeds = {**s.feeds, "x0": x}
    expected, found = formulas(s.graph, feeds), s.graph.run(**feeds).results
    assert_formulas(s.graph, expected, found)
    bias = {"x2": np.zeros_like(s.feeds["x2"])} if "x2" in s.feeds else {}
    magnitudes = formulas(s.graph, {"x0": np.abs(x), "x1": np.ones_like(s.feeds["x1"]), **bias})[0]
    assert np.array_equal(found[0][magnitudes == 0], expected[0][magnitudes == 0])


def large_logits_do_not_overflow(s: Subject) -> None:
    """Where `e^x` overflows, in one row or at one class, its logarithm does not."""
    if not isinstance(s.graph.outputs[0], LabelLogSoftmax):
        return
    feeds = {**s.feeds, "x0": s.feeds["x0"].copy()}
    feeds["x0"][0] += 1024
    feeds["x0"][1, 0] += 1024
    assert_forward(s.graph, feeds)
    assert all(np.isfinite(grad).all() for grad in s.gradients(feeds).values())


class TurnExecutor(Executor):
    """Workers in one thread: each in turn runs its calls up to the next barrier.

    Attributes:
        first: the number of the worker that runs first.
    """

    first = 0

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.count = count

    def load(self, calls: Sequence[Sequence[Call]]) -> Any:
        """Bind each worker's calls, split at the barriers."""
        return [list(self._rounds(of_worker)) for of_worker in calls]

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run all rounds, one worker after the other."""
        self.pass_index = pass_index
        for workers in zip(*loaded, strict=True):
            for calls in (*workers[self.first :], *workers[: self.first]):
                for function, args in calls:
                    function(*args)

    def _rounds(self, calls: Sequence[Call]) -> Iterator[Any]:
        begin = 0
        for end in [*(i for i, (name, _) in enumerate(calls) if name == "barrier"), len(calls)]:
            yield self.bind(calls[begin:end])
            begin = end + 1


@contextmanager
def chunks_of(count: int) -> Iterator[None]:
    """Make chunks of `count` images or rows, whatever fits in the cache."""
    before = workspace.even_chunk
    for module in (workspace, batch_norm):
        module.even_chunk = lambda items, most: min(items, count) or 1
    try:
        yield
    finally:
        for module in (workspace, batch_norm):
            module.even_chunk = before


@contextmanager
def panels_of(columns: int, asked: bool = True) -> Iterator[None]:
    """Make panels of `columns` columns, if any are asked for, as where products are cut."""
    before = winograd.BLOCK
    WorkerGroup.panels, winograd.BLOCK = asked, columns
    try:
        yield
    finally:
        WorkerGroup.panels, winograd.BLOCK = False, before


def _of_images(graph: Graph, maps: set[str], out: bool) -> Graph:
    """Return the graph times an input dy, with images in place of maps as inputs and output."""
    new: dict[Node, Node] = {}
    for node in graph.order:
        is_maps = isinstance(node, Input) and node.name in maps
        moved = node.replace([new[n] for n in node.inputs]) if node.inputs else node
        new[node] = Transpose(node, TO_MAPS) if is_maps else moved
    y = new[graph.outputs[0]]
    return Graph(Mul(Transpose(y, TO_IMAGES) if out else y, Input("dy", gradient=False)))


def _close(found: Iterable[np.ndarray], expected: Iterable[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert np.all(np.abs(a - b) <= TOLERANCE * np.abs(b).max(initial=0.0)), (a, b)


FUSED_CHECKS: Iterable[Callable[[Subject], None]] = (
    results_are_independent_of_chunks,
    backward_writes_to_no_value,
    results_are_independent_of_panels,
    kernels_lie_in_panels_where_asked,
    long_sums_are_taken_by_rows,
    rows_of_few_channels_are_copied_once_for_each_column,
    algorithms_are_the_fastest,
    zero_windows_give_the_bias,
    large_logits_do_not_overflow,
    results_are_independent_of_workers,
)
