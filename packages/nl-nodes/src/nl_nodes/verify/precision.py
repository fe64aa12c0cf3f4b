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
) -> dict[str, float]:
    """The distance of each training gradient, on the batch where it is least.

    Where rounding carries one value over a kink, or makes another element a window's maximum, a whole element of a
    gradient moves, rightly. That takes bad luck; so what is over its limit is looked at again on the next batch, while
    a wrong gradient is wrong on each.
    """
    found = dict.fromkeys(limits, np.inf)
    for feeds in batches:
        exact, given = graph.run(**feeds).backward(dy), gradients(feeds, dy)
        found = {name: min(least, distance(exact[name], given[name])) for name, least in found.items()}
        if all(found[name] <= limits[name] for name in found):
            break
    return found


def distance(exact: Any, given: Any) -> float:
    """How far a gradient is from the exact one, relative to it, in the root mean square."""
    difference, size = float(np.linalg.norm(given - exact)), float(np.linalg.norm(exact))
    if difference == 0:
        return 0.0
    return difference / size if size and np.isfinite(difference) else np.inf
