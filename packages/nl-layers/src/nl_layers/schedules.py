"""Learning-rate schedules: factors of the learning rate over training."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Protocol

from nl_nodes.arguments import FRACTION, NOT_NEGATIVE, POSITIVE, POSITIVE_FRACTION, check_init


class Schedule(Protocol):
    """A factor of the learning rate as a function of the epoch, which may be fractional."""

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the factor after `epoch` of `epochs` epochs."""


@check_init
@dataclass(frozen=True)
class Constant:
    """A constant learning rate."""

    def factor(self, epoch: float, epochs: float) -> float:
        """Return 1."""
        return 1.0


@check_init
@dataclass(frozen=True)
class Step:
    """Decay by `gamma` every `every` epochs.

    >>> Step(every=2, gamma=0.1).factor(3.5, 10)
    0.1
    """

    every: float = 10.0
    gamma: float = 0.1

    def __post_init__(self) -> None:
        """Validate the numbers."""
        POSITIVE.check("Step", every=self.every)
        POSITIVE_FRACTION.check("Step", gamma=self.gamma)

    def factor(self, epoch: float, epochs: float) -> float:
        """Return `gamma ** (epoch // every)`."""
        return self.gamma ** int(epoch / self.every)


@check_init
@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine from 1 down to `final`.

    Source: Loshchilov and Hutter, SGDR (2017), equation 5; Goyal et al., Accurate, Large Minibatch SGD (2017), 2.2.

    >>> Cosine(warmup=0.0, final=0.0).factor(5.0, 10.0)
    0.5
    """

    warmup: float = 0.5
    final: float = 0.0

    def __post_init__(self) -> None:
        """Validate the numbers."""
        NOT_NEGATIVE.check("Cosine", warmup=self.warmup)
        FRACTION.check("Cosine", final=self.final)

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the factor; the warm-up starts above 0, so that the first step has an effect."""
        warmup = min(self.warmup, epochs / 2)
        if epoch < warmup:
            return max(epoch / warmup, 0.01)
        progress = min((epoch - warmup) / (epochs - warmup), 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + cos(pi * progress))
