"""Nodes that users write: a plan computes what the reference does, or refuses to, for any number of workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.assertions import refused

from nl_nodes import Context, Graph, Input, Node, Parameter, Sum
from nl_nodes.compiler import CompileSpec, compile_graph
from nl_nodes.nodes.arithmetic import Elementwise
from nl_nodes.runtime import Executor, Threads

RNG = np.random.default_rng(5)
SHAPE = (6, 4)
X = RNG.standard_normal(SHAPE)


class Own(Node, abstract=True):
    """y = formula(ctx, x), with the gradient dy."""

    def __init__(self, x: Node, formula: Callable[[Context, Any], Any]) -> None:
        self.formula = formula
        super().__init__(x)

    def infer(self, *shapes: Any) -> Any:
        return shapes[0]

    def batch_axis(self, shapes: Any, axes: Any) -> Any:
        return axes[0]

    def forward(self, ctx: Context, *inputs: Any) -> Any:
        return self.formula(ctx, inputs[0])

    def backward(self, ctx: Context, dy: Any) -> Any:
        return dy


def results(make: Callable[[Node], Node], workers: int = 1, pass_index: int = 0, used: int = 0) -> tuple[Any, Any]:
    """Return the results of the reference and of a plan, which is for `used` workers, else for all."""
    graph = Graph(make(Input("x", SHAPE)))
    graph.passes = pass_index
    plan = compile_graph(
        graph, CompileSpec({"x": (SHAPE, X.dtype)}, frozenset({"x"})), Threads(workers) if workers > 1 else Executor()
    )
    assert len(plan.calls) == (used or workers)
    return graph.forward(x=X), plan.run({"x": X}, pass_index)[0]


FORMULAS: dict[str, Callable[[Context, Any], Any]] = {
    "count": lambda ctx, x: x * (x > 0).sum(axis=1, keepdims=True),
    "count_of_the_device": lambda ctx, x: x * ctx.xp.add.reduce(x > 0, axis=1, keepdims=True),
    "small_integers": lambda ctx, x: x * ((x > 0).astype("uint8") * np.uint8(200)).sum(axis=1, keepdims=True),
    "any": lambda ctx, x: x * (x > 1).any(axis=1, keepdims=True),
    "mean": lambda ctx, x: x - x.mean(axis=1, keepdims=True),
    "mean_of_all": lambda ctx, x: x - x[:1].mean(),
    "where_numbers": lambda ctx, x: ctx.xp.where(x > 0, 1.0, -1.0) * x,
    "where_number_first": lambda ctx, x: ctx.xp.where(x > 0, 1.0, x),
    "where_arrays": lambda ctx, x: ctx.xp.where(x > 0, x, x * 2),
    "where_row": lambda ctx, x: ctx.xp.where(x[:1] > 0, x[:1], x),
    "where_row_first": lambda ctx, x: ctx.xp.where(x[:1] > 0, x, x[:1]),
    "where_other_dtype": lambda ctx, x: ctx.xp.where(x > 0, x.astype("float32"), x),
}


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_a_formula_that_can_be_recorded_gives_the_same(formula: Callable[[Context, Any], Any]) -> None:
    reference, compiled = results(lambda x: Own(x, formula))
    np.testing.assert_allclose(compiled, reference, rtol=1e-14)
    assert compiled.dtype == reference.dtype


def changed(x: Any, change: Callable[[Any], Any]) -> Any:
    y = x.copy()
    change(y)
    return y


@pytest.mark.parametrize(
    "formula",
    [
        lambda ctx, x: changed(x, lambda y: y.__setitem__(y < 0, 0.0)),
        lambda ctx, x: x * x[x > 0].sum(),
        lambda ctx, x: x[:, [2, 1, 0, 3]],
        lambda ctx, x: x * np.asarray(x),
        lambda ctx, x: x.round(1),
        lambda ctx, x: x * x.trace(),
        lambda ctx, x: changed(x, lambda y: y.put([0], 5.0)),
        lambda ctx, x: changed(x, lambda y: y.partition(2, axis=1)),
        lambda ctx, x: x.dot(np.eye(4)),
        lambda ctx, x: x * x.argsort(axis=1),
        lambda ctx, x: x * x.var(),
        lambda ctx, x: x * x.flat[0],
        lambda ctx, x: x * np.modf(x)[0],
        lambda ctx, x: x * (1 + ctx.pass_index),
        lambda ctx, x: x * (ctx.random_bits(1, 2, 2 * ctx.pass_index, x.size) > 0).reshape(x.shape),
    ],
)
def test_a_formula_that_cannot_be_recorded_is_refused(formula: Callable[[Context, Any], Any]) -> None:
    with refused("Own(6, 4) cannot be compiled", "Device(compile=False)"):
        results(lambda x: Own(x, formula))


def test_a_function_that_is_not_numpys_is_refused() -> None:
    negative = np.frompyfunc(lambda a: -a, 1, 1)
    with refused("cannot be compiled", "not NumPy's"):
        results(lambda x: Own(x, lambda ctx, a: negative(a)))


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("each", [1, 4, 5])
def test_random_words_are_those_of_the_whole_batch(workers: int, each: int) -> None:
    def scaled(ctx: Context, x: Any) -> Any:
        words = ctx.random_bits(3, 1, ctx.pass_index, len(x) * each).reshape((len(x), each))
        return x * (words[:, each - 1 :] >= 2**63)

    reference, compiled = results(lambda x: Own(x, scaled), workers, pass_index=2)
    np.testing.assert_array_equal(compiled, reference)
    assert 0 < (reference == 0).any(axis=1).sum() < len(reference)


@pytest.mark.parametrize("workers", [1, 2])
def test_words_that_do_not_divide_among_the_samples_are_drawn_by_one_worker(workers: int) -> None:
    def scaled(ctx: Context, x: Any) -> Any:
        return x * (ctx.random_bits(3, 1, ctx.pass_index, 4)[:4] >= 2**63)

    reference, compiled = results(lambda x: Own(x, scaled), workers, used=1)
    np.testing.assert_array_equal(compiled, reference)


class Scale(Elementwise, abstract=True):
    """y = value x."""

    def __init__(self, x: Node, value: float) -> None:
        self.value = value
        super().__init__(x)

    def forward(self, ctx: Context, *inputs: Any) -> Any:
        return inputs[0] * self.value

    def backward(self, ctx: Context, dy: Any) -> Any:
        return dy * self.value


def test_nodes_that_differ_in_their_value_stay_two() -> None:
    reference, compiled = results(lambda x: Scale(x, 2.0) + Scale(x, 5.0))
    np.testing.assert_allclose(reference, 7 * X)
    np.testing.assert_allclose(compiled, reference)


@pytest.mark.parametrize("setting", [(1.0, 2.0), [1.0, 2.0], np.ones(2)])
def test_a_setting_with_several_numbers_depends_on_the_place(setting: Any) -> None:
    assert Scale(Input("x", (3, 2)), setting).position_dependent
    assert not Scale(Input("x", (3, 2)), 2.0).position_dependent


class Shift(Node, abstract=True):
    """y = x + a + b; the gradients of a and b are one array."""

    def __init__(self, x: Node, a: Node, b: Node) -> None:
        super().__init__(x, a, b)

    def infer(self, *shapes: Any) -> Any:
        return shapes[0]

    def batch_axis(self, shapes: Any, axes: Any) -> Any:
        return 0

    def forward(self, ctx: Context, *inputs: Any) -> Any:
        return inputs[0] + inputs[1] + inputs[2]

    def backward(self, ctx: Context, dy: Any) -> Any:
        total = dy.sum(axis=0)
        return dy, total, total


def gradients(node: type[Shift], size: int, workers: int) -> dict[str, Any]:
    """Return the gradients of the sum of a node's output over 6 samples."""
    x = np.ones((6, size), np.float32)
    grads = {name: np.zeros(size, np.float32) for name in "ab"}
    leaves = [Parameter(np.zeros(size, np.float32), name) for name in grads]
    graph = Graph(Sum(node(Input("x", x.shape, gradient=False), *leaves)))
    spec = CompileSpec({"x": (x.shape, x.dtype)}, frozenset({"x"}), grads)
    compile_graph(graph, spec, Threads(workers)).run({"x": x}, 0)
    return grads


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 2**20])
def test_two_parameters_may_have_one_array_as_gradient(size: int, workers: int) -> None:
    for grad in gradients(Shift, size, workers).values():
        np.testing.assert_array_equal(grad, 6)


class Rows(Shift, abstract=True):
    """y = x + a + b; the gradient of a is an array of the number of rows."""

    def backward(self, ctx: Context, dy: Any) -> Any:
        return dy, ctx.xp.array((len(dy),) * 3, dtype=dy.dtype), dy.sum(axis=0)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_constant_gradient_is_summed_over_the_workers(workers: int) -> None:
    for grad in gradients(Rows, 3, workers).values():
        np.testing.assert_array_equal(grad, 6)


def test_a_plan_is_not_compiled_for_inputs_of_another_shape() -> None:
    with refused("Input('x') must have shape (6, 4), got (5, 4)"):
        compile_graph(Graph(Sum(Input("x", SHAPE))), CompileSpec({"x": ((5, 4), X.dtype)}), Executor())
