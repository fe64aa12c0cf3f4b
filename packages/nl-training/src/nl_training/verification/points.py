"""The images on which a network is verified: random images, training images, and images with kinks and outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nl_models import Network
from nl_training.data import Split


class NotComparable(Exception):
    """A link cannot be checked; the message gives the reason."""


RANDOM, TRAINING, KINKS = POINTS = ("random images", "training images", "zeros and ties")
PASSES = (0, 1, 2**40)
"""Indices of the compared passes, in this order."""


@dataclass(frozen=True)
class Point:
    """Images `x` (N, C, H, W) and labels `t`, (N,) or rows, with values exact in float32, as inputs of a network."""

    name: str
    x: Any
    t: Any

    @property
    def feeds(self) -> dict[str, Any]:
        """The images in float64 and the labels, as feeds of a graph."""
        return {"x": np.asarray(self.x, np.float64), "t": self.t}

    @property
    def rows(self) -> bool:
        """Whether the labels are rows (N, classes)."""
        return bool(self.t.ndim == 2)


def make_point(net: Network, count: int, name: str, train: Split, mixed: bool = False) -> Point:
    """Return `count` images of the named kind, with rows of two labels each if `mixed`."""
    point = _point(net, count, name, train)
    if not mixed:
        return point
    rows = np.eye(net.classes)[point.t] if net.classes > 1 else np.asarray(point.t, np.float64)[:, None]
    return Point(name, point.x, 0.75 * rows + 0.25 * rows[::-1])


def _point(net: Network, count: int, name: str, train: Split) -> Point:
    rng = np.random.default_rng(count)
    shape = (count, *net.input_shape)
    if name == TRAINING:
        index = np.arange(count) % len(train)
        return Point(name, train.x[index], train.t[index])
    t = rng.integers(0, net.classes, count)
    t[0], t[-1] = 0, net.classes - 1
    if name == KINKS:
        return Point(name, _kinks(rng, shape), t.astype(np.uint8))
    return Point(name, rng.standard_normal(shape, dtype=np.float32).astype(np.float64), t)


def _kinks(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Return images of small integers with many ties, zero borders, zero images and an outlier, as a reversed view."""
    x = rng.integers(-1, 3, shape).astype(np.float64)
    for axis in range(2, len(shape)):
        edge = max(shape[axis] // 4, 1)
        np.moveaxis(x, axis, 0)[:edge] = 0
        np.moveaxis(x, axis, 0)[-edge:] = 0
    if len(x) > 1:  # batch norm of zeros alone amplifies rounding errors by its gain in every layer
        x[::3] = 0
    x[1::3][:1] *= 64
    return x[::-1]
