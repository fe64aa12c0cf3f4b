"""What the trainer tells the world: it reports to observers and knows neither MLflow nor the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nl_training.trainer import Trainer


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

    def on_start(self, trainer: Trainer) -> None:
        """The trainer is ready and about to take its first step."""

    def on_step(self, report: StepReport) -> None:
        """A step is done."""

    def on_epoch(self, report: EpochReport) -> None:
        """An epoch is done and evaluated."""

    def on_end(self, trainer: Trainer, result: Result) -> None:
        """The training is finished; `trainer.net` holds the last weights, `trainer.best_state` the best."""
