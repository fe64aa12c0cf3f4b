"""What the trainer tells the world: it reports to observers and knows neither MLflow nor the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nl_training.training.trainer import Trainer
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


@dataclass
class Progress:
    """How far a training is, between two steps.

    Attributes:
        step: how many steps are done.
        position: how many batches of the current epoch are done; 0 when its evaluation is.
        images: of those batches, without the skipped ones.
        loss: the sum of these images' losses.
        hits: how many of them were right.
        history: the epochs that are done and evaluated.
        best: the best validation accuracy and its epoch.
        target: the step and second at which the target accuracy was reached.
        seconds: how long all that took.
        ended: whether the training is over, and only the end's report is left.
    """

    step: int = 0
    position: int = 0
    images: float = 0.0
    loss: float = 0.0
    hits: float = 0.0
    history: list[EpochReport] = field(default_factory=list)
    best: tuple[float, int] = (-1.0, 0)
    target: tuple[int, float] | None = None
    seconds: float = 0.0
    ended: bool = False


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


class Pruned(Exception):
    """Raised by an observer to end a training that is not worth going on with."""


class Callback:
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

    def on_result(self, result: Result) -> None:
        """The training is over: what is measured here is in the last checkpoint."""

    def on_end(self, trainer: Trainer, result: Result) -> None:
        """The training is finished; `trainer.net` holds the last weights, `trainer.best_state` the best.

        It is called again when the process ends in its middle and the run is resumed.
        """

    def stop_request(self) -> BaseException | None:
        """Asked after each step and evaluation; what it gives is raised, once the training is saved."""
        return None

    def on_saved(self, facts: Mapping[str, Any]) -> None:
        """A checkpoint with this observer's `facts` is on the disk."""

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a checkpoint must hold of this observer: host arrays, and facts as JSON has them."""
        return {}, {}

    def load_state(self, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
