"""The arrays of a training pass, and the distance between two passes."""

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
FAR = 1e300  # replaces NaN and infinity, which JSON lacks


def arrays_of(done: Pass) -> Arrays:
    """Return the gradients, new running statistics, loss and logits of a pass of a training graph."""
    loss, logits = done.results
    # A logit's gradient may be a difference of two numbers of up to 1, which cancel where the prediction is right.
    slip = None
    if isinstance(done, RoughPass):
        slip = done.error / len(logits) * np.where(np.arange(logits.size) % 3, 1.0, -1.0).reshape(logits.shape)
    grads = done.backward(np.ones((), loss.dtype), slip)
    updates = {buffer.name: value for buffer, value in done.updates.items()}
    return {**updates, **grads, LOSS: loss, LOGITS: logits}


def step_arrays(net: Network, x: Any, t: Any) -> Arrays:
    """Return the same arrays, on the host, from a network's step; the gradients are valid until its next step."""
    done = net.step(x, t)
    arrays = {**done.grads, LOSS: done.loss, LOGITS: done.logits}
    return {**net.state_dict(), **{name: net.device.host(array) for name, array in arrays.items()}}


def furthest(
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    limit: float,
    noise: Callable[[str], float] = lambda name: 0.0,
) -> tuple[str, float]:
    """Return the name of the array with the largest relative difference, and that difference.

    A difference that rounding explains is at most `limit`.

    Args:
        expected: arrays by name.
        found: the arrays to compare, by the same names; others are ignored.
        limit: the largest distance that passes.
        noise: returns the largest 2-norm of a difference that rounding explains; called for arrays beyond the limit.
    """
    worst = ("", 0.0)
    with np.errstate(all="ignore"):  # NaN and infinity become FAR
        for name, value in expected.items():
            difference = length(found[name] - value)
            distance = in_units(difference, length(value))
            if distance > limit:
                distance = min(distance, limit * in_units(difference, noise(name)))
            worst = max(worst, (name, distance), key=lambda w: w[1])
    return worst


def in_units(difference: float, size: float) -> float:
    """Return a difference in units of a size; `FAR` if the size is 0 or infinite, or either value is NaN."""
    if difference == 0:
        return 0.0
    ratio = difference / size if 0 < size < inf else FAR
    return min(ratio, FAR) if ratio == ratio else FAR
