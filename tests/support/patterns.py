"""Graphs that the rewrite rules match, as the layers wire them, and their comparison."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from nl_layers import (
    Affine,
    BatchNormalization,
    Convolution,
    Dropout,
    GlobalAveragePooling,
    Layer,
    Mode,
    Pooling,
    Relu,
    Residual,
    Sequential,
    SoftmaxWithLoss,
    Tanh,
    ZeroPadShortcut,
)
from nl_nodes import Add, Constant, Graph, Input, Mean, Mul, MulConst, Node, Reshape, Sum
from nl_nodes.shapes import size
from support.random_networks import Fork

TRAIN, INFER = Mode(train=True), Mode(train=False)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(size(shape) + len(shape)).standard_normal(shape)


def convolution(c: int, k: int, bias: bool = True) -> Convolution:
    return Convolution(random(k, c, 3, 3), random(k) if bias else None, pad=1)


def norm(k: int) -> BatchNormalization:
    """Batch norm with an eps far above rounding, as a variance may be 0."""
    return BatchNormalization(random(k), random(k), eps=0.1)


def fewer_pixels(c: int, k: int) -> Residual:
    """A block of half the height and width."""
    return Residual(Sequential([Convolution(random(k, c, 3, 3), None, 2, 1), norm(k)]), ZeroPadShortcut(k, 2))


def affine(n: int, k: int) -> Affine:
    return Affine(random(n, k), random(k))


def wired(shape: tuple[int, ...], *layers: Layer, mode: Mode = TRAIN) -> Graph:
    """Return a stack of layers as one graph, its leaves named uniquely."""
    for i, layer in enumerate(layers):
        for name, leaf in (layer.parameters | layer.buffers).items():
            leaf.name = f"{name} {i}"
    return Graph(reduce(lambda x, layer: layer.wire(x, mode=mode), layers, Input("x", shape)))


def loss(shape: tuple[int, ...], smoothing: float = 0.0) -> Graph:
    layer = SoftmaxWithLoss(label_smoothing=smoothing)
    return Graph(layer.wire(Input("x", shape), Input("t", shape[:1], gradient=False), mode=TRAIN))


def as_images(shape: tuple[int, ...]) -> Graph:
    """Return the mean square of features minus their mean as images of one pixel, which broadcasts against them."""
    x = Input("x", shape)
    centred = Add(x, MulConst(Mean(Reshape(x, (0, -1, 1, 1)), (0, 2, 3), keepdims=True), -1))
    return Graph(Mean(Mul(centred, centred), (0, 2, 3), keepdims=True))


def sum_of(*nodes: Node) -> Graph:
    """Return a scalar to which every element of these nodes contributes with its own weight."""
    return Graph(reduce(Add, (Sum(Mul(node, Constant(random(*node.shape or ())))) for node in nodes)))


def within_layers(n: int, c: int, k: int, h: int, w: int) -> dict[str, Callable[[], Graph]]:
    """Return graphs that the rules of the first stage match."""
    images, rows = (n, c, h, w), (n, c)
    return {
        "convolution": lambda: wired(images, convolution(c, k)),
        "convolution without bias": lambda: wired(images, convolution(c, k, bias=False)),
        "pooling": lambda: wired(images, Pooling(2, 2)),
        "batch norm of images": lambda: wired(images, Tanh(), norm(c)),
        "batch norm of features": lambda: wired(rows, Tanh(), norm(c)),
        "affine": lambda: wired(rows, affine(c, k), Relu()),
        "loss": lambda: loss(rows),
        "smoothed loss": lambda: loss(rows, 0.1),
    }


def across_layers(n: int, c: int, k: int, h: int, w: int) -> dict[str, Callable[[], Graph]]:
    """Return graphs that the rules of both stages match, and some that no fusion may match."""
    images, rows, pixels = (n, c, h, w), (n, c), h * w
    return {
        "dropped images": lambda: wired(images, convolution(c, k), Dropout(0.5, seed=1)),
        "dropped features": lambda: wired(rows, norm(c), Dropout(0.5, seed=1)),
        "mean of features as images": lambda: as_images(rows),
        "two convolutions": lambda: wired(images, convolution(c, k), Tanh(), convolution(k, c)),
        "batch norm's inference": lambda: wired(images, convolution(c, k), norm(k), mode=INFER),
        "two branches": lambda: wired(images, Fork(Add, [convolution(c, k)], [convolution(c, k)])),
        "residual block": lambda: wired(images, convolution(c, c), Tanh(), Residual(norm(c)), Relu()),
        "residual block, projected": lambda: wired(images, Residual(norm(c), convolution(c, c)), Relu()),
        "residual block of fewer pixels": lambda: wired(images, norm(c), Relu(), fewer_pixels(c, k), Relu()),
        "shortcut first": lambda: wired(images, convolution(c, c), Tanh(), Fork(Add, [Tanh()], [norm(c)])),
        "mean of pixels": lambda: wired(images, convolution(c, k), GlobalAveragePooling(), affine(k, c)),
        "affine on maps": lambda: wired(images, convolution(c, k), affine(k * pixels, c)),
        "rectified and pooled": lambda: wired(images, convolution(c, k), Relu(), Pooling(2, 2)),
        "normalised, rectified and pooled": lambda: wired(images, norm(c), Relu(), Pooling(2, 2), convolution(c, k)),
        "features, normalised and rectified": lambda: wired(rows, norm(c), Relu(), affine(c, k)),
    }


# With equal sizes, swapped axes do not change shapes; Winograd needs many channels.
ALIKE, APART, TILES = (4, 4, 4, 4, 4), (2, 3, 5, 4, 6), (2, 8, 9, 4, 5)
PATTERNS = {f"{name}, sizes alike": make for name, make in (within_layers(*ALIKE) | across_layers(*ALIKE)).items()}
PATTERNS |= {f"{name}, sizes apart": make for name, make in within_layers(*APART).items()}
PATTERNS["convolution, tiles"] = within_layers(*TILES)["convolution"]
PATTERNS["rectified and pooled, tiles"] = across_layers(*TILES)["rectified and pooled"]


def changed(graph: Graph, replacements: dict[Node, Node]) -> Graph:
    """Return the graph with some nodes replaced, and all their consumers rebuilt."""
    new: dict[Node, Node] = dict(replacements)
    for node in graph.order:
        if node not in new:
            inputs = [new[n] for n in node.inputs]
            new[node] = node if inputs == list(node.inputs) else node.replace(inputs)
    return sum_of(new[graph.outputs[0]])


def values(graph: Graph, **feeds: np.ndarray) -> list[np.ndarray]:
    """Return the graph's scalar output and the gradients of its leaves by name, on random inputs by default."""
    t = graph.leaves.get("t")
    if "x" in graph.leaves and "x" not in feeds:
        feeds["x"] = random(*graph.leaves["x"].shape or ())
    if t is not None and t.shape and "t" not in feeds:
        feeds["t"] = np.arange(t.shape[0]) % 3
    with np.errstate(all="ignore"):
        run = graph.run(**feeds)
        grads = run.backward(np.ones(()))
    return [run.results[0], *(grads[name] for name in sorted(grads))]


def agree(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Return whether values agree relative to the largest, or some are not finite (networks then use the reference)."""
    pairs = list(zip(found, expected, strict=True))
    finite = all(np.isfinite(b).all() for b in expected)
    return all(a.shape == b.shape for a, b in pairs) and not (
        finite and any(np.abs(a - b).max(initial=0) > 1e-12 * np.abs(b).max(initial=1) for a, b in pairs)
    )
