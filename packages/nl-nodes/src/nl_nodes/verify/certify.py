"""Make a certificate: every trainable leaf of a graph against the complex step, one after the other, within a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from time import perf_counter
from typing import Any

import numpy as np

from nl_nodes.graph import Graph
from nl_nodes.node import Node
from nl_nodes.verify.certificate import Certificate, Verdict
from nl_nodes.verify.draws import directions
from nl_nodes.verify.fingerprint import code_hash, fingerprint
from nl_nodes.verify.oracles import complex_step
from nl_nodes.verify.tail import node_values, tail

TOLERANCE = 1e-10
DRAWS = 3
# A tensor whose gradient is but the remainder of what cancels is right where it agrees to this share of the largest
# gradient, and to four digits of its own.
CANCELLED, CANCELLED_DIGITS = 1e-13, 1e-4
# Stands in JSON for what is no number.
FAR = 1e300

Feeds = Mapping[str, Any]
Progress = Callable[[str, int, int], None]
"""Is told what is being verified, how many are done, and how many there are."""


class Clock:
    """Tells whether there is time for one more evaluation, from the longest so far."""

    def __init__(self, max_seconds: float) -> None:
        self.began = self._last = perf_counter()
        self._max, self._longest = max_seconds, 0.0

    def tick(self) -> None:
        """An evaluation is done."""
        now = perf_counter()
        self._longest, self._last = max(self._longest, now - self._last), now

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return perf_counter() - self.began

    @property
    def out(self) -> bool:
        """Whether one more might take too long."""
        return self.seconds + self._longest > self._max


def certify(
    graph: Graph,
    feeds: Feeds,
    dy: Any,
    *,
    dtype: str = "float64",
    device: str = "cpu",
    draws: int = DRAWS,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    max_seconds: float = inf,
    mutation: Mapping[str, Any] | None = None,
    modules: Iterable[str] = (),
    known: Iterable[Verdict] = (),
    progress: Progress | None = None,
) -> Certificate:
    """Verify the gradient of every trainable leaf in float64.

    Args:
        graph: its first output is differentiated; what its leaves hold is float64.
        feeds: float64 arrays for its inputs.
        dy: the upstream gradient; of a scalar output best not 1, so that a backward that forgets it is found.
        dtype: what it is said to train in.
        device: what it is said to train on.
        draws: random directions per leaf, 2 or more: the last Gaussian, the others of +1 and -1.
        seed: what they are drawn from.
        tolerance: the largest residual that passes.
        max_seconds: when to stop; leaves that are not reached then are the certificate's `missing_tensors`.
        mutation: the mutation score of the nodes' tests, to be quoted.
        modules: further code that the certificate is about; see `code_hash`.
        known: verdicts of before, to be taken over.
        progress: called after each leaf.
    """
    clock = Clock(max_seconds)
    feeds = {**_held(graph), **feeds}
    grads, values = graph.run(**feeds).backward(dy), node_values(graph, feeds)
    clock.tick()
    # The sizes of all gradients first: what is tiny is judged beside the largest.
    largest = max(map(_scale, grads.values()), default=0.0)
    judge = Judge(graph, feeds, values, dy, tolerance, largest, clock)
    verdicts = {verdict.name: verdict for verdict in known}
    for number, (name, grad) in enumerate(grads.items()):
        if name in verdicts:
            continue
        rng = np.random.default_rng((seed, number))
        verdict = judge.verdict(name, grad, directions(rng, grad.shape, draws))
        if verdict is None:
            break
        verdicts[name] = verdict
        if progress:
            progress(f"{name} {verdict.residual:.1e}", number + 1, len(grads))
    return Certificate(
        fingerprint=fingerprint(graph, modules),
        code=code_hash(graph, modules),
        nodes=len(graph.order),
        edges=sum(len(node.inputs) for node in graph.order),
        dtype=dtype,
        device=device,
        oracle="complex step, float64 and complex128",
        tolerance=tolerance,
        draws=draws,
        seed=seed,
        tensors=tuple(verdicts.values()),
        missing_tensors=tuple(name for name in grads if name not in verdicts),
        structural_zeros=tuple(v.name for v in verdicts.values() if v.verdict == "zero"),
        mutation=mutation,
        gpu="not run",
        seconds=round(clock.seconds, 3),
    )


def _held(graph: Graph) -> dict[str, Any]:
    return {name: leaf.value for name, leaf in graph.leaves.items() if leaf.trainable and leaf.value is not None}


def _shown(value: float) -> float:
    return value if isfinite(value) else FAR


def _scale(grad: Any) -> float:
    """The size that a gradient's product with a random direction has."""
    return float(np.abs(grad).sum() / np.sqrt(max(grad.size, 1)))


@dataclass(frozen=True)
class Judge:
    """Compares the gradients of one graph at one point with the complex step.

    Attributes:
        graph: what is differentiated.
        feeds: float64 arrays for all its inputs and parameters.
        values: what each node gives for these.
        dy: the upstream gradient.
        tolerance: the largest residual that passes.
        largest: the size of the largest gradient of all leaves.
        clock: tells when to stop.
    """

    graph: Graph
    feeds: Feeds
    values: Mapping[Node, Any]
    dy: Any
    tolerance: float
    largest: float
    clock: Clock

    def verdict(self, name: str, grad: Any, tried: Iterator[Any]) -> Verdict | None:
        """The verdict on one leaf's gradient along the directions tried, None when the time is out."""
        size = float(np.abs(grad).max(initial=0.0))
        worst = Verdict(name, tuple(grad.shape), 0.0, _shown(size), 0, 0.0, 0.0, "")
        scale, difference, count = _scale(grad), 0.0, 0
        short = tail(self.graph, name, self.values)
        feeds = {leaf: self.feeds[leaf] for leaf in short.leaves if leaf in self.feeds}
        for direction in tried if grad.size else ():
            if self.clock.out:
                return None
            analytic = float(np.sum(grad * direction))
            numeric = complex_step(short, feeds, name, direction, self.dy)
            self.clock.tick()
            count += 1
            here = max(scale, abs(numeric))
            residual = abs(analytic - numeric) / here if here else 0.0
            if not residual < worst.residual:
                difference = abs(analytic - numeric)
                worst = replace(worst, residual=_shown(residual), analytic=_shown(analytic), numeric=_shown(numeric))
            if not isfinite(residual):
                break
        return replace(worst, directions=count, verdict=self._word(worst, difference))

    def _word(self, worst: Verdict, difference: float) -> str:
        if worst.size == 0 and worst.numeric == 0:
            return "zero"
        if worst.residual <= self.tolerance:
            return "verified"
        cancelled = difference <= CANCELLED * self.largest and worst.residual <= CANCELLED_DIGITS
        return "cancelled" if cancelled else "failed"
