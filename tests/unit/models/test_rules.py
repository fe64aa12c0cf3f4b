"""Every rewrite rule: it applies in some network, and results are the same without it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from support.random_networks import Fork

from nl_layers import (
    Affine,
    BatchNormalization,
    Convolution,
    Dropout,
    FlatDict,
    GlobalAveragePooling,
    Layer,
    Pooling,
    Relu,
    Residual,
    Sequential,
    SoftmaxWithLoss,
    Tanh,
    ZeroPadShortcut,
)
from nl_models import Network, mlp
from nl_nodes import Add, Device, Dot, Graph, Input, StopGradient, Sum
from nl_nodes.compiler import RULES, CompileSpec, Executor, Plan, Rule, rewrite
from nl_nodes.runtime import executor

BATCH, CLASSES = 6, 4
Stages = Sequence[Sequence[Rule]]
rng = np.random.default_rng(0)


def affine(size: int, features: int) -> Affine:
    return Affine(rng.standard_normal((size, features)) / size**0.5, rng.standard_normal(features))


def convolution(c: int, k: int, bias: bool) -> Convolution:
    weight = rng.standard_normal((k, c, 3, 3)) / (9 * c) ** 0.5
    return Convolution(weight, rng.standard_normal(k) if bias else None, pad=1)


def norm(features: int) -> BatchNormalization:
    return BatchNormalization(
        rng.uniform(0.5, 1.5, features) * rng.choice([-1, 1], features), rng.standard_normal(features)
    )


def small_cnn() -> Network:
    """Return a network with convolutions with and without batch norm, pooling, a branch and dropout."""
    layers: list[Layer] = [
        convolution(1, 8, bias=False), norm(8), Relu(), Pooling(2, 2),
        convolution(8, 8, bias=True), Relu(), Pooling(2, 2),
        Fork(Add, [convolution(8, 8, bias=True)], [convolution(8, 8, bias=True), Tanh()]), Pooling(2, 2),
        affine(8, 10), Relu(), Dropout(0.3, seed=1), affine(10, CLASSES),
    ]  # fmt: skip
    spec = {"name": "small", "input_shape": (1, 9, 10), "classes": CLASSES}
    return Network([(layer, i) for i, layer in enumerate(layers, 1)], spec, Device(dtype="float64", threads=1))


def open_end() -> Network:
    """Return a network with few channels, for im2col with padding, an affine layer on maps and smoothed labels."""
    layers: list[Layer] = [
        convolution(1, 4, bias=True), Relu(), convolution(4, 8, bias=True), Relu(), affine(8 * 6, CLASSES),
    ]  # fmt: skip
    spec = {"name": "open", "input_shape": (1, 2, 3), "classes": CLASSES}
    device, loss = Device(dtype="float64", threads=1), SoftmaxWithLoss(label_smoothing=0.1)
    return Network([(layer, i) for i, layer in enumerate(layers, 1)], spec, device, loss)


def small_resnet() -> Network:
    """Return a residual network: a block, one whose shortcut comes first, and one of fewer pixels."""
    strided = Convolution(rng.standard_normal((8, 4, 3, 3)) / 6, None, 2, 1)
    layers: list[Layer] = [
        convolution(3, 4, bias=False), norm(4), Relu(),
        Residual(Sequential([convolution(4, 4, bias=False), norm(4)])), Relu(),
        Fork(Add, [Tanh()], [norm(4)]), Relu(),
        Residual(Sequential([strided, norm(8)]), ZeroPadShortcut(8, 2)), Relu(), Pooling(2, 2),
        GlobalAveragePooling(), affine(8, CLASSES),
    ]  # fmt: skip
    spec = {"name": "residual", "input_shape": (3, 5, 6), "classes": CLASSES}
    return Network([(layer, i) for i, layer in enumerate(layers, 1)], spec, Device(dtype="float64", threads=1))


def small_mlp() -> Network:
    options = {"hidden": (9, 8), "input_shape": (1, 3, 4), "classes": CLASSES}
    return mlp(batch_norm=True, dropout=0.3, seed=1, device=Device(dtype="float64", threads=1), **options)


NETWORKS: dict[str, Network] = {make.__name__: make() for make in (small_cnn, open_end, small_resnet, small_mlp)}
IMAGES = {name: rng.standard_normal((BATCH, *net.input_shape)) for name, net in NETWORKS.items()}
LABELS = rng.integers(0, CLASSES, BATCH)
EVERY = [pytest.param(rule, id=rule.replacement.__name__) for stage in RULES for rule in stage]


def without(rule: Rule) -> Stages:
    return [[one for one in stage if one is not rule] for stage in RULES]


def results(name: str, stages: Stages) -> dict[str, np.ndarray]:
    """Return loss, logits, gradients and new running statistics in training, and the logits in inference."""
    net, found = NETWORKS[name], {}
    grads = FlatDict({n: p.shape for n, p in net.params.items()}, net.device.zeros)
    for train in (True, False):
        feeds = {"x": IMAGES[name], "t": LABELS} if train else {"x": IMAGES[name]}
        shapes = {n: (a.shape, a.dtype) for n, a in feeds.items()}
        graph = rewrite(net.wire(BATCH, train), stages)
        plan = Plan(graph, CompileSpec(shapes, frozenset(shapes), grads if train else None), Executor())
        found |= {f"result {i}, train {train}": y.copy() for i, y in enumerate(plan.run(feeds, pass_index=3))}
        found |= {buffer.name: value.copy() for buffer, value in plan._updates.items()}
    return found | {n: grad.copy() for n, grad in grads.items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, np.ndarray]]:
    """Return each network's results with all rules, after comparing them with those without rules."""
    found = {name: results(name, RULES) for name in NETWORKS}
    for name, values in found.items():
        check(results(name, []), values)
    return found


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(value).max() > 1e-6
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("rule", EVERY)
def test_every_rule_fires_and_results_are_the_same_without_it(rule: Rule, expected: dict) -> None:
    """In a network in which it does not fire, nothing changes without it."""
    names = [
        name for name, net in NETWORKS.items() if any(fires(rule, net.wire(BATCH, train)) for train in (True, False))
    ]
    assert names
    for name in names:
        check(results(name, without(rule)), expected[name])


def fires(rule: Rule, graph: Graph) -> bool:
    """Return whether the rule replaces a node when all rules are applied."""
    hits = []

    def noted(**found):
        better = rule.replacement(**found)
        hits.append(better is not None)
        return better

    rewrite(graph, [[Rule(rule.pattern, noted, rule.sole) if one is rule else one for one in stage] for stage in RULES])
    return any(hits)


@pytest.mark.parametrize("samples", [6, 0])
def test_plan_returns_gradients_without_a_given_buffer(samples: int) -> None:
    """Gradients of a sharded input, of a replicated one, and of one that the output does not depend on."""
    graph = Graph(Sum(Dot(Input("x"), Add(Input("w"), StopGradient(Input("v"))))))
    feeds = {"x": rng.standard_normal((samples, 3)), "w": rng.standard_normal((3, 4)), "v": rng.standard_normal((3, 4))}
    shapes = {name: (array.shape, array.dtype) for name, array in feeds.items()}
    two = executor("threads", 2)
    plan = Plan(graph, CompileSpec(shapes, frozenset({"x"}), {}), two)
    plan.run(feeds, pass_index=0)
    graph.forward(**feeds)
    for name, expected in graph.backward(np.ones(())).items():
        np.testing.assert_allclose(plan.grads[name], expected, rtol=1e-12, atol=0)
    two.close()
