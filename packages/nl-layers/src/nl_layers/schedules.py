"""Learning-rate schedules: what the learning rate is multiplied by as training goes on."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Protocol


class Schedule(Protocol):
    """A schedule gives the factor at a time, both in epochs and with fractions."""

    def factor(self, epoch: float, epochs: float) -> float:
        """The factor after `epoch` of `epochs` epochs."""


@dataclass(frozen=True)
class Constant:
    """The learning rate as it is."""

    def factor(self, epoch: float, epochs: float) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Step:
    """Multiplied by `gamma` every `every` epochs.

    >>> Step(every=2, gamma=0.1).factor(3.5, 10)
    0.1
    """

    every: float = 10.0
    gamma: float = 0.1

    def factor(self, epoch: float, epochs: float) -> float:
        """Gamma to the number of whole periods."""
        return self.gamma ** int(epoch / self.every)


@dataclass(frozen=True)
class Cosine:
    """A linear warm-up, then half a cosine from 1 down to `final`.

    Source: Loshchilov and Hutter, SGDR (2017), equation 5; Goyal et al., Accurate, Large Minibatch SGD (2017), 2.2.

    >>> Cosine(warmup=0.0, final=0.0).factor(5.0, 10.0)
    0.5
    """

    warmup: float = 0.5
    final: float = 0.0

    def factor(self, epoch: float, epochs: float) -> float:
        """The factor; the warm-up starts above 0, so that no step is lost."""
        warmup = min(self.warmup, epochs / 2)
        if epoch < warmup:
            return max(epoch / warmup, 0.01)
        progress = min((epoch - warmup) / (epochs - warmup), 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + cos(pi * progress))
