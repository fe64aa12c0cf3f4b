"""Random networks: stacks of layers with branches, as no model of this project has them, and what they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import islice
from typing import Any

import numpy as np

from nl_layers import (
    Affine,
    BatchNormalization,
    Convolution,
    Dropout,
    Layer,
    Loss,
    Mode,
    Pooling,
    Relu,
    Sigmoid,
    SigmoidWithLoss,
    SoftmaxWithLoss,
    Tanh,
)
from nl_models import Network
from nl_nodes import Add, Buffer, Device, Max, Mul, Node, Parameter, ValueMask
from nl_nodes.verify.subgraph import node_values

KERNELS = [(3, 3), (3, 3), (3, 3), (1, 1), (5, 5), (5, 5), (2, 3), (7, 7)]
WINDOWS = [(2, 2, 2, 0)] * 6 + [(2, 2, 1, 0), (3, 3, 2, 1), (2, 3, 3, 0), (3, 2, 1, 1)]
POSITIONS = [None, None, "before_activation", "before_activation", "before_affine", "after_activation"]
CLASSES = 4
LEAST = 4
"""Images in a batch: of two numbers, batch normalisation leaves but the sign."""
EXACT = 1e-12
SINGLE = 5e-4
"""Of each array's largest value. Half of all networks stay below 2e-6 in single precision; the worst are those whose
gradients are differences of larger numbers, which batch norm makes, and these are as much worse in double."""
NEAR = 5e-6
"""How near to a kink, in parts of the largest value, single precision may carry a number across."""

Key = tuple[int, int]
"""A seed, and which of the networks drawn from it."""

Batch = tuple[np.ndarray, np.ndarray]


class Fork(Layer, abstract=True):
    """Paths of layers from one input, their outputs added or multiplied; an empty path is the input itself."""

    def __init__(self, join: type[Add | Mul], *paths: list[Layer]) -> None:
        super().__init__()
        self.join, self.paths = join, paths

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """Each path on the same input, then all together."""
        ends = [reduce(lambda x, layer: layer.wire(x, mode=mode), path, inputs[0]) for path in self.paths]
        return reduce(self.join, ends)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Those of all paths; a layer that stands in two has its own once."""
        return {
            f"{name}_{i}_": leaf for i, layer in enumerate(self._layers()) for name, leaf in layer.parameters.items()
        }

    @property
    def buffers(self) -> dict[str, Buffer]:
        """Likewise."""
        return {f"{name}_{i}_": leaf for i, layer in enumerate(self._layers()) for name, leaf in layer.buffers.items()}

    def _layers(self) -> dict[Layer, None]:
        return dict.fromkeys(layer for path in self.paths for layer in path)


class Stack:
    """Layers as a key draws them.

    Attributes:
        sides: the range of an image's height and width.
        filters: how many filters a convolution may have.
        blocks: the range of how many convolutions there are.
        layers: in order.
        loss: on what they end in.
        start: the input's shape.
        batch: how many images a whole batch has; the last one has fewer.
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
        """Normal numbers that single precision has too, so that it differs by its roundings alone."""
        return (self.rng.standard_normal(shape) * scale).astype(np.float32).astype(np.float64)

    def images(self) -> None:
        """A convolution with what stands around it, or a fork."""
        if self.rng.random() < 0.2:
            self.layers += [self.fork(), Tanh()]  # not a rectifier: a product of two is 0 at many places
            return
        kernel, stride, pad = self.pick(KERNELS), self.pick([1, 1, 1, 2, 3]), int(self.rng.integers(0, 4))
        if self.position == "before_affine":
            # A window of padding alone gives a constant, which batch norm of each feature cannot normalise.
            pad = min(pad, min(kernel) - 1)
        maps = tuple((n + 2 * pad - k) // stride + 1 for n, k in zip(self.shape[1:], kernel, strict=True))
        if min(maps) < 2:
            kernel, stride, pad, maps = (3, 3), 1, 1, self.shape[1:]
        self.block(self.convolution(self.pick(list(self.filters)), kernel, stride, pad), maps)

    def block(self, layer: Layer, maps: tuple[int, ...] = ()) -> None:
        """The layer, batch norm where the net has it, an activation, of images perhaps a pooling; dropout."""
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
        """None before batch norm, where its gradient would be the rounding of 0; before a rectifier always.

        Of nothing but zeros, what a rectifier let through or dropout left, a layer without bias makes 0, at the kink.
        """
        drawn = self.position != "before_activation" and (self.activation is Relu or self.rng.random() < 0.7)
        return self.numbers(count, scale=0.3) if (drawn if wanted is None else wanted) else None

    def norm(self, features: int) -> BatchNormalization:
        """Its gamma of either sign."""
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
        """Past a convolution, through two, or twice through one and the same; the maps keep their shape."""
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


def random_network(key: Key, device: Device, kind: type[Stack] = Stack) -> Network:
    """The network of a key, the same each time."""
    stack = kind(key)
    spec = {"name": f"random {key}", "input_shape": stack.start, "classes": CLASSES}
    return Network([(layer, i) for i, layer in enumerate(stack.layers, 1)], spec, device, stack.loss)


def random_case(seed: int) -> tuple[Key, list[Batch]]:
    """A network's key and a whole batch, the last one of an epoch, and a whole one again, all of them clear."""
    for attempt in range(100):
        key = (seed, attempt)
        batches = list(islice(_clear_batches(key), 3))
        if len(batches) == 3:
            return key, batches
    raise AssertionError(f"seed {seed}: no network of it is clear")


def _clear_batches(key: Key) -> Iterator[Batch]:
    """Of 20 batches those on which nothing lies near a kink and no gradient is but what larger ones leave."""
    net, stack = random_network(key, Device(dtype="float64", compile=False)), Stack(key)
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
    """Whether every gradient stands out from the rounding of the others: none is of a dead part, or cancels out."""
    sizes = [np.abs(grad).max() for grad in grads.values()]
    return min(sizes) > 1e-3 * max(sizes)


def near_kink(values: Mapping[Node, Any]) -> bool:
    """Whether a rectifier's input is nearly its threshold, or of two in a window the larger is hard to tell.

    Equal ones do not count: they are zeros of one rectifier, which lets nothing back through either of them.
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
    """Loss, logits and gradients of a training pass on each batch, then the running statistics and the predictions."""
    found: dict[str, np.ndarray] = {}
    for number, (x, t) in enumerate(batches):
        done = net.step(x, t)
        results = {"loss": np.asarray(done.loss), "logits": done.logits, **done.grads}
        found |= {f"{name} of pass {number}": value.copy() for name, value in results.items()}
    buffers = {name: value for name, value in net.state_dict().items() if name not in net.params}
    return {**found, **buffers, "seen": net.predict(batches[0][0])}


def distances(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How far each array is from what it should be, in parts of its largest value."""
    assert found.keys() == expected.keys()
    return {name: _distance(found[name], value) for name, value in expected.items()}


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    apart = float(np.abs(found - expected).max())
    return apart / float(np.abs(expected).max()) if apart else 0.0


def compare(seed: int, quick: bool = False) -> None:
    """The network of a seed, compiled for one worker and for two, and in single precision, beside the reference.

    The quick form leaves out one worker or two, by turns: plans of random networks take long to make.
    """
    key, batches = random_case(seed)
    expected = outcome(random_network(key, Device(dtype="float64", compile=False)), batches)
    runs = [("float64", 1, EXACT), ("float64", 2, EXACT), ("float32", 2, SINGLE)]
    if quick:
        del runs[seed % 2]
    for dtype, threads, limit in runs:
        net = random_network(key, Device(dtype=dtype, workers="threads", threads=threads))
        found = distances(outcome(net, batches), expected)
        assert all(len(plan.calls) == threads for plan in net._plans.values())
        for name, distance in found.items():
            assert distance <= limit, f"{net.name}, {dtype}, {threads} workers: {name} is off by {distance:.1e}"
