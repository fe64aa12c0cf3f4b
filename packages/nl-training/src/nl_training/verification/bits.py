"""Comparison of passes bit by bit: on a GPU, with the same passes run again and launched one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nl_models import Network
from nl_training.data import Split
from nl_training.verification.distance import Arrays, step_arrays
from nl_training.verification.points import PASSES, POINTS, make_point
from nl_training.verification.twins import one_by_one, unchanged


def run_otherwise(net: Network, count: int, train: Split, mixed: bool = False) -> str:
    """Return the first array of which another run of the same passes has other bits, and which run; "" if none is.

    One run repeats the passes on the network; the other one is a copy's, whose calls are launched and awaited one by
    one in place of a graph.

    Args:
        net: a network on a GPU; its state is as before afterwards.
        count: the number of images in a pass.
        train: the training images.
        mixed: whether the labels are rows.
    """
    with unchanged(net):
        state = net.state_dict()
        first = make_point(net, count, POINTS[0], train, mixed)
        net.step(first.x, first.t)  # makes the plan, whose choice of algorithms the copy takes
        runs = {"": net, "repeated": net, "launched one by one": one_by_one(net) if net.device.compiles else net}
        for number, images in zip(PASSES, POINTS, strict=True):
            point, found = make_point(net, count, images, train, mixed), dict[str, Arrays]()
            for how, run in runs.items():
                run.load_state_dict(state)
                run.passes = number
                found[how] = step_arrays(run, point.x, point.t)
            for how, arrays in found.items():
                if name := other_bits(found[""], arrays):
                    return f"{name} {how}"
    return ""


def other_bits(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return the name of the first array that differs from the expected one, or ""."""
    return next((name for name, value in found.items() if not np.array_equal(value, expected[name], True)), "")
