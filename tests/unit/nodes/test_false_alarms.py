"""Correct gradients at ties, in saturation, and with only rounding left are accepted."""

import numpy as np
import pytest

from nl_nodes import (
    Add,
    AddConst,
    Exp,
    Graph,
    Input,
    Max,
    Mean,
    Mul,
    MulConst,
    Node,
    Parameter,
    Sigmoid,
    Sum,
    Tanh,
    ValueMask,
)
from nl_nodes.compiler.lower.lower import CompileSpec, Lowering
from nl_nodes.nodes.arithmetic import Elementwise
from nl_nodes.verify import certify, complex_step, first_wrong
from nl_nodes.verify.replay import Replay, RoughReplay
from nl_nodes.verify.rounding import ROUGH, UNIT_ROUNDOFF, RoughPass, length, rough_passes, rounding

RNG = np.random.default_rng(4)


class Slipping(Elementwise, abstract=True):
    """`y = x`, with rounding errors only for complex numbers, like matrix products."""

    def forward(self, ctx, *inputs):
        x = inputs[0]
        return x + 1e-17 * np.sign(np.arange(x.size) - 1).reshape(x.shape) if np.iscomplexobj(x) else x

    def backward(self, ctx, dy):
        return dy


@pytest.mark.parametrize(
    ("node", "expected"), [(ValueMask, [0, 0, 0]), (lambda x: Max(x, axis=0), [1, 0, 0])], ids=["rectifier", "maximum"]
)
def test_a_complex_step_takes_the_branches_of_the_real_pass(node, expected: list[int]) -> None:
    graph, feeds = Graph(Sum(node(Slipping(Input("x"))))), {"x": np.zeros(3)}
    found = [complex_step(graph, feeds, "x", direction, 1.0) for direction in np.eye(3)]
    assert found == expected == graph.run(**feeds).backward(1.0)["x"].tolist()


def test_a_complex_step_stays_small_where_derivatives_are_huge() -> None:
    x: Node = Input("x")
    for _ in range(12):
        x = Tanh(MulConst(x, 316.0))
    assert complex_step(Graph(x), {"x": np.zeros(1)}, "x", np.ones(1), 1.0) == pytest.approx(316.0**12)


@pytest.mark.parametrize("node", [Tanh, Sigmoid])
def test_saturated_activations_are_accepted(node: type[Node]) -> None:
    for size in (20.0, 40.0, 200.0):
        assert first_wrong(Graph(Sum(node(Parameter(np.array([size, size + 1, -size]), "p")))), {}) is None


def test_large_gap_between_logits_is_accepted() -> None:
    logits = Parameter(np.array([[1e20, 0.0, -1e20]]), "p")
    shifted = Add(logits, MulConst(Max(logits, axis=1, keepdims=True), -1))
    assert first_wrong(Graph(Sum(Exp(shifted))), {}) is None


def test_gradient_of_only_rounding_is_distinguished_from_a_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, b = Parameter(RNG.standard_normal((8, 3)), "x"), Parameter(RNG.standard_normal(3), "b")
    y = Add(x, b)  # less its mean, where nothing is left of b
    graph = Graph(Sum(Exp(Add(y, MulConst(Mean(y, 0, keepdims=True), -1)))))
    assert 0 < np.abs(graph.run().backward(1.0)["b"]).max() < 1e-11
    assert {v.name: v.verdict for v in certify(graph, {}, 1.25).tensors} == {"x": "verified", "b": "cancelled"}
    right = MulConst.backward
    monkeypatch.setattr(MulConst, "backward", lambda self, ctx, dy: right(self, ctx, dy) * (1 + 1e-7))
    assert {v.verdict for v in certify(graph, {}, 1.25).tensors} == {"failed"}


def test_rounding_estimate_holds_where_errors_grow_by_ten_orders_of_magnitude() -> None:
    x: Node = Input("x")
    for _ in range(36):  # the logistic map doubles errors
        x = MulConst(Mul(x, AddConst(MulConst(x, -1.0), 1.0)), 4.0)
    graph, start = Graph(x), RNG.uniform(0.1, 0.9, 100)
    exact, moved = (graph.run(x=start * (1 + error)).results[0] for error in (0.0, 2.0**-52))
    rough = [run(graph, {"x": start}).results[0] for run in rough_passes()]
    assert 1e-6 < length(moved - exact) < rounding(exact, *rough)


def test_rough_replay_changes_a_result_by_its_rounding_error() -> None:
    x = Parameter(RNG.standard_normal((4, 5)), "x")
    graph = Graph(Sum(Mul(x, x)))

    def lowered() -> Lowering:
        return Lowering(graph, CompileSpec({}, frozenset(), {"x": np.zeros((4, 5))}), 1)

    exact, rough = Replay(lowered()), RoughReplay(lowered(), seed=0)
    exact.run({}, 0)
    rough.run({}, 0)
    change = abs(rough.results[0] - exact.results[0]) / exact.results[0]
    assert 0.01 * ROUGH["float64"] < change < 3 * ROUGH["float64"]


def test_rounding_estimate_matches_float32_errors() -> None:
    graph = Graph(Sum(Exp(AddConst(Tanh(MulConst(Input("x"), 3)), -1))))
    x = RNG.standard_normal(1000).astype(np.float32)
    exact, single = (graph.run(x=x.astype(d)).backward(np.ones((), d))["x"] for d in ("float64", "float32"))
    rough = RoughPass(graph, {"x": x.astype("float64")}).backward(1.0)["x"]
    assert rounding(exact, rough) == pytest.approx(rounding(exact, single, error=UNIT_ROUNDOFF["float32"]), rel=2)
