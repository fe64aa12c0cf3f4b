"""`Network`: passes of layers wired into one graph, with the parameters in one buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from threading import RLock, Thread, current_thread
from typing import Any

from nl_layers import FlatDict, Layer, Loss, SigmoidWithLoss, SoftmaxWithLoss
from nl_layers.labels import checked_labels
from nl_layers.module import Module
from nl_layers.optimizers import Optimizer
from nl_models.curvature import Curvature
from nl_models.fork import prepare_for_forks
from nl_models.names import name_leaves
from nl_models.ownership import own, refuse_new_arrays, refuse_new_leaves
from nl_models.recent import RecentlyUsed
from nl_models.recorded_update import recorded_update, update_key
from nl_models.results import Enqueued, TrainOutput
from nl_models.summary import Summary, summarise
from nl_models.weights import check_state, load_state, save_state
from nl_models.wiring import Wiring
from nl_nodes import Device, Graph, Pass, ShapeError, UserError, backend_of
from nl_nodes.compiler import CompileSpec, Plan, Update, compile_graph
from nl_nodes.signals import DeferSignals
from nl_nodes.typing import Array, Shape

# Evaluation runs in batches of this size, so that its memory does not grow with the data set.
EVAL_BATCH = 256

BATCH_SIZES = 8
"""Size of the cache of graphs and plans, keyed by mode and batch size."""

# Attributes that a copy creates anew; the layers hold the values.
NOT_COPIED = {"_params", "_grads", "_graphs", "_plans", "_forked", "_seen", "_wired", "_lock"}
NOT_COPIED |= {"_values", "_grads_owner", "_copy_grads", "finite_so_far"}


class Network(Wiring):
    """A sequence of layers that ends in logits and a loss.

    Created by `Sequential`, or by `build` and the functions of `nl_models.zoo`. Calling it predicts.

    Thread-safe: passes run one at a time, and a signal such as Ctrl-C is handled before or after a pass. Copies
    (`copy`, `deepcopy`, `pickle`) have the weights, settings, running statistics and number of passes, and share no
    memory with the original. Nor does a network in a forked process; arrays taken from it before the fork are stale
    there. A fork while another thread is in a pass that is not compiled hangs in OpenBLAS, unless `threads` is 1.

    Args:
        layers: pairs of a layer and the number in its parameters' names.
        spec: arguments of `build` that create this network again.
        device: device of the network, which sets its dtype.
        loss: loss on the logits.

    Attributes:
        params: W1, b1, gamma1, ... as live views of one buffer; set values are copied into it (see `nl_layers.Params`).
        passes: number of training passes so far, which dropout masks depend on; set it to replay a pass.
    """

    def __init__(
        self, layers: Sequence[tuple[Layer, int]], spec: Mapping[str, Any], device: Device, loss: Loss | None = None
    ) -> None:
        super().__init__(layers, spec, loss or SoftmaxWithLoss())
        self.device = device
        self.passes = 0
        self._parameters, self._buffers = name_leaves(layers)
        self._prepare()
        self.wire(1, train=False)
        own(self, self.layers)

    def _prepare(self) -> None:
        """Allocate the arrays and create the state that copies do not share."""
        shapes = {name: tuple(leaf.value.shape) for name, leaf in self._parameters.items()}
        self._params, self._grads = FlatDict(shapes, self.device.zeros), FlatDict(shapes, self.device.zeros)
        for name, leaf in self._parameters.items():
            self._params[name] = leaf.value
        statistics = [self._shared_copy(buffer.value) for buffer in self._buffers.values()]
        self._lock = RLock()
        self._set_arrays([self._params.flat, self._grads.flat, *statistics])
        self._forked = False
        self._seen: tuple[object, ...] = ()  # the layers, and `Module.latest_change`, when they were last compared
        self._wired = self._wiring()
        prepare_for_forks(self)

    def _arrays(self) -> list[Array]:
        """Return the buffers of parameters and gradients, and the running statistics."""
        return [self._params.flat, self._grads.flat, *(buffer.value for buffer in self._buffers.values())]

    def _set_arrays(self, arrays: Sequence[Array]) -> None:
        """Use these arrays, with their values, for parameters, gradients and running statistics."""
        self._params.move(arrays[0])
        self._grads.move(arrays[1])
        for name, leaf in self._parameters.items():
            leaf.value = self._params[name]
        for buffer, array in zip(self._buffers.values(), arrays[2:], strict=True):
            buffer.value = array
        self._values = [(leaf, leaf.value) for leaf in (*self._parameters.values(), *self._buffers.values())]
        self._graphs: RecentlyUsed[tuple[bool, int, bool], Graph] = RecentlyUsed(BATCH_SIZES)
        self._plans: RecentlyUsed[tuple[Any, ...], Plan] = RecentlyUsed(BATCH_SIZES)
        self._grads_owner: Thread | None = None  # the thread that uses the gradients' buffer
        self._copy_grads = False  # whether a second thread has called since

    def _shared_copy(self, array: Array) -> Array:
        """Return a copy of the array in memory of this device that all workers share."""
        copy = self.device.zeros(array.size).reshape(array.shape)
        copy[...] = self.device.array(backend_of([array]).host(array))
        return copy

    def copies_for_fork(self) -> list[Array]:
        """Return copies of all arrays for `leave_parent`; none if no memory is shared, or a GPU has it."""
        shared = self.device.compiles and self.device.card is None
        return [array.copy() for array in self._arrays()] if shared else []

    def leave_parent(self, copies: Sequence[Array]) -> None:
        """In a forked child, replace the memory shared with the parent by these copies."""
        self._lock = RLock()  # a thread of the parent may hold the old one
        if copies:
            self._set_arrays(copies)
            self._forked = True

    def _share_after_fork(self) -> None:
        """After a fork, move the arrays to memory shared with this process's workers; lazily, as few need it."""
        if self._forked:
            self._forked = False
            self._set_arrays([self._shared_copy(array) for array in self._arrays()])

    def _discard_stale(self) -> None:
        """Discard graphs and plans if the loss, a layer or a setting has changed since they were created.

        Raises:
            UserError: where a `Parameter`, or the array of one, was replaced.
        """
        refuse_new_arrays(self.name, self._values)
        seen = (*self.layers, self.loss_layer, Module.latest_change)
        if seen == self._seen:  # no layer of any network has changed
            return
        wiring = self._wiring()
        if wiring != self._wired:
            refuse_new_leaves(self.name, self.layers, [leaf for leaf, _ in self._values])
            self._graphs.clear()
            self._plans.clear()
            self._grads.flat[...] = 0  # no pass writes those of parameters that are no longer used
            self._wired = wiring
        self._seen = seen

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in NOT_COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()
        own(self, self.layers)

    def __copy__(self) -> Network:
        return deepcopy(self)

    def on(self, device: Device) -> Network:
        """Return an independent copy on another device, in its dtype."""
        copy: Network = object.__new__(type(self))
        copy.__setstate__({**deepcopy({**self.__getstate__(), "device": None}), "device": device})
        return copy

    @property
    def params(self) -> FlatDict:
        """The parameters by name, as live views of one buffer."""
        self._share_after_fork()
        return self._params

    @params.setter
    def params(self, values: Mapping[str, Any]) -> None:
        self.params.assign(values)

    def __call__(self, x: Any) -> Array:
        """Return the logits of images, see `predict`."""
        return self.predict(x)

    def predict(self, x: Any) -> Array:
        """Return the logits (N, classes) of images x (N, C, H, W), in inference mode."""
        x = self._images(x)
        with self._lock:  # no training pass between two batches
            batches = [self._infer(x[i : i + EVAL_BATCH]) for i in range(0, len(x), EVAL_BATCH)]
        if not batches:
            return self.device.xp.zeros((0, self.classes), dtype=self.device.dtype)
        return batches[0] if len(batches) == 1 else self.device.xp.concatenate(batches)

    def loss(self, x: Any, t: Any) -> float:
        """Return the mean loss of images x with labels t, in inference mode."""
        return self.evaluate(x, t)[0]

    def accuracy(self, x: Any, t: Any) -> float:
        """Return the fraction of images x whose largest logit is at the label t, in inference mode."""
        return self.evaluate(x, t)[1]

    def evaluate(self, x: Any, t: Any) -> tuple[float, float]:
        """Return mean loss and accuracy of images x with labels t, in inference mode."""
        if not len(x):
            raise UserError(f"{self.name}: cannot evaluate on no images")
        logits, labels = self.predict(x), self._labels(t, len(x))
        shapes = (tuple(logits.shape), tuple(labels.shape))
        graph = self.loss_layer.graph(shapes, train=False)  # a new graph, for this thread
        loss = float(graph.forward(x=logits, t=labels))
        return loss, self.count_correct(logits, labels) / len(x)

    def count_correct(self, logits: Array, t: Any) -> int:
        """Return the number of rows of logits (N, classes) whose argmax is that of the label t.

        With one logit per row and `SigmoidWithLoss`, a row is correct if its logit is above 0 just when its target is
        above 0.5.
        """
        return int(self._hits(logits, self._labels(t, len(logits))))

    def _hits(self, logits: Array, t: Array) -> Array:
        if self.classes == 1 and isinstance(self.loss_layer, SigmoidWithLoss):
            return ((logits > 0) == (t > 0.5)).sum()
        return (logits.argmax(axis=1) == (t if t.ndim == 1 else t.argmax(axis=1))).sum()

    def gradient(self, x: Any, t: Any) -> FlatDict:
        """Return the loss's gradient by parameter in training mode, valid until the same thread's next call."""
        return self.step(x, t).grads

    def step(self, x: Any, t: Any) -> TrainOutput:
        """Run a training pass, forward and backward, on images x (N, C, H, W) with labels t.

        Labels are class indices (N,), or rows (N, classes), one-hot or soft; see `nl_layers.labels.checked_labels`.
        """
        x, t = self.batch(x, t)
        with self._lock, DeferSignals(), self.device.limits():
            self._assign_gradients()
            loss, logits = self._train(x, t)
            return TrainOutput(loss, logits, self._copy_gradients() if self._copy_grads else self._grads)

    def hessian_product(self, x: Any, t: Any, v: Mapping[str, Any], batch_size: int | None = None) -> FlatDict:
        """Return the loss's Hessian times v, both by parameter name, exact up to rounding; see `Curvature`.

        The loss is that of a step on images x with labels t, in pieces of at most `batch_size` images; the pass is not
        counted, and running statistics do not change.
        """
        return Curvature(self, x, t, batch_size).named_product(v)

    @cached_property
    def finite_so_far(self) -> Array:
        """0, or NaN from the first enqueued pass on that was not finite; nothing changes until it is set to 0 again."""
        return self.device.zeros(1).reshape(())

    def enqueue(self, optimizer: Optimizer, x: Any, t: Any, weight_decay: float = 0.0) -> Enqueued:
        """Enqueue a training pass with weight decay and the optimizer's step, one graph on a GPU; do not wait for it.

        Labels are those of `step`, of the host: others are waited for. See `finite_so_far` for passes not finite.

        Raises:
            UserError: without a GPU, for an optimizer that is not elementwise, and if it reads `lr` or `steps` instead
                of `now`.
        """
        if self.device.card is None:
            raise UserError(f"{self.name}: enqueue needs compiled graphs on a GPU: take step, then optimizer.update")
        if not optimizer.elementwise:
            kind = type(optimizer).__name__
            raise UserError(f"{kind} is not elementwise, so a GPU does not record it: take step, then optimizer.update")
        x, t = self.batch(x, t)
        with self._lock, DeferSignals(), self.device.limits():
            self._discard_stale()
            self._assign_gradients()
            optimizer.begin(self._params, self._grads)
            update = recorded_update(optimizer, self._params, self._grads, weight_decay, self.finite_so_far)
            key = (True, len(x), t.ndim == 2, update_key(optimizer, weight_decay))
            plan = self._plans.get_or_make(key, lambda: self.plan(*key[:2], rows=key[2], update=update))
            loss, logits = plan.run({"x": x, "t": t, **optimizer.now}, self.passes)
            self.passes += 1
            return Enqueued(loss, self._hits(logits, plan.inputs["t"]), plan.finite)

    def _assign_gradients(self) -> None:
        """Give the gradients' buffer to the calling thread; once a second thread calls, return copies to all.

        The first thread keeps its buffer, which no pass writes to from then on.
        """
        if self._grads_owner is None:
            self._grads_owner = current_thread()
        elif self._grads_owner is not current_thread() and not self._copy_grads:
            self._copy_grads = True
            self._grads = FlatDict(self._grads.shapes(), self.device.zeros)
            self._plans.clear()

    def _train(self, x: Array, t: Array) -> tuple[Array, ...]:
        """Run a training pass and count it."""
        results = self._pass(True, {"x": x, "t": t})
        self.passes += 1
        return results

    def _infer(self, x: Array) -> Array:
        with DeferSignals(), self.device.limits():
            return self._pass(False, {"x": x})[0]

    def _copy_gradients(self) -> FlatDict:
        grads = FlatDict(self._grads.shapes(), lambda size: self.device.xp.empty(size, dtype=self.device.dtype))
        grads.flat[...] = self._grads.flat
        return grads

    def _pass(self, train: bool, feeds: dict[str, Array]) -> tuple[Array, ...]:
        """Run a pass, compiled or node by node, and return the outputs of its graph."""
        self._discard_stale()
        return (self._compiled if self.device.compiles else self._reference)(train, feeds)

    def _reference(self, train: bool, feeds: dict[str, Array]) -> tuple[Array, ...]:
        """Run a pass node by node."""
        key = (train, len(feeds["x"]), train and feeds["t"].ndim == 2)
        graph = self._graphs.get_or_make(key, lambda: self.wire(key[1], train, rows=key[2]))
        graph.passes = self.passes
        result = graph.run(**{name: self.device.backend.array(array) for name, array in feeds.items()})
        if train:
            self._store(result, result.results[0])
            one = self.device.xp.ones((), dtype=self.device.dtype)
            for name, grad in result.backward(one).items():
                self._grads[name][...] = grad
        return result.results

    def _compiled(self, train: bool, feeds: dict[str, Array]) -> tuple[Array, ...]:
        """Run a pass with the plan for this batch size."""
        key = (train, len(feeds["x"]), train and feeds["t"].ndim == 2)
        plan = self._plans.get_or_make(key, lambda: self.plan(train, key[1], rows=key[2]))
        results = plan.run(feeds, self.passes)
        if plan.finite is None:
            finite = self.device.finite(results[-1], *([self._grads.flat] if train else []))
        else:
            finite = bool(plan.finite)
        if not finite:
            return self._reference(train, feeds)  # see docs/decisions/0017-not-finite.md
        if train and plan.finite is None:
            self._store(plan, results[0])
        return results

    def plan(self, train: bool, batch: int, *, rows: bool = False, update: Update | None = None) -> Plan:
        """Return the compiled graph for a batch; the arguments are those of `wire` and of `CompileSpec`."""
        feeds: dict[str, tuple[Shape, Any]] = {"x": ((batch, *self.input_shape), self.device.dtype)}
        if train:
            feeds["t"] = (self._label_shape(batch, rows), self.device.dtype if rows else "int64")
        self._share_after_fork()
        graph = self.wire(batch, train, rows=rows)
        spec = CompileSpec(feeds, frozenset(feeds), self._grads if train else None, update)
        return compile_graph(graph, spec, self.device.executor)

    def _store(self, run: Pass | Plan, loss: Array) -> None:
        """Update the running statistics, unless the loss is not finite."""
        if self.device.xp.isfinite(loss):
            run.store_updates()

    def batch(self, x: Any, t: Any) -> tuple[Array, Array]:
        """Return images and labels of a training pass, checked."""
        x = self._images(x)
        if not len(x):
            raise UserError(f"{self.name}: cannot train on a batch of no images")
        return x, self.device.feed(self._checked(t, len(x)))

    def _images(self, x: Any) -> Array:
        x = self.device.feed(x, self.device.dtype)
        if tuple(x.shape[1:]) != self.input_shape:
            shape = ", ".join(map(str, ("N", *self.input_shape)))
            raise ShapeError(f"{self.name}: needs images ({shape}), got {tuple(x.shape)}")
        return x

    def _labels(self, t: Any, count: int) -> Array:
        """Return labels as int64 (N,), or rows (N, classes) in the network's dtype; see `checked_labels`."""
        t = self._checked(t, count)
        return self.device.labels(t) if t.ndim == 1 else self.device.array(t)

    def _checked(self, t: Any, count: int) -> Array:
        return checked_labels(self.name, t, (count, self.classes), self.loss_layer.largest)

    def summary(self, batch: int = 1) -> Summary:
        """Return each layer's output shape, parameters, operations and bytes in a training step on `batch` images.

        Both graphs are counted, the reference and the compiled one; the result prints as a table.
        """
        return summarise(self, batch)

    def state_dict(self) -> dict[str, Any]:
        """Return host copies of all parameters and running statistics by name."""
        leaves = {**self._parameters, **self._buffers}
        refuse_new_arrays(self.name, self._values)
        with self._lock:
            return {name: self.device.host(leaf.value).copy() for name, leaf in leaves.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy all parameters and running statistics from arrays by name.

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
        """Read a file written by `save`; raise `UserError` if it is missing, corrupt or of another model."""
        self.load_state_dict(load_state(path))

    def __repr__(self) -> str:
        count = self.params.flat.size
        return f"{self.name}(input {self.input_shape}, {self.classes} classes, {count:,} parameters)"
