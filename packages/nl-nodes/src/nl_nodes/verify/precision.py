"""The gradient of the dtype that trains, against the verified float64 one at the very same inputs.

No difference quotient in float32 could see an error of a thousandth; the float64 gradient can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import sqrt
from typing import Any

import numpy as np

from nl_nodes.graph import Graph

# Rounding errors of as many operations as there are nodes add up like a random walk of steps of eps. Fitted once to
# six models in five forms, of which the worst stands at 0.3 of it.
STEPS = 16.0
# Cancellation shows in the float64 residual as well, which is below this where there is none.
CLEAN = 1e-14
# Moves tried on each batch, where a gradient is over its limit.
DRAWS = 3


def budget(eps: float, nodes: int, residual: float) -> float:
    """How far a gradient in a dtype of this `eps` may be from the float64 one, relative to it.

    Args:
        eps: the dtype's rounding.
        nodes: of the graph.
        residual: of the float64 gradient, which tells how much cancellation amplifies rounding.
    """
    return STEPS * eps * sqrt(nodes) * max(1.0, residual / CLEAN)


def distances(
    graph: Graph,
    batches: Iterable[Mapping[str, Any]],
    dy: Any,
    gradients: Callable[[Mapping[str, Any], Any], Mapping[str, Any]],
    limits: Mapping[str, float],
    eps: float,
) -> tuple[dict[str, float], dict[str, float]]:
    """The distance of each training gradient, on the batch where it is least, and its limit.

    Where rounding carries one value over a kink, or makes another element a window's maximum, a whole element of a
    gradient moves, rightly. So what is over its limit is looked at again on the next batch: a wrong gradient is wrong
    on each. In the largest networks some value crosses on every batch. What that comes to is seen in float64, by
    moving all that is fed as far as rounding would: twice the furthest that such a move takes a gradient is its limit,
    if that is more.
    """
    found, allowed = dict.fromkeys(limits, np.inf), dict(limits)
    for number, feeds in enumerate(batches):
        exact, given = graph.run(**feeds).backward(dy), gradients(feeds, dy)
        found = {name: min(least, distance(exact[name], given[name])) for name, least in found.items()}
        for draw in range(DRAWS):
            if all(found[name] <= allowed[name] for name in found):
                return found, allowed
            rng = np.random.default_rng((number, draw))
            moved = graph.run(**{name: _moved(rng, value, eps) for name, value in feeds.items()}).backward(dy)
            allowed = {n: max(limit, 2 * distance(exact[n], moved[n])) for n, limit in allowed.items()}
    return found, allowed


def _moved(rng: np.random.Generator, value: Any, eps: float) -> Any:
    """Real numbers, moved at random by as many roundings as fit gradients in float32; others as they are."""
    return value * (1 + STEPS * eps * rng.uniform(-1, 1, value.shape)) if value.dtype.kind == "f" else value


def distance(exact: Any, given: Any) -> float:
    """How far a gradient is from the exact one, relative to it, in the root mean square."""
    difference, size = float(np.linalg.norm(given - exact)), float(np.linalg.norm(exact))
    if difference == 0:
        return 0.0
    return difference / size if size and np.isfinite(difference) else np.inf
