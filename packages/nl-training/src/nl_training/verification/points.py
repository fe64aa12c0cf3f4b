"""The images on which a network is verified (random ones, those that train, and some on kinks and far out), and how
far apart two results on them are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nl_models import Network
from nl_training.data import Split


class NotComparable(Exception):
    """A link cannot be made; the message says why."""


RANDOM, TRAINING, KINKS = POINTS = ("random images", "training images", "zeros and ties")
LOSS, LOGITS = "the loss", "the logits"
FAR = 1e300  # stands in JSON for what is no number
# An array that is smaller than the largest by more than this is measured beside that.
SMALL = 1e-3


@dataclass(frozen=True)
class Point:
    """Images x (N, C, H, W), float64 of values that float32 has too, and labels t (N,)."""

    name: str
    x: Any
    t: Any


def make_point(net: Network, count: int, name: str, train: Split) -> Point:
    """So many images of the kind that is named."""
    rng = np.random.default_rng(count)
    shape = (count, *net.input_shape)
    if name == TRAINING:
        index = np.arange(count) % len(train)
        return Point(name, train.x[index].astype(np.float64), train.t[index])
    t = rng.integers(0, net.classes, count)
    if name == KINKS:
        return Point(name, _kinks(rng, shape), t.astype(np.uint8))
    return Point(name, rng.standard_normal(shape, dtype=np.float32).astype(np.float64), t)


def _kinks(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Small whole numbers, so that many are alike, stored backwards; black frames, black images, and one far out."""
    x = rng.integers(-1, 3, shape).astype(np.float64)
    for axis in range(2, len(shape)):
        edge = max(shape[axis] // 4, 1)
        np.moveaxis(x, axis, 0)[:edge] = 0
        np.moveaxis(x, axis, 0)[-edge:] = 0
    x[::3] = 0
    x[1::3][:1] *= 64
    return x[::-1]


def furthest(expected: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, float]:
    """The array that is furthest off, in units of its own size, or of a share of the largest, if that is more."""
    sizes = {name: float(np.sqrt(np.mean(np.square(value)))) for name, value in expected.items()}
    least = SMALL * max((size for name, size in sizes.items()), default=0.0)
    worst = ("", 0.0)
    for name, value in expected.items():
        difference = float(np.sqrt(np.mean(np.square(found[name] - value))))
        distance = difference / max(sizes[name], least) if difference else 0.0
        distance = distance if distance == distance else FAR
        if distance > worst[1]:
            worst = (name, distance)
    return worst
