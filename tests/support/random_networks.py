"""Random networks, stacks of layers with branches, and the comparison of compiled ones with the reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from itertools import islice
from typing import Any

import numpy as np

from nl_layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    GlobalAveragePooling,
    Layer,
    Loss,
    Mode,
    Pooling,
    Relu,
    Residual,
    Sequential,
    Sigmoid,
    SigmoidWithLoss,
    SoftmaxWithLoss,
    Tanh,
    ZeroPadShortcut,
)
from nl_models import Network
from nl_nodes import Add, Device, Max, Mul, Node, ValueMask
from nl_nodes.verify.subgraph import node_values

KERNELS = [(3, 3), (3, 3), (3, 3), (1, 1), (5, 5), (5, 5), (2, 3), (7, 7)]
WINDOWS = [(2, 2, 2, 0)] * 6 + [(2, 2, 1, 0), (3, 3, 2, 1), (2, 3, 3, 0), (3, 2, 1, 1)]
POSITIONS = [None, None, "before_activation", "before_activation", "before_affine", "after_activation"]
CLASSES = 4
LEAST = 4
"""Fewest images in a batch; batch normalization reduces two numbers to their signs."""
EXACT = 1e-12
SINGLE = 5e-4
"""Limit relative to each array's largest value. Half of all networks stay below 2e-6 in single precision. The largest
errors occur where batch norm's gradients are differences of larger numbers, in double precision too."""
NEAR = 5e-6
"""Distance from a kink, relative to the largest value, within which single precision may be on the other side."""

Key = tuple[int, int]
"""A seed, and which of the networks drawn from it."""

Batch = tuple[np.ndarray, np.ndarray]


class Fork(Layer, abstract=True):
    """Parallel paths of layers on one input, with outputs added or multiplied; an empty path is the input itself."""

    def __init__(self, join: type[Add | Mul], *paths: list[Layer]) -> None:
        super().__init__()
        self.join, self.paths = join, paths
        self.layers = tuple(dict.fromkeys(layer for path in paths for layer in path))  # one may be in two paths

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """Wire each path on the same input and join their outputs."""
        ends = [reduce(lambda x, layer: layer.wire(x, mode=mode), path, inputs[0]) for path in self.paths]
        return reduce(self.join, ends)


class Stack:
    """Random layers, determined by a key.

    Attributes:
        sides: the range of an image's height and width.
        filters: possible numbers of filters of a convolution.
        blocks: the range of the number of convolutions.
        layers: the layers in order.
        loss: the loss on their output.
        start: the input's shape.
        batch: images in a full batch; the last batch has fewer.
    """

    sides: tuple[int, int] = (5, 14)
    filters: tuple[int, ...] = (2, 3, 8, 9, 20, 20)
    blocks: tuple[int, int] = (2, 4)

    def __init__(self, key: Key) -> None:
        self.rng = np.random.default_rng(key)
        self.position = self.pick(POSITIONS)
        self.activation: type[Layer] = self.pick([Relu, Relu, Relu, Sigmoid, Tanh])
        self.dropout = self.pick([0.0, 0.0, 0.0, 0.2])
        self.batch = int(self.rng.integers(LEAST + 1, 10))
        images = self.rng.random() < 0.9
        maps = (self.pick([1, 2, 8, 9]), *(int(n) for n in self.rng.integers(*self.sides, 2)))
        small = (18, 2, 2)
        self.start = self.shape = self.pick([maps] * 4 + [small]) if images else (int(self.rng.integers(3, 20)),)
        self.layers: list[Layer] = []
        for _ in range(self.rng.integers(*self.blocks) if images else 0):
            self.images()
        for _ in range(self.rng.integers(0, 2) if images else 2):
            self.block(self.affine(int(self.rng.integers(3, 20))))
        self.layers.append(self.affine(CLASSES, bias=True))
        self.loss: Loss = self.pick([SoftmaxWithLoss()] * 3 + [SoftmaxWithLoss("textbook"), SigmoidWithLoss()])

    def pick(self, choices: list[Any]) -> Any:
        return choices[self.rng.integers(len(choices))]

    def numbers(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Return normal numbers that are exact in single precision."""
        return (self.rng.standard_normal(shape) * scale).astype(np.float32).astype(np.float64)

    def images(self) -> None:
        """Add a convolution block or a fork."""
        if self.rng.random() < 0.2:
            self.layers += [self.fork(), Tanh()]  # not ReLU: a product of two has many zeros
            return
        kernel, stride, pad = self.pick(KERNELS), self.pick([1, 1, 1, 2, 3]), int(self.rng.integers(0, 4))
        if self.position == "before_affine":
            # A window with only padding gives a constant, which per-feature batch norm cannot normalize.
            pad = min(pad, min(kernel) - 1)
        maps = tuple((n + 2 * pad - k) // stride + 1 for n, k in zip(self.shape[1:], kernel, strict=True))
        if min(maps) < 2:
            kernel, stride, pad, maps = (3, 3), 1, 1, self.shape[1:]
        self.block(self.convolution(self.pick(list(self.filters)), kernel, stride, pad), maps)

    def block(self, layer: Layer, maps: tuple[int, ...] = ()) -> None:
        """Add the layer with batch norm at its position, an activation, possibly pooling, and dropout."""
        if self.position == "before_affine":
            self.layers.append(self.norm(self.shape[0] if maps else int(np.prod(self.shape))))
        self.layers.append(layer)
        features = layer.weight.value.shape[0 if maps else 1]
        self.shape = (features, *maps)
        if self.position == "before_activation":
            self.layers.append(self.norm(features))
        self.layers.append(self.activation())
        if self.position == "after_activation":
            self.layers.append(self.norm(features))
        if maps and self.rng.random() < 0.7:
            self.pool()
        if self.dropout:
            self.layers.append(Dropout(self.dropout, seed=3, stream=len(self.layers)))

    def convolution(
        self, filters: int, kernel: tuple[int, int], stride: int = 1, pad: int = 0, bias: bool | None = None
    ) -> Convolution:
        c = self.shape[0]
        weight = self.numbers(filters, c, *kernel, scale=(c * np.prod(kernel)) ** -0.5)
        return Convolution(weight, self.bias(filters, bias), stride, pad)

    def affine(self, features: int, bias: bool | None = None) -> Affine:
        size = int(np.prod(self.shape))
        return Affine(self.numbers(size, features, scale=size**-0.5), self.bias(features, bias))

    def bias(self, count: int, wanted: bool | None) -> np.ndarray | None:
        """Return a bias or None: none before batch norm, where its gradient is 0 up to rounding; always before ReLU.

        A layer without bias maps zeros, left by ReLU or dropout, to 0, which is at the kink.
        """
        drawn = self.position != "before_activation" and (self.activation is Relu or self.rng.random() < 0.7)
        return self.numbers(count, scale=0.3) if (drawn if wanted is None else wanted) else None

    def norm(self, features: int) -> BatchNormalization:
        """Return batch norm with gammas of both signs."""
        gamma = self.rng.uniform(0.5, 1.5, features) * self.rng.choice([-1, 1], features)
        return BatchNormalization(
            gamma.astype(np.float32).astype(np.float64), self.numbers(features, scale=0.5), eps=0.1
        )

    def pool(self) -> None:
        height, width, stride, pad = self.pick(WINDOWS)
        maps = [(n + 2 * pad - k) // stride + 1 for n, k in zip(self.shape[1:], (height, width), strict=True)]
        if min(maps) >= 2:
            self.layers.append(Pooling(height, width, stride, pad))
            self.shape = (self.shape[0], *maps)

    def fork(self) -> Fork:
        """Return a fork with paths of zero to two convolutions, of which one may be shared; shapes are unchanged."""
        c, join = self.shape[0], self.pick([Add, Mul])
        one, two = (self.convolution(c, kernel, 1, pad, bias=True) for kernel, pad in (((3, 3), 1), ((1, 1), 0)))
        paths: list[list[Layer]] = self.pick(
            [
                [[], [one, self.activation()]],
                [[one, self.activation()], [two]],
                [[one], [two, self.activation(), one]],
                [[one, Tanh()], [], [two, Sigmoid()]],
            ]
        )
        return Fork(join, *paths)


class ResidualStack(Stack):
    """Random residual blocks among the others, average pooling, and global average pooling in place of flattening."""

    blocks = (1, 3)

    def images(self) -> None:
        """Add a residual block, mostly."""
        if self.rng.random() < 0.3:
            super().images()
            return
        start, stride = self.shape, self.pick([1, 1, 2])
        filters, maps = start[0] + self.pick([0, 0, 3]), tuple(-(-n // stride) for n in start[1:])
        first = self.convolution(filters, (3, 3), stride, 1, bias=False)
        projection = self.convolution(filters, (1, 1), stride, bias=False)
        self.shape = (filters, *maps)
        second = self.convolution(filters, (3, 3), 1, 1, bias=False)
        branch = Sequential([first, self.norm(filters), self.activation(), second, self.norm(filters)])
        shortcuts = [ZeroPadShortcut(filters, stride), Sequential([projection, self.norm(filters)])]
        identity = [None] * 2 if self.shape == start else []
        self.layers += [Residual(branch, self.pick([*shortcuts, *identity])), Tanh()]
        if min(maps) >= 4 and self.rng.random() < 0.4:
            self.layers.append(AveragePooling(3, 3, stride=2, pad=1))
            self.shape = (filters, *(-(-n // 2) for n in maps))

    def affine(self, features: int, bias: bool | None = None) -> Affine:
        """Return an affine layer, half of the time of each channel's mean."""
        if len(self.shape) == 3 and self.rng.random() < 0.5:
            self.layers.append(GlobalAveragePooling())
            self.shape = self.shape[:1]
        return super().affine(features, bias)


def random_network(key: Key, device: Device, kind: type[Stack] = Stack) -> Network:
    """Return the network for a key; it is deterministic."""
    stack = kind(key)
    spec = {"name": f"random {key}", "input_shape": stack.start, "classes": CLASSES}
    return Network(list(numbered(stack.layers)), spec, device, stack.loss)


def numbered(layers: Iterable[Layer]) -> Iterator[tuple[Layer, int]]:
    """Yield each layer with a number that leaves those after it for the layers inside."""
    number = 1
    for layer in layers:
        yield layer, number
        number += len(list(layer.tree()))


def random_case(seed: int, kind: type[Stack] = Stack) -> tuple[Key, list[Batch]]:
    """Return a network's key and three batches, full, smaller and full, all of them well-conditioned."""
    for attempt in range(100):
        key = (seed, attempt)
        batches = list(islice(_clear_batches(key, kind), 3))
        if len(batches) == 3:
            return key, batches
    raise AssertionError(f"seed {seed}: no network has well-conditioned batches")


def _clear_batches(key: Key, kind: type[Stack]) -> Iterator[Batch]:
    """Yield those of 20 batches where no value is near a kink and no gradient is a remainder of cancelling terms."""
    net, stack = random_network(key, Device(dtype="float64", compile=False), kind), kind(key)
    rng = np.random.default_rng((*key, 1))
    counts = (stack.batch, int(rng.integers(LEAST, stack.batch)), stack.batch)
    done = 0
    for _ in range(20):
        count = counts[done % 3]
        x = rng.standard_normal((count, *stack.start)).astype(np.float32).astype(np.float64)
        t = rng.integers(0, CLASSES, count)
        graph = net.wire(count, train=True)
        graph.passes = done
        if not near_kink(node_values(graph, {"x": x, "t": t})) and alive(graph.run(x=x, t=t).backward(np.float64(1))):
            done += 1
            yield x, t


def alive(grads: Mapping[str, np.ndarray]) -> bool:
    """Return whether every gradient is well above the rounding of the others: none is zero or cancels out."""
    sizes = [np.abs(grad).max() for grad in grads.values()]
    return min(sizes) > 1e-3 * max(sizes)


def near_kink(values: Mapping[Node, Any]) -> bool:
    """Return whether an input of ReLU is near its threshold, or the two largest values of a window nearly tie.

    Exact ties do not count: they are zeros of ReLU, which passes no gradient to either.
    """
    for node, value in values.items():
        x = values[node.inputs[0]] if node.inputs else value
        if isinstance(node, ValueMask):
            if np.abs(x - node.threshold).min() < NEAR * np.abs(x).max():
                return True
        elif isinstance(node, Max) and node.axis == 4:
            second, first = np.moveaxis(np.partition(x, -2, axis=-1)[..., -2:], -1, 0)
            apart = (first - second)[first != second]
            if apart.size and apart.min() < NEAR * np.abs(first).max():
                return True
    return False


def outcome(net: Network, batches: list[Batch]) -> dict[str, np.ndarray]:
    """Return loss, logits and gradients of a training pass on each batch, then running statistics and predictions."""
    found: dict[str, np.ndarray] = {}
    for number, (x, t) in enumerate(batches):
        done = net.step(x, t)
        results = {"loss": np.asarray(done.loss), "logits": done.logits, **done.grads}
        found |= {f"{name} of pass {number}": value.copy() for name, value in results.items()}
    buffers = {name: value for name, value in net.state_dict().items() if name not in net.params}
    return {**found, **buffers, "seen": net.predict(batches[0][0])}


def distances(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return each array's largest error, relative to its largest value."""
    assert found.keys() == expected.keys()
    return {name: _distance(found[name], value) for name, value in expected.items()}


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    apart = float(np.abs(found - expected).max())
    return apart / float(np.abs(expected).max()) if apart else 0.0


def compare(seed: int, quick: bool = False, kind: type[Stack] = Stack) -> None:
    """Compare a seed's network, compiled for one and two workers and in single precision, with the reference.

    The quick form omits one or two workers in double precision, alternating by seed, since compilation takes long.
    """
    key, batches = random_case(seed, kind)
    expected = outcome(random_network(key, Device(dtype="float64", compile=False), kind), batches)
    runs = [("float64", 1, EXACT), ("float64", 2, EXACT), ("float32", 2, SINGLE)]
    if quick:
        del runs[seed % 2]
    for dtype, threads, limit in runs:
        net = random_network(key, Device(dtype=dtype, workers="threads", threads=threads), kind)
        found = distances(outcome(net, batches), expected)
        assert all(len(plan.calls) == net.device.executor.count for plan in net._plans.values())
        for name, distance in found.items():
            assert distance <= limit, f"{net.name}, {dtype}, {threads} workers: {name} is off by {distance:.1e}"
