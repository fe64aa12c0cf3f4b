"""A network: layers wired into one graph, with its parameters in one buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock, Thread, current_thread
from typing import Any

from nl_layers import FlatDict, Layer, Loss, Mode, SoftmaxWithLoss
from nl_models.recent import RecentlyUsed
from nl_models.state import check_state, load_state, save_state
from nl_nodes import Buffer, Device, Graph, Input, Node, Parameter, Pass, ShapeError, UserError
from nl_nodes.compiler import Plan, compile_graph
from nl_nodes.node import claim
from nl_nodes.signals import DeferSignals
from nl_nodes.typing import Array, Shape

# Evaluation goes through a set in pieces, so that its memory does not grow with the set.
PIECE = 256

BATCH_SIZES = 8
"""The number of batch sizes, to train and to infer, whose graphs are kept."""


@dataclass(frozen=True)
class Step:
    """What one training pass gives; the gradients are valid until the same thread's next.

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

    Made by `mlp`, `cnn3`, `cnn8`, `vgg11`, `vgg16` or `build`. Any number of threads may call it; its passes run one
    after another, and a signal such as Ctrl-C is handled before or after a pass, not inside.

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
        self._graphs: RecentlyUsed[tuple[bool, int], Graph] = RecentlyUsed(BATCH_SIZES)
        self._plans: RecentlyUsed[tuple[bool, int], Plan] = RecentlyUsed(BATCH_SIZES)
        self._lock = RLock()
        self._holder: Thread | None = None  # whose gradients lie in the buffer
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
        pieces = [self._infer(x[i : i + PIECE]) for i in range(0, len(x), PIECE)]
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
        graph = self.loss_layer.graph((tuple(logits.shape), tuple(labels.shape)))  # one of its own, for this thread
        loss = float(graph.forward(x=logits, t=labels))
        return loss, self.hits(logits, labels) / len(x)

    def hits(self, logits: Array, t: Any) -> int:
        """How many rows of logits (N, classes) have their largest value at the label t (N,)."""
        return int((logits.argmax(axis=1) == self._labels(t, len(logits))).sum())

    def gradient(self, x: Any, t: Any) -> FlatDict:
        """The loss's gradient by parameter in training mode, valid until the same thread's next call."""
        return self.step(x, t).grads

    def step(self, x: Any, t: Any) -> Step:
        """One training pass, forward and backward, on images x (N, C, H, W) with labels t (N,) or (N, classes)."""
        x = self._images(x)
        if not len(x):
            raise UserError(f"{self.name}: cannot train on a batch of no images")
        t = self._labels(t, len(x))
        with self._lock, DeferSignals(), self.device.limits():
            self._holder = self._holder or current_thread()
            if self._holder is current_thread():
                loss, logits = self._train(x, t)
                return Step(loss, logits, self._grads)
            held = self._grads.flat.copy()
            try:
                loss, logits = self._train(x, t)
                return Step(loss, logits, self._copy_gradients())
            finally:
                self._grads.flat[...] = held

    def _train(self, x: Array, t: Array) -> tuple[Array, ...]:
        results = self._pass(True, {"x": x, "t": t})
        self.passes += 1
        return results

    def _infer(self, x: Array) -> Array:
        with self._lock, DeferSignals(), self.device.limits():
            return self._pass(False, {"x": x})[0]

    def _copy_gradients(self) -> FlatDict:
        shapes = {name: tuple(grad.shape) for name, grad in self._grads.items()}
        grads = FlatDict(shapes, lambda size: self.device.xp.zeros(size, dtype=self.device.dtype))
        grads.flat[...] = self._grads.flat
        return grads

    def _pass(self, train: bool, feeds: dict[str, Array]) -> tuple[Array, ...]:
        return (self._compiled if self.device.compiles else self._reference)(train, feeds)

    def _reference(self, train: bool, feeds: dict[str, Array]) -> tuple[Array, ...]:
        """One pass node by node."""
        batch = len(feeds["x"])
        graph = self._graphs.get_or_make((train, batch), lambda: self.wire(batch, train))
        graph.passes = self.passes
        done = graph.run(**feeds)
        if train:
            self._store(done, done.results[0])
            one = self.device.xp.ones((), dtype=self.device.dtype)
            for name, grad in done.backward(one).items():
                self._grads[name][...] = grad
        return done.results

    def _compiled(self, train: bool, feeds: dict[str, Array]) -> tuple[Array, ...]:
        """One pass by the plan for this many images."""
        batch, labels = len(feeds["x"]), feeds["t"].dtype if train else None
        plan = self._plans.get_or_make((train, batch), lambda: self.plan(train, batch, labels))
        results = plan.run(feeds, self.passes)
        if train:
            self._store(plan, results[0])
        return results

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
                with self._lock, DeferSignals(), self.device.limits():
                    plan.run({"x": self._images(x), "t": self._labels(t, batch)}, 0)
                return plan.grads

            return compiled
        graph = self.wire(batch, train=True)

        def reference(x: Any, t: Any) -> Mapping[str, Array]:
            with self.device.limits():
                done = graph.run(x=self._images(x), t=self._labels(t, batch))
                return done.backward(self.device.xp.ones((), dtype=self.device.dtype))

        return reference

    def _store(self, done: Pass | Plan, loss: Array) -> None:
        """Update the running statistics, unless one bad batch would spoil them."""
        if self.device.xp.isfinite(loss):
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
        with self._lock:
            return {name: self.device.host(leaf.value).copy() for name, leaf in leaves.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take all parameters and running statistics from arrays by name.

        Raises:
            UserError: when a name is missing or unknown, or a shape differs; nothing is changed then.
        """
        leaves = {**self._parameters, **self._buffers}
        check_state(self.name, {name: tuple(leaf.value.shape) for name, leaf in leaves.items()}, state)
        with self._lock, DeferSignals():
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
