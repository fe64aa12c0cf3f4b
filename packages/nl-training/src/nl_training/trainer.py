"""The trainer: epochs of shuffled batches, an evaluation after each, the best weights by validation accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil, isfinite
from time import perf_counter
from typing import Any

from nl_layers import add_weight_decay
from nl_layers.optimizers import Optimizer
from nl_layers.schedules import Schedule
from nl_models import Network
from nl_nodes import UserError
from nl_training.data import Dataset, batches, epoch_order
from nl_training.observer import EpochReport, Observer, Result, StepReport


@dataclass(frozen=True)
class Limits:
    """When a training ends, and what a step is.

    Attributes:
        epochs: passes over the training data, 1 or more.
        batch_size: images per step; the last batch of an epoch may be smaller.
        max_steps: end after so many steps, None for no limit.
        target_accuracy: end at the first evaluation whose accuracy on the whole test set reaches this, None for no
            such race. The weights that are kept are still chosen by validation accuracy.
        on_nan: "stop" ends the training when the loss is no finite number, "skip" leaves that batch out.
    """

    epochs: int = 10
    batch_size: int = 128
    max_steps: int | None = None
    target_accuracy: float | None = None
    on_nan: str = "stop"


class Trainer:
    """Trains a network on a data set and reports to observers.

    Args:
        net: what is trained.
        optimizer: changes its parameters; its `lr` at the start is what the schedule scales.
        schedule: the learning rate's course.
        data: training, validation and test parts.
        limits: when to end.
        weight_decay: the penalty's rate, added to the weights' gradients.
        seed: the order of the batches.
        observers: who hears of steps and epochs.

    Attributes:
        best_state: host copies of the best weights so far, by validation accuracy (without a validation part, the
            latest).
    """

    def __init__(
        self,
        net: Network,
        optimizer: Optimizer,
        schedule: Schedule,
        data: Dataset,
        limits: Limits | None = None,
        weight_decay: float = 0.0,
        seed: int = 0,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.net, self.optimizer, self.schedule, self.data = net, optimizer, schedule, data
        self.limits = limits or Limits()
        self.weight_decay, self.seed, self.observers = weight_decay, seed, observers
        self.base_lr = optimizer.lr
        self.steps_per_epoch = ceil(len(data.train.t) / self.limits.batch_size)
        whole = self.limits.epochs * self.steps_per_epoch
        self.total_steps = min(whole, self.limits.max_steps or whole)
        self.step = 0
        self.best_state: dict[str, Any] = {}
        self._history: list[EpochReport] = []
        self._best = (-1.0, 0)
        self._target: tuple[int, float] | None = None
        self._started = 0.0

    def run(self) -> Result:
        """Train to the end and tell the result."""
        self._started = perf_counter()
        for observer in self.observers:
            observer.on_start(self)
        epoch = 0
        while self.step < self.total_steps and self._target is None:
            epoch += 1
            self._epoch(epoch)
        result = self._result(epoch)
        for observer in self.observers:
            observer.on_end(self, result)
        return result

    def _epoch(self, epoch: int) -> None:
        loss = hits = seen = 0.0
        order = epoch_order(len(self.data.train), self.seed, epoch)
        left = self.total_steps - self.step
        for x, t in islice(batches(self.data.train, self.limits.batch_size, order), left):
            report = self._step(epoch, x, t)
            if report is None:
                continue
            loss += report.loss * report.images
            hits += report.accuracy * report.images
            seen += report.images
            for observer in self.observers:
                observer.on_step(report)
        train = {"train/epoch_loss": loss / seen, "train/epoch_acc": hits / seen} if seen else {}
        self._evaluate(epoch, train)

    def _step(self, epoch: int, x: Any, t: Any) -> StepReport | None:
        """One step, or None when its loss was not finite and such batches are skipped."""
        begun = perf_counter()
        progress, span = self.step / self.steps_per_epoch, self.total_steps / self.steps_per_epoch
        self.optimizer.lr = self.base_lr * self.schedule.factor(progress, span)
        for observer in self.observers:
            observer.on_batch(self, self.step + 1, x, t)
        done = self.net.step(x, t)
        self.step += 1
        loss = float(done.loss)
        if not isfinite(loss):
            if self.limits.on_nan == "skip":
                return None
            raise UserError(
                f"the loss became {loss} at step {self.step}: lower optimizer.lr (now {self.optimizer.lr:g})"
            )
        if self.weight_decay:
            add_weight_decay(self.net.params, done.grads, self.weight_decay)
        self.optimizer.update(self.net.params, done.grads)
        accuracy = self.net.hits(done.logits, t) / len(t)
        seconds = perf_counter() - begun
        return StepReport(self.step, epoch, loss, accuracy, self.optimizer.lr, len(t), seconds)

    def _evaluate(self, epoch: int, metrics: dict[str, float]) -> None:
        for name, split in (("val", self.data.validation), ("test", self.data.test)):
            if split is not None:
                metrics[f"{name}/loss"], metrics[f"{name}/acc"] = self.net.evaluate(split.x, split.t)
        best = self.data.validation is None or metrics["val/acc"] > self._best[0]
        if best:
            self._best = (metrics.get("val/acc", 0.0), epoch)
            self.best_state = self.net.state_dict()
        seconds = perf_counter() - self._started
        report = EpochReport(epoch, self.step, metrics, best, seconds)
        self._history.append(report)
        target = self.limits.target_accuracy
        if target is not None and metrics["test/acc"] >= target and self._target is None:
            self._target = (self.step, seconds)
        for observer in self.observers:
            observer.on_epoch(report)

    def _result(self, epochs: int) -> Result:
        best = self._history[self._best[1] - 1]
        steps, seconds = self._target or (None, None)
        return Result(
            steps=self.step,
            epochs=epochs,
            seconds=perf_counter() - self._started,
            best_epoch=best.epoch,
            test_loss=best.metrics["test/loss"],
            test_accuracy=best.metrics["test/acc"],
            target_accuracy=self.limits.target_accuracy,
            steps_to_target=steps,
            seconds_to_target=seconds,
            history=tuple(self._history),
        )
