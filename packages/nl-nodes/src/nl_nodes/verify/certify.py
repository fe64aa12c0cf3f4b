"""Make a certificate: check every trainable leaf of a graph against the complex step, within a time limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from math import inf, isfinite
from time import perf_counter
from typing import Any

import numpy as np

from nl_nodes.graph import Graph
from nl_nodes.runtime.cut import ProductCut
from nl_nodes.verify.certificate import NOT_RUN, Certificate, Verdict
from nl_nodes.verify.directional import DirectionalCheck, Product, worst
from nl_nodes.verify.fingerprint import code_hash, fingerprint
from nl_nodes.verify.rounding import rough_passes, rounding
from nl_nodes.verify.sampling import directions
from nl_nodes.verify.subgraph import node_values, tail

TOLERANCE = 1e-10
DRAWS = 3
# Replaces NaN and infinity, which JSON lacks.
FAR = 1e300

Feeds = Mapping[str, Any]
Progress = Callable[[str, int, int], None]
"""Called with the name of the checked item, the number done and the total."""


class Clock:
    """Predicts from the longest evaluation so far whether there is time for one more."""

    def __init__(self, max_seconds: float) -> None:
        self.began = self._last = perf_counter()
        self._max, self._longest = max_seconds, 0.0

    def tick(self) -> None:
        """Record the end of an evaluation."""
        now = perf_counter()
        self._longest, self._last = max(self._longest, now - self._last), now

    def limit(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items while there is time; each costs one evaluation.

        Raises:
            TimeoutError: if there may not be time for the next one.
        """
        for item in items:
            if self.out:
                raise TimeoutError
            yield item
            self.tick()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self.began

    @property
    def out(self) -> bool:
        """Whether one more evaluation may exceed the limit."""
        return self.seconds + self._longest > self._max


def certify(
    graph: Graph,
    feeds: Feeds,
    dy: Any,
    *,
    dtype: str = "float64",
    device: str = "cpu",
    product_cut: ProductCut | None = None,
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
        graph: its first output is differentiated; the values of its leaves are float64.
        feeds: float64 arrays for its inputs.
        dy: the upstream gradient; for a scalar output not 1, so that a backward that ignores it is found.
        dtype: training dtype to note in the certificate.
        device: training device to note in the certificate.
        product_cut: how the training's plans cut large products, to note in the certificate.
        draws: random directions per leaf, 2 or more: the last Gaussian, the others of +1 and -1.
        seed: seed of the directions.
        tolerance: the largest residual that passes.
        max_seconds: time limit; leaves not checked by then become the certificate's `missing_tensors`.
        mutation: the mutation scores of the nodes' tests, to note in the certificate.
        modules: further modules to include in the code hash; see `code_hash`.
        known: verdicts from an earlier certificate, to reuse.
        progress: called after each leaf.
    """
    clock = Clock(max_seconds)
    grads, values = graph.run(**feeds).backward(dy), node_values(graph, feeds)
    clock.tick()
    rough = cache(lambda: [rough_pass(graph, feeds).backward(dy) for rough_pass in rough_passes()])
    verdicts = {verdict.name: verdict for verdict in known}
    for number, (name, grad) in enumerate(grads.items()):
        if name in verdicts:
            continue
        rng = np.random.default_rng((seed, number))
        short = tail(graph, name, values)
        check = DirectionalCheck([(short, {leaf: x for leaf, x in feeds.items() if leaf in short.leaves}, dy)])
        try:
            products = check.along_each(name, grad, clock.limit(directions(rng, grad.shape, draws)))
        except TimeoutError:
            break
        verdict = _verdict(name, grad, products, tolerance, rough)
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
        product_cut=product_cut,
        oracle="complex step, float64 and complex128",
        tolerance=tolerance,
        draws=draws,
        seed=seed,
        tensors=tuple(verdicts.values()),
        missing_tensors=tuple(name for name in grads if name not in verdicts),
        structural_zeros=tuple(v.name for v in verdicts.values() if v.verdict == "zero"),
        mutation=mutation,
        gpu=NOT_RUN,
        seconds=round(clock.seconds, 3),
    )


def _verdict(
    name: str,
    grad: Any,
    products: Sequence[Product],
    tolerance: float,
    rough: Callable[[], Sequence[Mapping[str, Any]]],
) -> Verdict:
    """Return the verdict on a leaf's gradient; `rough` gives all gradients with larger rounding errors."""
    size, (_, product) = float(np.abs(grad).max(initial=0.0)), worst(products)
    if size == product.numeric == 0:
        verdict = "zero"
    elif product.residual <= tolerance:
        verdict = "verified"
    else:
        noise = rounding(grad, *(grads[name] for grads in rough()))
        verdict = "cancelled" if all(p.difference <= noise for p in products) else "failed"
    return Verdict(
        name=name,
        shape=tuple(grad.shape),
        residual=_shown(product.residual),
        size=_shown(size),
        directions=len(products),
        analytic=_shown(product.analytic),
        numeric=_shown(product.numeric),
        verdict=verdict,
    )


def _shown(value: float) -> float:
    return value if isfinite(value) else FAR
