"""The trainer: epochs of shuffled batches, an evaluation after each, the best weights by validation accuracy."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from time import perf_counter
from typing import Any

from nl_layers import add_weight_decay
from nl_layers.optimizers import Optimizer
from nl_layers.schedules import Schedule
from nl_models import Network
from nl_nodes import UserError
from nl_training.data import Dataset, EpochBatches, batches, epoch_order
from nl_training.training.callbacks import Callback, EpochReport, Progress, Result, StepReport
from nl_training.training.checkpoint import Checkpoints
from nl_training.training.divergence import first_not_finite
from nl_training.training.snapshot import snapshot


class Diverged(UserError):
    """The loss or a gradient is no finite number any more."""


@dataclass(frozen=True)
class TrainOptions:
    """When a training ends, and what a step is.

    Attributes:
        epochs: passes over the training data, 1 or more.
        batch_size: images per step; the last batch of an epoch may be smaller, and is left out where it is a single
            image on which batch norm fails.
        max_steps: end after so many steps, None for no limit.
        target_accuracy: end at the first evaluation whose accuracy on the whole test set reaches this, None for no
            such race. The weights that are kept are still chosen by validation accuracy.
        on_nan: "stop" ends the training when the loss or a gradient is no finite number, "skip" leaves that batch out.
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
        checkpoints: where the training is saved as it goes, None for nowhere.

    Attributes:
        best_state: host copies of the best weights so far, by validation accuracy (without a validation part, the
            latest).
        epoch_batches: how the training images are cut into batches.
        progress: how far it is.

    Raises:
        ShapeError: where batch norm fails on every batch.
    """

    def __init__(
        self,
        net: Network,
        optimizer: Optimizer,
        schedule: Schedule,
        data: Dataset,
        limits: TrainOptions | None = None,
        weight_decay: float = 0.0,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.net, self.optimizer, self.schedule, self.data = net, optimizer, schedule, data
        self.limits = limits or TrainOptions()
        self.weight_decay, self.seed, self.callbacks = weight_decay, seed, callbacks
        self.checkpoints = checkpoints
        self.base_lr = optimizer.lr
        self.epoch_batches = EpochBatches.of(net, len(data.train), self.limits.batch_size)
        self.steps_per_epoch = self.epoch_batches.count
        whole = self.limits.epochs * self.steps_per_epoch
        self.total_steps = min(whole, self.limits.max_steps or whole)
        self.best_state: dict[str, Any] = {}
        self.progress = Progress()
        self._started = perf_counter()

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self.progress.step

    @property
    def seconds(self) -> float:
        """How long it has been training, in all processes together."""
        return self.progress.seconds if self.progress.ended else perf_counter() - self._started

    def run(self) -> Result:
        """Train to the end, from the start or from where `restore` brought it, and tell the result.

        Raises:
            Diverged: when the loss or a gradient is no finite number and such batches are not to be skipped.
        """
        self._started = perf_counter() - self.progress.seconds
        for callback in self.callbacks:
            callback.on_start(self)
        gc.collect()
        gc.freeze()  # a search for garbage through all modules takes a fifth of a second, and a training makes little
        try:
            if not self.progress.ended:
                self._train()
        finally:
            gc.unfreeze()
        result = self._result()
        for callback in self.callbacks:
            callback.on_end(self, result)
        return result

    def _train(self) -> None:
        p = self.progress
        while (p.step < self.total_steps or p.position) and p.target is None:
            self._epoch(len(p.history) + 1)
        p.seconds, p.ended = self.seconds, True
        result = self._result()
        for callback in self.callbacks:
            callback.on_result(result)
        self._save(wait=True)

    def _epoch(self, epoch: int) -> None:
        p = self.progress
        order = epoch_order(len(self.data.train), self.seed, epoch)[: self.epoch_batches.images]
        end = p.position + max(self.total_steps - p.step, 0)
        for x, t in islice(batches(self.data.train, self.limits.batch_size, order), p.position, end):
            report = self._step(epoch, x, t)
            p.position += 1
            if report is not None:
                p.loss += report.loss * report.images
                p.hits += report.accuracy * report.images
                p.images += report.images
                for callback in self.callbacks:
                    callback.on_step(report)
            self._pause(self.checkpoints is not None and self.checkpoints.due(p.step))
        best = self._evaluate(epoch)
        self._pause(best, best)

    def _step(self, epoch: int, x: Any, t: Any) -> StepReport | None:
        """One step, or None when its loss or a gradient was not finite and such batches are skipped."""
        begun = perf_counter()
        progress, span = self.step / self.steps_per_epoch, self.total_steps / self.steps_per_epoch
        self.optimizer.lr = self.base_lr * self.schedule.factor(progress, span)
        for callback in self.callbacks:
            callback.on_batch(self, self.step + 1, x, t)
        done = self.net.step(x, t)
        loss = float(done.loss)
        if not (isfinite(loss) and self.net.device.finite(done.grads.flat)):
            if self.limits.on_nan == "stop":
                raise self._diverged(loss, x, t)
            self.progress.step += 1
            return None
        if self.weight_decay:
            add_weight_decay(self.net.params, done.grads, self.weight_decay)
        self.optimizer.update(self.net.params, done.grads)
        self.progress.step += 1
        accuracy = self.net.count_correct(done.logits, t) / len(t)
        seconds = perf_counter() - begun
        return StepReport(self.step, epoch, loss, accuracy, self.optimizer.lr, len(t), seconds)

    def _diverged(self, loss: float, x: Any, t: Any) -> Diverged:
        """The error that says where it went wrong; nothing is saved any more, so that good checkpoints stay."""
        what = "a gradient became infinite or no number" if isfinite(loss) else f"the loss became {loss}"
        where = first_not_finite(self.net, x, t)
        self._collect(wait=True)
        kept = self.checkpoints.paths() if self.checkpoints else []
        stays = f"; the last checkpoint is {kept[-1]}" if kept else ""
        return Diverged(
            f"{what} at step {self.step + 1}: lower optimizer.lr (now {self.optimizer.lr:g}); first in {where}{stays}"
        )

    def _pause(self, due: bool, best: bool = False) -> None:
        """Between two steps: save where it is time, and end where somebody asks for it."""
        error = next((error for o in self.callbacks if (error := o.stop_request()) is not None), None)
        self._collect()
        if due or error is not None:
            self._save(best, wait=error is not None)
        if error is not None:
            raise error

    def _save(self, best: bool = False, wait: bool = False) -> None:
        """Save where this training is; without `wait` not while the last checkpoint is still being written.

        Weights that are not finite are not worth the place of those before them.
        """
        if self.checkpoints is None or not self.net.device.xp.isfinite(self.net.params.flat).all():
            return
        self._collect(wait)
        if not self.checkpoints.busy():
            self.checkpoints.save(snapshot(self), best)
            self._collect(wait)

    def _collect(self, wait: bool = False) -> None:
        saved = self.checkpoints.collect(wait) if self.checkpoints else None
        if saved is not None:
            for callback in self.callbacks:
                callback.on_saved(saved.facts["observers"].get(type(callback).__name__, {}))

    def _evaluate(self, epoch: int) -> bool:
        """Evaluate the epoch that is over; whether its weights are the best so far."""
        p = self.progress
        metrics = {"train/epoch_loss": p.loss / p.images, "train/epoch_acc": p.hits / p.images} if p.images else {}
        for name, split in (("val", self.data.validation), ("test", self.data.test)):
            if split is not None:
                metrics[f"{name}/loss"], metrics[f"{name}/acc"] = self.net.evaluate(split.x, split.t)
        best = self.data.validation is None or metrics["val/acc"] > p.best[0]
        if best:
            p.best = (metrics.get("val/acc", 0.0), epoch)
            self.best_state = self.net.state_dict()
        report = EpochReport(epoch, p.step, metrics, best, self.seconds)
        p.history.append(report)
        p.position, p.images, p.loss, p.hits = 0, 0.0, 0.0, 0.0
        target = self.limits.target_accuracy
        if target is not None and metrics["test/acc"] >= target and p.target is None:
            p.target = (p.step, report.seconds)
        for callback in self.callbacks:
            callback.on_epoch(report)
        return best

    def _result(self) -> Result:
        p = self.progress
        best = p.history[p.best[1] - 1]
        steps, seconds = p.target or (None, None)
        return Result(
            steps=p.step,
            epochs=len(p.history),
            seconds=p.seconds,
            best_epoch=best.epoch,
            test_loss=best.metrics["test/loss"],
            test_accuracy=best.metrics["test/acc"],
            target_accuracy=self.limits.target_accuracy,
            steps_to_target=steps,
            seconds_to_target=seconds,
            history=tuple(p.history),
        )
