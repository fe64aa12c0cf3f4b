"""The chain of comparisons ("links") from numerical gradients to training steps.

Each link compares two implementations, within a limit so small that an error in either one exceeds it.

- nodes: the backward of each node in isolation, with the complex step through its forward;
- reference: the gradient of the whole network run node by node, with the complex step, at each batch size;
- plan: the compiled plan in float64, with the reference, over several passes;
- precision: the calls of the training plan, with those of the float64 plan; they may differ in item size only;
- executor: the bits of a training pass, with those of its calls run one after another without shared memory;
- device: on a GPU, in place of precision and executor: its passes in float64 and in the training dtype, with the
  reference;
- bits: on a GPU: the bits of a training pass, with those of its repetition, and of its calls launched one by one;
- inference: the logits in evaluation, with those of the reference;
- step: a short training in float64, with the textbook formulas;
- trainer: a short training on the training device and dtype, with the textbook formulas for the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache, cached_property, partial
from typing import Any

import numpy as np

from nl_layers import FlatDict
from nl_layers.optimizers import Optimizer
from nl_models import Network
from nl_models.network import EVAL_BATCH
from nl_nodes import Graph, Pass
from nl_nodes.compiler import RULES, rewrite
from nl_nodes.compiler.lower.lower import CompileSpec, Lowering
from nl_nodes.compiler.plan import lower
from nl_nodes.verify import DirectionalCheck, Link, first_wrong, through_all
from nl_nodes.verify.replay import Replay, RoughReplay
from nl_nodes.verify.rounding import ROUGH_PASSES, length, rough_passes, rounding
from nl_nodes.verify.tapes import first_difference
from nl_training.verification.bits import other_bits, run_otherwise
from nl_training.verification.distance import FAR, LOGITS, LOSS, Arrays, arrays_of, furthest, in_units, step_arrays
from nl_training.verification.points import KINKS, PASSES, POINTS, RANDOM, TRAINING, NotComparable, Point, make_point
from nl_training.verification.steps import (
    STEPS,
    Training,
    batches_beside_textbook,
    exercised,
    training_beside_textbook,
    updates_beside_textbook,
)
from nl_training.verification.textbook import Textbook, logits_of
from nl_training.verification.twins import (
    compiled_twin,
    gpu_of,
    gpu_twin,
    loss_terms,
    passes_differ,
    product_cut,
    slices,
    twin,
    unchanged,
    workers,
)

TOLERANCE = 1e-10
# Relative to the length of a step. Optimizers that divide gradients by their size amplify the rounding of tiny ones.
STEP_TOLERANCE = 1e-6
# So small that the steps of no optimizer amplify rounding errors. It replaces the training's rate, since a step is
# compared in units of its own length.
LR = 1e-5
# Factors for the weights and the share of weights for each, so that large weights are checked too.
FACTORS, SHARES = (1.0, 8.0), (0.9, 0.1)
# Limits by training dtype, where rounding carries no value over a kink.
DTYPE_LIMITS = {"float32": 1e-3, "float64": 1e-9}
TF32_LIMIT = 0.05
"""The limit where a GPU rounds factors to TF32."""
GPU_TOLERANCE = 1e-12
"""The limit for a GPU's passes in float64."""
ON_GPU = ("device", "bits")
"""The kinds of links that are checked on a GPU only."""


class Chain:
    """The links for one network at its current weights; it is not changed.

    Args:
        net: the network about to train.
        small: the batch size for checks that do not depend on it.
        training: the training about to start; without it there are no links.
    """

    def __init__(self, net: Network, small: int, training: Training | None) -> None:
        self.net, self.small, self.training = net, small, training
        self.workers = workers(net)
        self._known: dict[tuple[int, str, int], dict[str, Any]] = {}

    @cached_property
    def reference(self) -> Network:
        """A copy of the network in float64 that runs node by node."""
        return twin(self.net)

    @cached_property
    def exact(self) -> Network:
        """A copy of the network in float64, compiled like the network."""
        return compiled_twin(self.net)

    @cached_property
    def spare(self) -> Network:
        """A second such copy, whose calls are replayed with random errors."""
        return compiled_twin(self.net)

    @cached_property
    def _double(self) -> Network:
        """The network in float64 on its own GPU: itself or a copy."""
        return self.net if self.net.device.dtype == "float64" else gpu_twin(self.net)

    def links(self) -> dict[str, Callable[[], Link]]:
        """Return a function for every link, by the link's name, in the order in which to call them."""
        found: dict[str, Callable[[], Link]] = {}
        if (training := self.training) is None:
            return found

        def add(check: Callable[[Point, str], Link], kind: str, count: int, what: str, point: str) -> None:
            mixed = training.mixed and kind not in ("inference", "step", "trainer")
            what += ", mixed labels" * mixed
            name = Link(kind, count, what, "", 0.0, 0.0).name
            found[name] = lambda: check(make_point(self.net, count, point, train, mixed), what)

        train, device, workers = training.train, self.net.device, f"{self.workers} workers"
        executor = type(device.executor).__name__.lower() if device.compiles else "reference"
        how = f"{workers}, {executor}" if device.name == "cpu" else gpu_of(self.net) or device.name
        for point in (RANDOM, TRAINING):
            add(self.nodes, "nodes", self.small, point, point)
        for count in sorted(training.sizes):
            for point in POINTS:
                add(self.against_complex_step, "reference", count, point, point)
                add(self.plan, "plan", count, f"{point}, {workers}", point)
            if device.name == "cpu":
                add(self.precision, "precision", count, workers, RANDOM)
                add(self.executor, "executor", count, how, RANDOM)
            else:
                for point in POINTS:
                    add(partial(self.device, "float64"), "device", count, f"{point}, {how}, float64", point)
                if device.dtype != "float64":
                    add(partial(self.device, device.dtype), "device", count, f"{RANDOM}, {how}", RANDOM)
                add(self.bits, "bits", count, how, RANDOM)
        for count in sorted(training.evaluated):
            add(self.inference, "inference", min(count, EVAL_BATCH + count % EVAL_BATCH), how, RANDOM)
        few = STEPS * training.accumulated * (self.small + 1) - 1
        add(self.step, "step", few, f"{training.step}, {training.epochs:g} epochs", RANDOM)
        add(self.trainer, "trainer", few, f"{training.step}, {how}", RANDOM)
        return found

    @property
    def limit(self) -> float:
        """The largest distance of the training device and dtype from float64, where no value crosses a kink."""
        device = self.net.device
        return TF32_LIMIT if device.tf32 and device.dtype == "float32" else DTYPE_LIMITS[device.dtype]

    def nodes(self, point: Point, what: str) -> Link:
        """Check the backward of each node on its inputs in the network."""
        graph = self.reference.wire(len(point.x), train=True, rows=point.rows)
        fault = first_wrong(graph, point.feeds)
        where, distance = ("", 0.0) if fault is None else (f"{fault.node!r} of {fault.node.path}", fault.residual.value)
        return _link("nodes", point, what, where, distance)

    def against_complex_step(self, point: Point, what: str) -> Link:
        """Check the reference's gradient along one direction through all parameters."""
        direction = through_all(np.random.default_rng(len(point.x)), self.reference.params)
        grads = self._reference_step(point, 0)
        product = DirectionalCheck(loss_terms(self.reference, **point.feeds)).along(grads, direction)
        distance = product.residual
        if not distance <= TOLERANCE:
            noise = self._rough_noise(point, 0, self.reference.state_dict())
            # A sum, since one rounding error early on moves the gradients of many parameters together.
            distance = min(distance, TOLERANCE * in_units(product.difference, sum(map(noise, direction))))
        return _link("reference", point, what, "the gradient", distance)

    def plan(self, point: Point, what: str) -> Link:
        """Compare loss, logits, gradients and running statistics over several passes in a row."""
        worst = ("", 0.0)
        self._restore(self.exact, point.name)
        for number in PASSES if point.name == RANDOM else PASSES[:1]:
            self.exact.passes, state = number, self.exact.state_dict()
            found, expected = step_arrays(self.exact, point.x, point.t), self._reference_step(point, number)
            noise = self._noise(point, number, state)
            worst = max(worst, furthest(expected, found, TOLERANCE, noise), key=lambda w: w[1])
        return _link("plan", point, what, *worst)

    def precision(self, point: Point, what: str) -> Link:
        """Compare the calls of the training plan with those of the float64 plan."""
        difference = first_difference(self._recording(self.net, point), self._recording(self.exact, point))
        return _link("precision", point, what, difference, FAR if difference else 0.0, 0.0)

    def executor(self, point: Point, what: str) -> Link:
        """Compare a pass of the network with its calls run one after another, bit for bit, on each kind of images.

        The network's state must be the same afterwards.
        """
        assert self.training is not None
        net, alone, wrong = self.net, self._alone(point), ""
        with unchanged(net):
            state = net.state_dict()
            for number, images in zip(PASSES, POINTS, strict=True):
                given = make_point(net, len(point.x), images, self.training.train, point.rows)
                with net.device.limits():
                    expected = {**state, **alone(given, number)}
                net.passes = number
                found = step_arrays(net, given.x, given.t)
                wrong = wrong or other_bits(expected, found)
        wrong = wrong or other_bits(state, net.state_dict())
        return _link("executor", point, what, wrong, FAR if wrong else 0.0, 0.0)

    def _alone(self, point: Point) -> Callable[[Point, int], dict[str, Any]]:
        """Return a function that computes gradients, new statistics, loss and logits without the network's executor."""
        dtype = self.net.device.dtype
        graph = self.net.wire(len(point.x), train=True, rows=point.rows)

        def reference(given: Point, number: int) -> dict[str, Any]:
            graph.passes = number
            return arrays_of(graph.run(x=given.x.astype(dtype), t=given.t))

        if not self.net.device.compiles:
            return reference
        replay = Replay(self._recording(self.net, point), product_cut(self.net))

        def replayed(given: Point, number: int) -> dict[str, Any]:
            found = _replayed(replay, given.x.astype(dtype), given.t, number)
            # The network repeats a pass that is not finite node by node.
            finite = all(np.isfinite(found[name]).all() for name in (LOGITS, *replay.grads))
            return found if finite else reference(given, number)

        return replayed

    def device(self, dtype: str, point: Point, what: str) -> Link:
        """Compare passes on the GPU with the reference's, up to rounding; the training plan's own in its dtype."""
        double = dtype == "float64"
        net, limit = self._double if double else self.net, GPU_TOLERANCE if double else self.limit
        numbers = PASSES if point.name == RANDOM else PASSES[:1]
        expected = [self._reference_step(point, number) for number in numbers]
        worst = ("", 0.0)
        with unchanged(net):
            self._restore(net, point.name)
            for number, values in zip(numbers, expected, strict=True):
                net.passes, state = number, net.state_dict()
                found = step_arrays(net, point.x, point.t)
                noise = self._noise(point, number, state) if double else self._rough_noise(point, number, state, dtype)
                worst = max(worst, furthest(values, found, limit, noise), key=lambda w: w[1])
        return _link("device", point, what, *worst, limit)

    def bits(self, point: Point, what: str) -> Link:
        """Compare the bits of passes on each kind of images with those of two other runs of them; see `bits.py`."""
        assert self.training is not None
        wrong = run_otherwise(self.net, len(point.x), self.training.train, point.rows)
        return _link("bits", point, what, wrong, FAR if wrong else 0.0, 0.0)

    def inference(self, point: Point, what: str) -> Link:
        """Compare the logits of a batch of repeated images with the reference's logits of each image alone."""
        self._restore(self.reference)
        some = point.x[: self.small]
        expected = np.resize(logits_of(self.reference, some), (len(point.x), self.net.classes))
        found = self.net.device.host(self.net.predict(np.resize(some, point.x.shape)))
        difference = float(np.abs(found - expected).max())
        off = in_units(difference, length(expected) / np.sqrt(expected.size))
        if not off <= self.limit:
            rough = (logits_of(self.reference, some, run) for run in rough_passes(self.net.device.dtype))
            noise = rounding(expected[: len(some)], *rough, dtype=self.net.device.dtype)
            off = min(off, self.limit * in_units(difference, noise))
        return _link("inference", point, what, LOGITS, off, self.limit)

    def step(self, point: Point, what: str) -> Link:
        """Compare a short training in float64, and many updates by its optimizer and schedule, with the textbook's."""
        assert self.training is not None
        self._restore(self.exact)
        optimizer = deepcopy(self.training.optimizer)
        optimizer.lr = LR
        found = [batches_beside_textbook(self.training), updates_beside_textbook(self.training, STEP_TOLERANCE)]
        found.append(self._train(self.exact, optimizer, point, STEP_TOLERANCE))
        return _link("step", point, what, *max(found, key=lambda w: w[1]), STEP_TOLERANCE)

    def trainer(self, point: Point, what: str) -> Link:
        """Compare a short training on the training device with the textbook's for the same gradients."""
        assert self.training is not None
        net = self.net.on(self.net.device)
        self._restore(net)
        worst = self._train(net, deepcopy(self.training.optimizer), point, self.limit)
        return _link("trainer", point, what, *worst, self.limit)

    def _train(self, net: Network, optimizer: Optimizer, point: Point, limit: float) -> tuple[str, float]:
        """Return the array with the largest difference in a short training; see `training_beside_textbook`."""
        assert self.training is not None
        rng = np.random.default_rng(0)
        for value in net.params.values():  # no zero biases, since weight decay does not change them
            value += net.device.array(rng.uniform(0.05, 0.1, value.shape) * (value.ndim == 1))
        self.reference.load_state_dict(net.state_dict())
        reference = self.reference.on(self.reference.device)
        short = exercised(self.training, net, point)
        book = Textbook(net, reference, optimizer, short.weight_decay, short.regularization.clip_norm)

        def noise(x: Any, t: Any, number: int, state: Arrays) -> Callable[[str], float]:
            batch = Point("", np.asarray(x, np.float64), t)
            if net.device.dtype == "float64":
                return self._noise(batch, number, state)
            return self._rough_noise(batch, number, state, self.net.device.dtype)

        return training_beside_textbook(net, book, optimizer, short, point, limit, noise)

    def _restore(self, copy: Network, point: str = RANDOM) -> None:
        """Load the network's state into a copy, before its first pass; for zeros and ties, scale up some weights."""
        copy.load_state_dict(self.net.state_dict())
        copy.passes = 0
        if point == KINKS:
            rng = np.random.default_rng(0)
            for value in copy.params.values():
                value *= copy.device.array(rng.choice(FACTORS, value.shape, p=SHARES))

    def _reference_step(self, point: Point, number: int) -> dict[str, Any]:
        """Return gradients, running statistics, loss and logits of the reference's pass, cached."""
        key = (len(point.x), point.name, number if self._changes else 0)
        if key not in self._known:
            if number == 0:
                self._known.clear()
                self._restore(self.reference, point.name)
            self.reference.passes = number
            self._known[key] = self._sliced(point, lambda x, t: step_arrays(self.reference, x, t))
        return self._known[key]

    def _noise(self, point: Point, number: int, state: Arrays) -> Callable[[str], float]:
        """Return an estimate of each array's rounding error, both node by node and compiled."""
        rough = self._rough_noise(point, number, state)
        if not self.net.device.compiles:
            return rough

        @cache
        def replayed() -> list[Arrays]:
            self.spare.load_state_dict(state)
            kinds: list[Callable[[Lowering], Replay]] = [Replay]
            kinds += [partial(RoughReplay, seed=seed) for seed in range(ROUGH_PASSES)]
            return [_replayed(kind(self._recording(self.spare, point)), point.x, point.t, number) for kind in kinds]

        def noise(name: str) -> float:
            found = [arrays[name] for arrays in replayed() if name in arrays]  # a wrong plan may lack a parameter
            return rough(name) + (rounding(*found) if found else 0.0)

        return noise

    def _rough_noise(
        self, point: Point, number: int, state: Mapping[str, Any], dtype: str = "float64"
    ) -> Callable[[str], float]:
        """Return an estimate of each array's rounding error node by node, from rough passes."""

        def step(x: Any, t: Any, run: Callable[[Graph, Mapping[str, Any]], Pass]) -> Arrays:
            graph = self.reference.wire(len(x), train=True, rows=point.rows)
            graph.passes = number
            held = {name: np.asarray(value, np.float64) for name, value in state.items() if name in graph.leaves}
            return arrays_of(run(graph, {"x": x, "t": t, **held}))

        @cache
        def steps() -> list[Arrays]:
            return [self._sliced(point, partial(step, run=run)) for run in (Pass, *rough_passes(dtype))]

        return lambda name: rounding(*(arrays[name] for arrays in steps()), dtype=dtype)

    def _sliced(self, point: Point, run: Callable[[Any, Any], Arrays]) -> Arrays:
        """Return the arrays of a batch, combined from its slices; a batch with running statistics is one slice."""
        found: Arrays = {}
        logits = []
        for x, t, share in slices(self.reference, point.x, point.t):
            for name, value in run(x, t).items():
                if name == LOGITS:
                    logits.append(value)
                else:
                    found[name] = found.get(name, 0.0) + share * value
        return {**found, LOGITS: np.concatenate(logits)}

    @cached_property
    def _changes(self) -> bool:
        return passes_differ(self.reference)

    def _recording(self, net: Network, point: Point) -> Lowering:
        graph = net.wire(len(point.x), train=True, rows=point.rows)
        dtype = net.device.dtype
        feeds = {"x": (point.x.shape, dtype), "t": (point.t.shape, dtype if point.rows else point.t.dtype)}
        grads = FlatDict({n: p.shape for n, p in net.params.items()}, lambda size: np.zeros(size, dtype))
        compiled = rewrite(graph, RULES) if net.device.compiles else graph
        try:
            spec = CompileSpec(feeds, frozenset(feeds), grads)
            return lower(compiled, spec, self.workers, panels=product_cut(self.net) is not None)
        except TypeError as error:  # a user's node that does not compile
            raise NotComparable(str(error)) from None


def _replayed(replay: Replay, x: Any, t: Any, number: int) -> Arrays:
    """Return the arrays of a replayed pass."""
    replay.run({"x": x, "t": t}, number)
    updates = {buffer.name: value for buffer, value in replay.updates.items()}
    found = {**updates, **replay.grads, LOSS: replay.results[0], LOGITS: replay.results[1]}
    return {name: value.copy() for name, value in found.items()}


def _link(kind: str, point: Point, what: str, where: str, distance: float, limit: float = TOLERANCE) -> Link:
    return Link(kind, len(point.x), what, where, min(distance, FAR) if distance == distance else FAR, limit)
