"""What the trainer tells the world: it reports to observers and knows neither MLflow nor the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nl_training.trainer import Trainer
    from nl_training.verification import Outcome


@dataclass(frozen=True)
class StepReport:
    """One training step: `step` counts from 1 over the whole run, `loss` is the batch's mean loss without penalty."""

    step: int
    epoch: int
    loss: float
    accuracy: float
    lr: float
    images: int
    seconds: float


@dataclass(frozen=True)
class EpochReport:
    """One epoch's evaluation.

    `metrics` holds `train/epoch_loss`, `train/epoch_acc`, `test/loss`, `test/acc` and, when there is a validation
    part, `val/loss`, `val/acc`. `best` says whether these weights are the best so far by validation accuracy.
    """

    epoch: int
    step: int
    metrics: dict[str, float]
    best: bool
    seconds: float


@dataclass(frozen=True)
class Result:
    """A finished training: the test figures are those of the best weights by validation accuracy."""

    steps: int
    epochs: int
    seconds: float
    best_epoch: int
    test_loss: float
    test_accuracy: float
    target_accuracy: float | None = None
    steps_to_target: int | None = None
    seconds_to_target: float | None = None
    history: tuple[EpochReport, ...] = field(default=(), repr=False)


class Observer:
    """Hears what happens in a training; every method may be left as it is."""

    def on_verified(self, outcome: Outcome) -> None:
        """The gradients were verified, or were not to be; the trainer is not made yet."""

    def on_start(self, trainer: Trainer) -> None:
        """The trainer is ready and about to take its first step."""

    def on_batch(self, trainer: Trainer, step: int, x: Any, t: Any) -> None:
        """Step `step` is about to be taken on images x (N, C, H, W) with labels t (N,)."""

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """An observer has measured something at a step."""

    def on_step(self, report: StepReport) -> None:
        """A step is done."""

    def on_epoch(self, report: EpochReport) -> None:
        """An epoch is done and evaluated."""

    def on_end(self, trainer: Trainer, result: Result) -> None:
        """The training is finished; `trainer.net` holds the last weights, `trainer.best_state` the best."""
