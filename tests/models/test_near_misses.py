"""Graphs that are nearly what a rule looks for, made by changing one thing of its pattern: no rule takes one amiss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Any

import numpy as np
import pytest
from support.random_networks import Fork

from nl_layers import (
    Affine,
    BatchNormalization,
    Convolution,
    Dropout,
    Layer,
    Mode,
    Pooling,
    Relu,
    SoftmaxWithLoss,
    Tanh,
)
from nl_nodes import (
    Add,
    Buffer,
    Constant,
    Exp,
    Graph,
    Input,
    Leaf,
    Max,
    Mean,
    Mul,
    MulConst,
    Node,
    Parameter,
    Reshape,
    ShapeError,
    Sum,
    UserError,
    ValueMask,
)
from nl_nodes.axes import size
from nl_nodes.compiler import RULES, rewrite
from nl_nodes.nodes.arithmetic import Elementwise

TRAIN, INFER = Mode(train=True), Mode(train=False)
KINSHIP: tuple[tuple[type[Node], ...], ...] = ((Add, Mul), (Sum, Mean, Max))
"""Operations with the same settings, each of which may stand in another's place."""
INVALID = (ShapeError, UserError, ValueError, TypeError, IndexError, ZeroDivisionError)
"""What a change raises that no graph can have."""
Change = tuple[str, Callable[[], dict[Node, Node]]]
"""What is changed, and the nodes that come in others' places."""


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(size(shape) + len(shape)).standard_normal(shape)


def convolution(c: int, k: int, bias: bool = True) -> Convolution:
    return Convolution(random(k, c, 3, 3), random(k) if bias else None, pad=1)


def norm(k: int) -> BatchNormalization:
    """With an eps beside which no rounding counts, as a variance may become 0."""
    return BatchNormalization(random(k), random(k), eps=0.1)


def affine(n: int, k: int) -> Affine:
    return Affine(random(n, k), random(k))


def wired(shape: tuple[int, ...], *layers: Layer, mode: Mode = TRAIN) -> Graph:
    """A stack of layers as one graph, its leaves named apart."""
    for i, layer in enumerate(layers):
        for name, leaf in (layer.parameters | layer.buffers).items():
            leaf.name = f"{name} {i}"
    return Graph(reduce(lambda x, layer: layer.wire(x, mode=mode), layers, Input("x", shape)))


def loss(shape: tuple[int, ...]) -> Graph:
    return Graph(SoftmaxWithLoss().wire(Input("x", shape), Input("t", shape[:1], gradient=False), mode=TRAIN))


def as_images(shape: tuple[int, ...]) -> Graph:
    """Features whose mean, and mean square beside it, is taken as of images of one pixel: beside them it broadcasts."""
    x = Input("x", shape)
    beside = Add(x, MulConst(Mean(Reshape(x, (0, -1, 1, 1)), (0, 2, 3), keepdims=True), -1))
    return Graph(Mean(Mul(beside, beside), (0, 2, 3), keepdims=True))


def total(*nodes: Node) -> Graph:
    """A number in which every element of these nodes counts differently."""
    return Graph(reduce(Add, (Sum(Mul(node, Constant(random(*node.shape or ())))) for node in nodes)))


def patterns(n: int, c: int, k: int, h: int, w: int) -> dict[str, Callable[[], Graph]]:
    """What each rule of the first stage looks for, then what those of the second do."""
    images, rows, pixels = (n, c, h, w), (n, c), h * w
    return {
        "convolution": lambda: wired(images, convolution(c, k)),
        "convolution without bias": lambda: wired(images, convolution(c, k, bias=False)),
        "pooling": lambda: wired(images, Pooling(2, 2)),
        "batch norm of images": lambda: wired(images, Tanh(), norm(c)),
        "batch norm of features": lambda: wired(rows, Tanh(), norm(c)),
        "affine": lambda: wired(rows, affine(c, k), Relu()),
        "loss": lambda: loss(rows),
        "dropped images": lambda: wired(images, convolution(c, k), Dropout(0.5, seed=1)),
        "dropped features": lambda: wired(rows, norm(c), Dropout(0.5, seed=1)),
        "mean of features as images": lambda: as_images(rows),
        "two convolutions": lambda: wired(images, convolution(c, k), Tanh(), convolution(k, c)),
        "batch norm's inference": lambda: wired(images, convolution(c, k), norm(k), mode=INFER),
        "two branches": lambda: wired(images, Fork(Add, [convolution(c, k)], [convolution(c, k)])),
        "affine on maps": lambda: wired(images, convolution(c, k), affine(k * pixels, c)),
        "rectified and pooled": lambda: wired(images, convolution(c, k), Relu(), Pooling(2, 2)),
        "normalised, rectified and pooled": lambda: wired(images, norm(c), Relu(), Pooling(2, 2), convolution(c, k)),
        "features, normalised and rectified": lambda: wired(rows, norm(c), Relu(), affine(c, k)),
    }


# Where all sizes are one, an axis in another's place still fits; tiles want many channels.
PATTERNS = {f"{name}, sizes alike": make for name, make in patterns(4, 4, 4, 4, 4).items()}
PATTERNS |= {f"{name}, sizes apart": make for name, make in list(patterns(2, 3, 5, 4, 6).items())[:7]}
PATTERNS |= {f"{name}, tiles": patterns(2, 8, 9, 4, 5)[name] for name in ("convolution", "rectified and pooled")}


def changes(graph: Graph) -> Iterator[Change]:
    """Every node with one thing changed: a setting, its inputs, its class, its shape, or who uses it."""
    for place, node in enumerate(graph.order):
        name = f"node {place}, {node!r}"
        if isinstance(node, Parameter | Buffer):
            for shape in shapes(node.shape or ()):
                yield f"{name} has shape {shape}", partial(reshaped, node, shape)
        if isinstance(node, Leaf):
            continue
        for setting, value in node.attributes.items():
            shape = node.inputs[0].shape or ()
            axes = (None, *range(-len(shape), len(shape)), *((i,) for i in range(len(shape))))
            for other in (*others(value, shape), *(axes if setting == "axis" else ())):
                yield f"{name} has {setting} {other}", lambda n=node, s=setting, v=other: {n: n.replace(**{s: v})}
        if len(node.inputs) == 2:
            yield f"{name} has its inputs exchanged", lambda n=node: {n: n.replace(n.inputs[::-1])}
        for i, given in enumerate(node.inputs):
            for j, found in enumerate(graph.order[:place]):
                if found is not given and found.shape == given.shape:
                    yield f"{name} has node {j} as input {i}", partial(rewired, node, i, found)
        for kind in {kind for kin in KINSHIP if type(node) in kin for kind in kin} - {type(node)}:
            yield f"{name} is a {kind.__name__}", partial(of_kind, node, kind)
        if isinstance(node, Elementwise):
            yield f"{name} is an Exp", lambda n=node: {n: Exp(n.inputs[0])}


def others(value: Any, shape: tuple[int, ...]) -> Iterator[Any]:
    """Settings beside a setting."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from {value + 1, value - 1, -value, value + 0.5 if isinstance(value, float) else value + 2} - {value}
    elif isinstance(value, tuple):
        for i in range(len(value)):
            yield value[:i] + value[i + 1 :]
            yield from ((*value[:i], value[i] + step, *value[i + 1 :]) for step in (-1, 1, -len(shape)))
            for j in range(i):
                yield (*value[:j], value[i], *value[j + 1 : i], value[j], *value[i + 1 :])
        if len(shape) == len(value):
            yield shape


def shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Shapes beside a shape, some of which broadcast alike."""
    yield from {(), (1,), (*shape, 1), (1, *shape), shape[::-1]} - {shape}
    yield from {(*shape[:i], n, *shape[i + 1 :]) for i in range(len(shape)) for n in (1, shape[i] + 1)} - {shape}


def reshaped(leaf: Leaf, shape: tuple[int, ...]) -> dict[Node, Node]:
    return {leaf: type(leaf)(random(*shape), leaf.name)}  # type: ignore[call-arg]


def rewired(node: Node, i: int, found: Node) -> dict[Node, Node]:
    return {node: node.replace([found if j == i else n for j, n in enumerate(node.inputs)])}


def of_kind(node: Node, kind: Callable[..., Node]) -> dict[Node, Node]:
    return {node: kind(*node.inputs, **node.attributes)}


def changed(graph: Graph, come: dict[Node, Node]) -> Graph:
    """The graph with some nodes in others' places, and all that stands on them anew."""
    new: dict[Node, Node] = dict(come)
    for node in graph.order:
        if node not in new:
            inputs = [new[n] for n in node.inputs]
            new[node] = node if inputs == list(node.inputs) else node.replace(inputs)
    return total(new[graph.outputs[0]])


def near(graph: Graph) -> Iterator[tuple[str, Graph, list[np.ndarray]]]:
    """The graphs beside this one that can be run: what is different, and what they give."""
    found = total(*graph.outputs)
    yield "nothing is changed", found, values(found)
    for what, make in changes(graph):
        try:
            found = changed(graph, make())
            yield what, found, values(found)
        except INVALID:
            continue
    for place, node in enumerate(graph.order):
        if node.shape is not None and not isinstance(node, Leaf):
            found = total(*graph.outputs, node)
            yield f"node {place}, {node!r}, is used twice", found, values(found)


def values(graph: Graph) -> list[np.ndarray]:
    """The number in which the graph ends, and the gradients of all its leaves by name."""
    t = graph.leaves.get("t")
    feeds = {"x": random(*graph.leaves["x"].shape or ())} if "x" in graph.leaves else {}
    feeds |= {"t": np.arange(t.shape[0]) % 3} if t is not None and t.shape else {}
    with np.errstate(all="ignore"):
        run = graph.run(**feeds)
        grads = run.backward(np.ones(()))
    return [run.results[0], *(grads[name] for name in sorted(grads))]


def kinds(graph: Graph) -> list[type[Node]]:
    return [type(node) for node in graph.order]


def agree(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Within rounding of the largest; where a value is not finite, networks leave the whole pass to the reference."""
    pairs = list(zip(found, expected, strict=True))
    finite = all(np.isfinite(b).all() for b in expected)
    return all(a.shape == b.shape for a, b in pairs) and not (
        finite and any(np.abs(a - b).max(initial=0) > 1e-12 * np.abs(b).max(initial=1) for a, b in pairs)
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_graph_near_a_pattern_is_rewritten_to_an_equal_one_or_not_at_all(pattern: str) -> None:
    for what, graph, expected in near(PATTERNS[pattern]()):
        rewritten = rewrite(graph, RULES)
        if kinds(rewritten) != kinds(graph):
            assert agree(values(rewritten), expected), what


class Leaky(ValueMask, abstract=True):
    """A rectifier that lets some through: no rule may take it for the one that it is derived from."""

    def forward(self, kept, *inputs):
        return super().forward(kept, *inputs) + 0.1 * inputs[0]

    def backward(self, kept, dy):
        return super().backward(kept, dy) + 0.1 * dy


@pytest.mark.parametrize("pattern", ["affine", "rectified and pooled", "normalised, rectified and pooled"])
def test_an_operation_derived_from_a_patterns_is_another(pattern: str) -> None:
    graph = PATTERNS[f"{pattern}, sizes alike"]()
    near = changed(graph, {n: Leaky(n.inputs[0]) for n in graph.order if isinstance(n, ValueMask)})
    rewritten = rewrite(near, RULES)
    assert Leaky in kinds(rewritten)
    assert agree(values(rewritten), values(near))


def test_the_patterns_are_those_of_all_rules() -> None:
    fired = set()

    def noted(rule):
        def run(node):
            better = rule(node)
            if better is not None:
                fired.add(rule)
            return better

        return run

    for make in PATTERNS.values():
        rewrite(make(), [[noted(rule) for rule in stage] for stage in RULES])
    assert fired == {rule for stage in RULES for rule in stage}
