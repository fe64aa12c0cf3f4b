"""The chain from numerical gradients to the steps that train. Each link compares two neighbours, so closely that an
error in either shows.

- nodes: each node's backward alone, against the complex step through its own forward;
- reference: the gradient of the whole network, node by node, against the complex step, at each size of batch;
- plan: the compiled plan in float64 against the reference, over several passes;
- precision: the calls of the plan that trains are those of the float64 plan, but for the size of a number;
- executor: what trains gives the bits of these calls, run one after another with no memory shared;
- step: whole training steps in float64 against a textbook's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nl_layers import FlatDict
from nl_layers.optimizers import Optimizer
from nl_layers.schedules import Schedule
from nl_models import Network
from nl_nodes.compiler import RULES, rewrite
from nl_nodes.compiler.plan import record
from nl_nodes.compiler.record import Recording
from nl_nodes.verify import DirectionalCheck, Link, first_wrong, signs
from nl_nodes.verify.replay import Replay
from nl_nodes.verify.tapes import first_difference
from nl_training.data import Split
from nl_training.verification.points import (
    FAR,
    LOGITS,
    LOSS,
    POINTS,
    RANDOM,
    TRAINING,
    NotComparable,
    Point,
    furthest,
    make_point,
)
from nl_training.verification.steps import steps_beside_textbook
from nl_training.verification.twins import compiled_twin, loss_terms, passes_differ, slices, twin, workers

TOLERANCE = 1e-10
# Of the length of a step: optimizers divide gradients by their own size, and so make rounding of tiny ones large.
STEP_TOLERANCE = 1e-6
PASSES = 3
# Of the gradient on another device, where rounding may carry values over a kink.
DEVICE_LIMITS = {"float32": 0.05, "float64": 1e-9}


@dataclass(frozen=True)
class Training:
    """How a network is about to train.

    Attributes:
        train: the images.
        sizes: how many of them the batches have.
        optimizer: what makes a step, before its first.
        schedule: of its learning rate.
        weight_decay: the penalty's rate.
    """

    train: Split
    sizes: frozenset[int]
    optimizer: Optimizer
    schedule: Schedule
    weight_decay: float

    @property
    def step(self) -> str:
        """What a step is, in words."""
        o = self.optimizer
        settings = ", ".join(f"{k}={v:g}" for k, v in sorted(vars(o).items()) if isinstance(v, float))
        return f"{type(o).__name__}({settings}), {self.schedule}, weight decay {self.weight_decay:g}"


class Chain:
    """The links for one network as it stands; it is not changed.

    Args:
        net: what is about to train.
        small: how many images show what does not depend on the size of a batch.
        training: how it is about to train; without, there is no link.
    """

    def __init__(self, net: Network, small: int, training: Training | None) -> None:
        self.net, self.small, self.training = net, small, training
        self.workers = workers(net)
        self._known: dict[tuple[int, str, int], dict[str, Any]] = {}

    @cached_property
    def reference(self) -> Network:
        """The network in float64, node by node."""
        return twin(self.net)

    @cached_property
    def exact(self) -> Network:
        """The network in float64, in the form that trains."""
        return compiled_twin(self.net)

    def links(self) -> dict[str, Callable[[], Link]]:
        """Every link by its name, to be made in this order."""
        found: dict[str, Callable[[], Link]] = {}
        if self.training is None:
            return found

        def add(check: Callable[[Point, str], Link], kind: str, count: int, what: str, point: str) -> None:
            name = Link(kind, count, what, "", 0.0, 0.0).name
            found[name] = lambda: check(make_point(self.net, count, point, train), what)

        train = self.training.train
        workers = f"{self.workers} workers"
        for point in (RANDOM, TRAINING):
            add(self.nodes, "nodes", self.small, point, point)
        for count in sorted(self.training.sizes):
            for point in POINTS:
                add(self.against_complex_step, "reference", count, point, point)
                add(self.plan, "plan", count, f"{point}, {workers}", point)
            if self.net.device.name == "cpu":
                team = type(self.net.device.team).__name__.lower() if self.net.device.compiles else "reference"
                add(self.precision, "precision", count, workers, RANDOM)
                add(self.executor, "executor", count, f"{workers}, {team}", RANDOM)
            else:
                add(self.other_device, "device", count, self.net.device.name, RANDOM)
        add(self.step, "step", self.small, self.training.step, RANDOM)
        return found

    def nodes(self, point: Point, what: str) -> Link:
        """Each node's backward on the inputs that it has there."""
        graph = self.reference.wire(len(point.x), train=True)
        fault = first_wrong(graph, {"x": point.x, "t": point.t})
        where, distance = ("", 0.0) if fault is None else (f"{fault.node!r} of {fault.node.path}", fault.residual.value)
        return _link("nodes", point, what, where, distance)

    def against_complex_step(self, point: Point, what: str) -> Link:
        """The reference's gradient along one direction of +1 and -1 through all parameters."""
        direction = signs(np.random.default_rng(len(point.x)), self.reference.params)
        grads = self._reference_step(point, 0)
        product = DirectionalCheck(loss_terms(self.reference, point.x, point.t)).along(grads, direction)
        return _link("reference", point, what, "the gradient", product.residual)

    def plan(self, point: Point, what: str) -> Link:
        """Loss, logits, gradients and running statistics of some passes in a row."""
        worst = ("", 0.0)
        self._restore(self.exact)
        for number in range(PASSES if point.name == RANDOM else 1):
            done = self.exact.step(point.x, point.t)
            found = {**self.exact.state_dict(), **done.grads, LOSS: done.loss, LOGITS: done.logits}
            expected = self._reference_step(point, number)
            worst = max(worst, furthest(expected, found), key=lambda w: w[1])
        return _link("plan", point, what, *worst)

    def precision(self, point: Point, what: str) -> Link:
        """The calls that train beside those in float64."""
        difference = first_difference(self._recording(self.net, point), self._recording(self.exact, point))
        return _link("precision", point, what, difference, FAR if difference else 0.0, 0.0)

    def executor(self, point: Point, what: str) -> Link:
        """What the network gives in some passes in a row, beside its calls run one after another, to the bit."""
        net, state, passes = self.net, self.net.state_dict(), self.net.passes
        alone, wrong = self._alone(point), ""
        try:
            for number in range(PASSES):
                with net.device.limits():
                    expected = {**state, **alone(number)}
                net.passes = number
                done = net.step(point.x, point.t)
                found = {**net.state_dict(), **done.grads, LOSS: done.loss, LOGITS: done.logits}
                wrong = wrong or next((n for n, v in found.items() if not np.array_equal(v, expected[n], True)), "")
        finally:
            net.load_state_dict(state)
            net.passes = passes
        return _link("executor", point, what, wrong, FAR if wrong else 0.0, 0.0)

    def _alone(self, point: Point) -> Callable[[int], dict[str, Any]]:
        """What gives the gradients, new statistics, loss and logits of a pass without a network's help."""
        feeds = {"x": point.x.astype(self.net.device.dtype), "t": point.t}
        if not self.net.device.compiles:
            graph = self.net.wire(len(point.x), train=True)

            def reference(number: int) -> dict[str, Any]:
                graph.passes = number
                done = graph.run(**feeds)
                updates = {buffer.name: value for buffer, value in done.updates.items()}
                grads = done.backward(np.ones((), self.net.device.dtype))
                return {**updates, **grads, LOSS: done.results[0], LOGITS: done.results[1]}

            return reference
        replay = Replay(self._recording(self.net, point))

        def compiled(number: int) -> dict[str, Any]:
            replay.run(feeds, number)
            updates = {buffer.name: value.copy() for buffer, value in replay.updates.items()}
            return {**updates, **replay.grads, LOSS: replay.results[0], LOGITS: replay.results[1]}

        return compiled

    def other_device(self, point: Point, what: str) -> Link:
        """What another device gives, beside the reference: as near as rounding lets it be."""
        net, state, passes = self.net, self.net.state_dict(), self.net.passes
        net.passes = 0
        done = net.step(point.x, point.t)
        found = {name: np.asarray(net.device.host(grad), np.float64) for name, grad in done.grads.items()}
        net.load_state_dict(state)
        net.passes = passes
        expected = self._reference_step(point, 0)
        where, distance = furthest({name: expected[name] for name in found}, found)
        return _link("device", point, what, where, distance, DEVICE_LIMITS[net.device.dtype])

    def step(self, point: Point, what: str) -> Link:
        """Some steps of a trainer, each beside a textbook's."""
        assert self.training is not None
        self._restore(self.exact)
        self._restore(self.reference)
        where, distance = steps_beside_textbook(self.exact, self.reference, self.training, point)
        return _link("step", point, what, where, distance, STEP_TOLERANCE)

    def _restore(self, copy: Network) -> None:
        """Let a copy stand where the network stands, before its first pass."""
        copy.load_state_dict(self.net.state_dict())
        copy.passes = 0

    def _reference_step(self, point: Point, number: int) -> dict[str, Any]:
        """Gradients, running statistics, loss and logits of a pass node by node; known ones are not computed again."""
        key = (len(point.x), point.name, number if self._changes else 0)
        if key not in self._known:
            if number == 0:
                self._known.clear()
                self._restore(self.reference)
            self._known[key] = self._sliced_step(point)
        return self._known[key]

    def _sliced_step(self, point: Point) -> dict[str, Any]:
        sums: dict[str, Any] = {}
        logits = []
        for x, t, share in slices(self.reference, point.x, point.t):
            done = self.reference.step(x, t)
            for name, value in {**done.grads, LOSS: done.loss}.items():
                sums[name] = sums.get(name, 0.0) + share * value
            logits.append(done.logits)
        statistics = {n: v for n, v in self.reference.state_dict().items() if n not in self.reference.params}
        return {**sums, **statistics, LOGITS: np.concatenate(logits)}

    @cached_property
    def _changes(self) -> bool:
        return passes_differ(self.reference)

    def _recording(self, net: Network, point: Point) -> Recording:
        graph = net.wire(len(point.x), train=True)
        dtype = net.device.dtype
        feeds = {"x": (point.x.shape, dtype), "t": (point.t.shape, point.t.dtype)}
        grads = FlatDict({n: p.shape for n, p in net.params.items()}, lambda size: np.zeros(size, dtype))
        compiled = rewrite(graph, RULES) if net.device.compiles else graph
        try:
            return record(compiled, feeds, frozenset(feeds), grads, self.workers)
        except TypeError as error:  # a node of the user's own, which runs node by node alone
            raise NotComparable(str(error)) from None


def _link(kind: str, point: Point, what: str, where: str, distance: float, limit: float = TOLERANCE) -> Link:
    return Link(kind, len(point.x), what, where, min(distance, FAR) if distance == distance else FAR, limit)
