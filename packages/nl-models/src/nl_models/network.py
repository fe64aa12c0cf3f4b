"""A network: layers wired into one graph, with its parameters in one buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nl_layers import FlatDict, Layer, Loss, Mode, SoftmaxWithLoss
from nl_models.state import check_state, load_state, save_state
from nl_nodes import Buffer, Device, Graph, Input, Node, Parameter, Pass, ShapeError, UserError
from nl_nodes.compiler import Plan, compile_graph
from nl_nodes.node import claim
from nl_nodes.typing import Array, Shape

# Evaluation goes through a set in pieces, so that its memory does not grow with the set.
PIECE = 256


@dataclass(frozen=True)
class Step:
    """What one training pass gives; the gradients are valid until the next.

    Attributes:
        loss: the batch's mean loss, without penalty.
        logits: (N, classes), in training mode.
        grads: the gradients by parameter.
    """

    loss: Array
    logits: Array
    grads: FlatDict


class Network:
    """Layers in a row, ending in logits and a loss.

    Made by `mlp`, `cnn3`, `cnn8`, `vgg11`, `vgg16` or `build`.

    Args:
        layers: each layer with the number that its parameters bear.
        spec: how `build` makes this network again.
        device: where it computes; its dtype is the network's.
        loss: the loss on the logits.

    Attributes:
        params: W1, b1, gamma1, ... as live views of one buffer.
        passes: how many training passes were made, which dropout's masks depend on; set it to replay.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Layer, int]],
        spec: Mapping[str, Any],
        device: Device,
        loss: Loss | None = None,
    ) -> None:
        self.spec = dict(spec)
        self.name: str = self.spec["name"]
        self.input_shape: Shape = tuple(self.spec["input_shape"])
        self.classes: int = self.spec["classes"]
        self.device = device
        self.layers = [layer for layer, _ in layers]
        self._paths = [f"{type(layer).__name__} {number}" for layer, number in layers]
        self.loss_layer = loss or SoftmaxWithLoss()
        self.passes = 0
        self._parameters, self._buffers = name_leaves(layers)
        shapes = {name: tuple(leaf.value.shape) for name, leaf in self._parameters.items()}
        self.params = FlatDict(shapes, device.zeros)
        self._grads = FlatDict(shapes, device.zeros)
        for name, leaf in self._parameters.items():
            self.params[name][...] = device.array(leaf.value)
            leaf.value = self.params[name]
        for buffer in self._buffers.values():
            start = device.array(buffer.value)
            buffer.value = device.zeros(start.size).reshape(start.shape)
            buffer.value[...] = start
        self._graphs: dict[tuple[bool, int], Graph] = {}
        self._plans: dict[tuple[bool, int], Plan] = {}
        self.wire(1, train=False)

    def wire(self, batch: int, train: bool) -> Graph:
        """The graph for a batch: (loss, logits) to train, (logits,) to infer.

        Raises:
            ShapeError: where the input shape does not fit the layers, with the layer's number.
        """
        mode = Mode(train)
        logits = self._logits(Input("x", (batch, *self.input_shape), gradient=False), mode)
        if not train:
            return Graph(logits)
        t = Input("t", (batch,), gradient=False)
        loss = self.loss_layer.wire(logits, t, mode=mode)
        claim([loss], type(self.loss_layer).__name__)
        return Graph(loss, logits, updates=mode.updates)

    def _logits(self, x: Node, mode: Mode) -> Node:
        for number, (layer, path) in enumerate(zip(self.layers, self._paths, strict=True), 1):
            try:
                x = layer.wire(x, mode=mode)
                claim([x, *mode.updates.values()], path)
            except ShapeError as error:
                where = f"{self.name}: layer {number} ({type(layer).__name__}) on input shape {self.input_shape}"
                raise ShapeError(f"{where}: {error}") from None
        return x

    def predict(self, x: Any) -> Array:
        """The logits (N, classes) of images x (N, C, H, W), in inference mode."""
        x = self._images(x)
        pieces = [self._run(False, x=x[i : i + PIECE])[0] for i in range(0, len(x), PIECE)]
        if not pieces:
            return self.device.xp.zeros((0, self.classes), dtype=self.device.dtype)
        return pieces[0] if len(pieces) == 1 else self.device.xp.concatenate(pieces)

    def loss(self, x: Any, t: Any) -> float:
        """The mean loss of images x with labels t, in inference mode."""
        return self.evaluate(x, t)[0]

    def accuracy(self, x: Any, t: Any) -> float:
        """The share of images x whose largest logit is at the label t, in inference mode."""
        return self.evaluate(x, t)[1]

    def evaluate(self, x: Any, t: Any) -> tuple[float, float]:
        """Mean loss and accuracy of images x with labels t, in inference mode."""
        if not len(x):
            raise UserError(f"{self.name}: cannot evaluate on no images")
        logits, labels = self.predict(x), self._labels(t, len(x))
        loss = float(self.loss_layer.forward(logits, labels))
        return loss, self.hits(logits, labels) / len(x)

    def hits(self, logits: Array, t: Any) -> int:
        """How many rows of logits (N, classes) have their largest value at the label t (N,)."""
        return int((logits.argmax(axis=1) == self._labels(t, len(logits))).sum())

    def gradient(self, x: Any, t: Any) -> FlatDict:
        """The loss's gradient by parameter in training mode, valid until the next call."""
        return self.step(x, t).grads

    def step(self, x: Any, t: Any) -> Step:
        """One training pass, forward and backward, on images x (N, C, H, W) with labels t (N,) or (N, classes)."""
        x = self._images(x)
        if not len(x):
            raise UserError(f"{self.name}: cannot train on a batch of no images")
        loss, logits = self._run(True, x=x, t=self._labels(t, len(x)))
        return Step(loss, logits, self._grads)

    def _run(self, train: bool, **feeds: Array) -> tuple[Array, ...]:
        with self.device.limits():
            results = (self._compiled if self.device.compiles else self._reference)(train, feeds)
        self.passes += train
        return results

    def _reference(self, train: bool, feeds: dict[str, Array]) -> tuple[Array, ...]:
        """One pass node by node."""
        key = (train, len(feeds["x"]))
        if key not in self._graphs:
            self._graphs[key] = self.wire(key[1], train)
        graph = self._graphs[key]
        graph.passes = self.passes
        done = graph.run(**feeds)
        if train:
            self._store(done)
            one = self.device.xp.ones((), dtype=self.device.dtype)
            for name, grad in done.backward(one).items():
                self._grads[name][...] = grad
        return done.results

    def _compiled(self, train: bool, feeds: dict[str, Array]) -> tuple[Array, ...]:
        """One pass by the plan for this many images."""
        key = (train, len(feeds["x"]))
        if key not in self._plans:
            self._plans[key] = self.plan(*key, labels=feeds["t"].dtype if train else None)
        plan = self._plans[key]
        plan.run(feeds, self.passes)
        if not self.device.finite(plan.results[-1], *([self._grads.flat] if train else [])):
            return self._reference(train, feeds)  # see docs/decisions/0020-not-finite.md
        if train:
            self._store(plan)
        return tuple(result.copy() for result in plan.results)

    def plan(self, train: bool, batch: int, labels: Any = None) -> Plan:
        """The compiled graph for a batch; `labels` is the labels' dtype."""
        shapes: dict[str, tuple[Shape, Any]] = {"x": ((batch, *self.input_shape), self.device.dtype)}
        if train:
            shapes["t"] = ((batch,), labels)
        return compile_graph(
            self.wire(batch, train), shapes, frozenset(shapes), self._grads if train else None, self.device.team
        )

    def training_pass(self, batch: int) -> Callable[[Any, Any], Mapping[str, Array]]:
        """What gives the gradients for so many images and labels as training does, but changes no running statistics.

        Each call replays the first training pass, dropout's masks included.
        """
        if self.device.compiles:
            plan = self.plan(True, batch, "int64")

            def compiled(x: Any, t: Any) -> Mapping[str, Array]:
                with self.device.limits():
                    plan.run({"x": self._images(x), "t": self._labels(t, batch)}, 0)
                return plan.grads

            return compiled
        graph = self.wire(batch, train=True)

        def reference(x: Any, t: Any) -> Mapping[str, Array]:
            with self.device.limits():
                done = graph.run(x=self._images(x), t=self._labels(t, batch))
                return done.backward(self.device.xp.ones((), dtype=self.device.dtype))

        return reference

    def _store(self, done: Pass | Plan) -> None:
        """Update the running statistics, unless one bad batch would spoil them."""
        if self.device.xp.isfinite(done.results[0]):
            done.store_updates()

    def _images(self, x: Any) -> Array:
        x = self.device.array(x)
        if tuple(x.shape[1:]) != self.input_shape:
            raise ShapeError(f"{self.name}: needs images (N, *{self.input_shape}), got {tuple(x.shape)}")
        return x

    def _labels(self, t: Any, count: int) -> Array:
        """Labels as whole numbers (N,), from those or from one-hot rows."""
        t = self.device.labels(t)
        if t.shape == (count, self.classes):
            return t.argmax(axis=1)
        if t.shape != (count,):
            raise ShapeError(f"{self.name}: labels must be ({count},) or ({count}, {self.classes}), got {t.shape}")
        if count and not (int(t.min()) >= 0 and int(t.max()) < self.classes):
            raise UserError(
                f"{self.name}: labels go from 0 to {self.classes - 1}, got {int(t.min())} to {int(t.max())}"
            )
        return t

    def state_dict(self) -> dict[str, Any]:
        """Host copies of all parameters and running statistics by name."""
        leaves = {**self._parameters, **self._buffers}
        return {name: self.device.host(leaf.value).copy() for name, leaf in leaves.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take all parameters and running statistics from arrays by name.

        Raises:
            UserError: when a name is missing or unknown, or a shape differs; nothing is changed then.
        """
        leaves = {**self._parameters, **self._buffers}
        check_state(self.name, {name: tuple(leaf.value.shape) for name, leaf in leaves.items()}, state)
        for name, leaf in leaves.items():
            leaf.value[...] = self.device.array(state[name])

    def save(self, path: str | Path) -> None:
        """Write all parameters and running statistics to a safetensors file."""
        save_state(self.state_dict(), path)

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote; raises `UserError` for a file that is missing, corrupt or of another model."""
        self.load_state_dict(load_state(path))

    def __repr__(self) -> str:
        count = self.params.flat.size
        return f"{self.name}(input {self.input_shape}, {self.classes} classes, {count:,} parameters)"


def name_leaves(layers: Sequence[tuple[Layer, int]]) -> tuple[dict[str, Parameter], dict[str, Buffer]]:
    """The layers' leaves under their names in the network: W, b, gamma, beta and running statistics, with numbers."""
    short = {"weight": "W", "bias": "b"}
    parameters: dict[str, Parameter] = {}
    buffers: dict[str, Buffer] = {}
    for layer, number in layers:
        for attribute, parameter in layer.parameters.items():
            parameter.name = f"{short.get(attribute, attribute)}{number}"
            parameters[parameter.name] = parameter
        for attribute, buffer in layer.buffers.items():
            buffer.name = f"{attribute}{number}"
            buffers[buffer.name] = buffer
    return parameters, buffers
