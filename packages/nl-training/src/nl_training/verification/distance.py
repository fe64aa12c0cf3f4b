"""What a training pass gives, array by array, and how far two passes are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import numpy as np

from nl_models import Network
from nl_nodes import Pass
from nl_nodes.verify.rounding import RoughPass, length

Arrays = dict[str, Any]

LOSS, LOGITS = "the loss", "the logits"
FAR = 1e300  # stands in JSON for what is no number


def arrays_of(done: Pass) -> Arrays:
    """The gradients, new running statistics, loss and logits of a pass of a training graph."""
    loss, logits = done.results
    # A loss may take the gradient of a logit from two numbers of up to 1 that cancel where it is right.
    slip = None
    if isinstance(done, RoughPass):
        slip = done.error / len(logits) * np.where(np.arange(logits.size) % 3, 1.0, -1.0).reshape(logits.shape)
    grads = done.backward(np.ones((), loss.dtype), slip)
    updates = {buffer.name: value for buffer, value in done.updates.items()}
    return {**updates, **grads, LOSS: loss, LOGITS: logits}


def step_arrays(net: Network, x: Any, t: Any) -> Arrays:
    """The same of a network's step; the gradients are valid until the next."""
    done = net.step(x, t)
    return {**net.state_dict(), **done.grads, LOSS: done.loss, LOGITS: done.logits}


def furthest(
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    limit: float,
    noise: Callable[[str], float] = lambda name: 0.0,
) -> tuple[str, float]:
    """The array that is furthest off and how far, in units of its length; what rounding explains is within the limit.

    Args:
        expected: arrays by name.
        found: those beside them, and maybe others.
        limit: the largest distance that passes.
        noise: the largest length of a difference that rounding explains; called where an array is beyond the limit.
    """
    worst = ("", 0.0)
    with np.errstate(all="ignore"):  # what is not finite is far off
        for name, value in expected.items():
            difference = length(found[name] - value)
            distance = in_units(difference, length(value))
            if distance > limit:
                distance = min(distance, limit * in_units(difference, noise(name)))
            worst = max(worst, (name, distance), key=lambda w: w[1])
    return worst


def in_units(difference: float, size: float) -> float:
    """A difference in units of a size; `FAR` where that is 0 or infinite, or where either is no number."""
    if difference == 0:
        return 0.0
    ratio = difference / size if 0 < size < inf else FAR
    return min(ratio, FAR) if ratio == ratio else FAR
