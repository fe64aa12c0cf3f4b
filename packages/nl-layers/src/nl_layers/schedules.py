"""Learning-rate schedules: factors of the learning rate over training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, inf, pi
from typing import Protocol, runtime_checkable

from nl_nodes.arguments import (
    AT_LEAST_ONE,
    FRACTION,
    NATURAL,
    NOT_NEGATIVE,
    OPEN_FRACTION,
    POSITIVE,
    POSITIVE_FRACTION,
    SHARE,
    check_init,
)


@runtime_checkable
class Schedule(Protocol):
    """A factor of the learning rate as a function of the epoch, which may be fractional."""

    def factor(self, epoch: float, epochs: float, losses: Sequence[float] = ()) -> float:
        """Return the factor after `epoch` of `epochs` epochs.

        Args:
            epoch: the time in epochs.
            epochs: the length of the training.
            losses: the validation loss after each epoch; without validation images the epoch's mean training loss.
        """


@check_init
@dataclass(frozen=True)
class Constant:
    """A constant learning rate."""

    def factor(self, epoch: float, epochs: float, losses: Sequence[float] = ()) -> float:
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

    def factor(self, epoch: float, epochs: float, losses: Sequence[float] = ()) -> float:
        """Return `gamma ** (epoch // every)`; rounded, as in floating point 0.3 / 0.1 is less than 3."""
        return self.gamma ** int(round(epoch / self.every, 9))


@check_init
@dataclass(frozen=True)
class Cosine:
    """Linear warm-up of `warmup` epochs, at most half of the training, then half a cosine from 1 down to `final`.

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

    def factor(self, epoch: float, epochs: float, losses: Sequence[float] = ()) -> float:
        """Return the factor; the warm-up starts above 0, so that the first step has an effect."""
        warmup = min(self.warmup, epochs / 2)
        if epoch < warmup:
            return max(epoch / warmup, 0.01)
        progress = min((epoch - warmup) / (epochs - warmup), 1.0)
        return _half_cosine(1.0, self.final, progress)


@check_init
@dataclass(frozen=True)
class OneCycle:
    """Half a cosine from 1 / `div_factor` up to 1, then one down to 1 / (`div_factor` `final_div_factor`).

    The learning rate of the optimizer is the largest. PyTorch's `OneCycleLR` has the same two curves over whole steps:
    its first ends a step earlier. Momentum stays as it is.

    Source: Smith and Topin, Super-Convergence (2018), with half cosines for its straight lines.

    >>> [round(OneCycle(div_factor=10.0).factor(epoch, 10.0), 6) for epoch in (0.0, 3.0)]
    [0.1, 1.0]
    """

    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        """Validate the numbers."""
        OPEN_FRACTION.check("OneCycle", pct_start=self.pct_start)
        AT_LEAST_ONE.check("OneCycle", div_factor=self.div_factor, final_div_factor=self.final_div_factor)

    def factor(self, epoch: float, epochs: float, losses: Sequence[float] = ()) -> float:
        """Return the factor."""
        progress, first = min(epoch / epochs, 1.0), 1 / self.div_factor
        if progress < self.pct_start:
            return _half_cosine(first, 1.0, progress / self.pct_start)
        return _half_cosine(1.0, first / self.final_div_factor, (progress - self.pct_start) / (1 - self.pct_start))


@check_init
@dataclass(frozen=True)
class Exponential:
    """Decay by `gamma` in each epoch, a little at every step.

    >>> Exponential(gamma=0.5).factor(2.0, 10.0)
    0.25
    """

    gamma: float = 0.95

    def __post_init__(self) -> None:
        """Validate the number."""
        POSITIVE_FRACTION.check("Exponential", gamma=self.gamma)

    def factor(self, epoch: float, epochs: float, losses: Sequence[float] = ()) -> float:
        """Return `gamma ** epoch`."""
        return float(self.gamma**epoch)


@check_init
@dataclass(frozen=True)
class ReduceOnPlateau:
    """Decay by `gamma` after more than `patience` epochs in a row without a better validation loss.

    Without validation images it is the epoch's mean training loss. A loss is better if it is below (1 - `threshold`)
    times the best one. The factor follows from the losses so far, so that a resumed training has the same. PyTorch's
    `ReduceLROnPlateau` is the same, with `factor` for `gamma`.

    >>> ReduceOnPlateau(gamma=0.5, patience=1).factor(4.0, 10.0, losses=[0.9, 0.8, 0.8, 0.9])
    0.5
    """

    gamma: float = 0.1
    patience: int = 10
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        """Validate the numbers."""
        POSITIVE_FRACTION.check("ReduceOnPlateau", gamma=self.gamma)
        NATURAL.check("ReduceOnPlateau", patience=self.patience)
        SHARE.check("ReduceOnPlateau", threshold=self.threshold)

    def factor(self, epoch: float, epochs: float, losses: Sequence[float] = ()) -> float:
        """Return `gamma` to the power of the number of plateaus so far."""
        best, waited, plateaus = inf, 0, 0
        for loss in losses:
            waited += 1
            if loss < best * (1 - self.threshold):
                best, waited = loss, 0
            if waited > self.patience:
                plateaus, waited = plateaus + 1, 0
        return self.gamma**plateaus


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + cos(pi * progress))
