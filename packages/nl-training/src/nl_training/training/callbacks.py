"""Callbacks and the reports that the trainer passes to them; neither MLflow nor the terminal is imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from nl_layers.optimizers import Optimizer
from nl_models import Network
from nl_nodes import UserError
from nl_training.data import Dataset
from nl_training.training.average import WeightAverage
from nl_training.training.regularization import Regularization


@dataclass(frozen=True)
class StepReport:
    """Report of a training step.

    `step` counts from 1, `loss` is its images' mean loss without weight decay, and `grad_norm` the norm of its gradient
    before clipping, None without.
    """

    step: int
    epoch: int
    loss: float
    accuracy: float
    lr: float
    images: int
    seconds: float
    grad_norm: float | None = None


@dataclass(frozen=True)
class EpochReport:
    """Evaluation after an epoch.

    `metrics` has `train/epoch_loss`, `train/epoch_acc`, `test/loss`, `test/acc` and, with a validation split,
    `val/loss`, `val/acc`, and `val/loss_ema`, `val/acc_ema` of averaged weights. `best` is whether these weights, not
    averaged, are the best so far by validation accuracy.
    """

    epoch: int
    step: int
    metrics: dict[str, float]
    best: bool
    seconds: float


@dataclass
class Progress:
    """Progress of a training between two steps; a checkpoint contains it.

    Attributes:
        step: number of steps done.
        position: number of steps done in the current epoch; 0 after its evaluation.
        images: number of images in these steps, without skipped ones.
        loss: sum of these images' losses.
        hits: number of these images classified correctly.
        history: reports of the evaluated epochs.
        best: the best validation accuracy and its epoch.
        target: the step and second at which the target accuracy was reached.
        seconds: training time so far.
        ended: whether all steps are done and only `on_end` is left.
        average: test loss and accuracy of the averaged weights at the end; None without.
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
    average: tuple[float, float] | None = None


@dataclass(frozen=True)
class Result:
    """Result of a training; the test metrics are those of the best weights by validation accuracy.

    `average` are test loss and accuracy of the averaged weights of the last step, None without.
    """

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
    average: tuple[float, float] | None = None

    @property
    def summary(self) -> str:
        """Accuracies of the best weights, steps and training time in one line."""
        validation = self.history[self.best_epoch - 1].metrics.get("val/acc")
        parts = [] if validation is None else [f"validation {validation:.4f}"]
        parts += [f"test {self.test_accuracy:.4f}  loss {self.test_loss:.4f}"]
        return "  ".join([*parts, f"{self.steps:,} steps in {self.seconds:.1f} s"])


@dataclass(eq=False, repr=False)
class TrainingState:
    """A training as callbacks and checkpoints see it.

    Attributes:
        net: the network, with the weights of the last step.
        optimizer: the optimizer of its parameters.
        data: training, validation and test splits.
        batch_size: images per batch.
        total_steps: the step at which the training ends, unless it ends early.
        seed: seed of the batch order.
        callbacks: called on steps, epochs and the end.
        accumulate: batches per step.
        progress: the state between two steps.
        best_state: host copies of the best weights so far by validation accuracy (the latest weights without a
            validation split).
        started: start time by `perf_counter`, as if the training had not been interrupted.
        average: the moving average of the weights, None without.
        regularization: augmentation, mixup, clipping and averaging of weights.
    """

    net: Network
    optimizer: Optimizer
    data: Dataset
    batch_size: int
    total_steps: int
    seed: int
    callbacks: Sequence[Callback]
    accumulate: int = 1
    progress: Progress = field(default_factory=Progress)
    best_state: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=perf_counter)
    average: WeightAverage | None = None
    regularization: Regularization = field(default_factory=Regularization)

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self.progress.step

    @property
    def seconds(self) -> float:
        """Training time in seconds, summed over all processes of the run."""
        return self.progress.seconds if self.progress.ended else perf_counter() - self.started


class Pruned(Exception):
    """Raised by a callback to end an unpromising training."""


class TimeLimit(UserError):
    """Raised when the time limit of a training is reached; its last checkpoint is of that step."""


class Callback:
    """Base class of callbacks; every method is optional.

    Attributes:
        reads_network: whether `on_step` needs the network as it is after that step. Where no callback does, a GPU works
            ahead, and reports come some steps late.
    """

    reads_network = True

    def on_start(self, trainer: TrainingState) -> None:
        """Called before the first step."""

    def on_batch(self, trainer: TrainingState, step: int, x: Any, t: Any) -> None:
        """Called before step `step`, on images x (N, C, H, W) with labels t (N,); images may be on the GPU.

        Augmentation is done. Labels that mixup has mixed are rows (N, classes).
        """

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called with metrics that another callback measured at a step."""

    def on_step(self, report: StepReport) -> None:
        """Called after a step."""

    def on_evaluate(self, split: str, images: int) -> None:
        """Called before the evaluation of "validation" or "test" images, as many as `images`."""

    def on_epoch(self, report: EpochReport) -> None:
        """Called after the evaluation of an epoch."""

    def on_result(self, result: Result) -> None:
        """Called after the last step; the last checkpoint, written afterwards, includes state changed here."""

    def on_end(self, trainer: TrainingState, result: Result) -> None:
        """Called at the end; `trainer.net` has the last weights, `trainer.best_state` the best.

        Called again after resuming a run whose process ended during this call.
        """

    def stop_request(self) -> BaseException | None:
        """Return an exception to stop the training: polled after each step and evaluation, raised after saving."""
        return None

    def on_saved(self, facts: Mapping[str, Any]) -> None:
        """Called when a checkpoint with this callback's `facts` is on the disk."""

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return this callback's state for a checkpoint: host arrays, and values that JSON can represent."""
        return {}, {}

    def load_state(self, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Restore a state that `state` returned."""
