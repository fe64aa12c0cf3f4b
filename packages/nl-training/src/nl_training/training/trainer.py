"""Trainer: epochs of shuffled batches, an evaluation after each, the best weights by validation accuracy."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf, isfinite
from time import perf_counter
from typing import Any

from nl_layers.optimizers import Optimizer
from nl_layers.schedules import Schedule
from nl_models import Network
from nl_nodes import UserError
from nl_training.data import Dataset, EpochBatches, batches, epoch_order
from nl_training.data.augment import Augmentation
from nl_training.data.mixup import mixup
from nl_training.training.average import WeightAverage
from nl_training.training.callbacks import Callback, EpochReport, Result, StepReport, TimeLimit, TrainingState
from nl_training.training.checkpoint import Checkpoints
from nl_training.training.divergence import first_not_finite
from nl_training.training.regularization import Regularization
from nl_training.training.snapshot import snapshot
from nl_training.training.steps import Batch, Taken, steps_of

SPLIT_NAMES = {"val": "validation"}
"""The splits whose names for people are others than in metrics."""


class Diverged(UserError):
    """Raised when the loss or a gradient is not finite."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training.

    Attributes:
        epochs: passes over the training data, 1 or more.
        batch_size: images per batch; the last batch of an epoch may be smaller, and is left out if it is a single image
            that batch norm cannot normalise.
        max_steps: maximum number of steps, None for no limit.
        target_accuracy: stop at the first evaluation whose accuracy on the whole test set reaches this, None for no
            target. The best weights are still chosen by validation accuracy.
        on_nan: "stop" ends the training if the loss or a gradient is not finite, "skip" leaves that batch out.
        patience: stop after this many epochs without a better validation accuracy, None to train all epochs.
        max_seconds: stop after this training time, unfinished, with a checkpoint; None for no limit.
        accumulate: batches per step, whose gradients are averaged by their numbers of images.
        regularization: augmentation, mixup, clipping and averaging of weights.
    """

    epochs: int = 10
    batch_size: int = 128
    max_steps: int | None = None
    target_accuracy: float | None = None
    on_nan: str = "stop"
    patience: int | None = None
    max_seconds: float | None = None
    accumulate: int = 1
    regularization: Regularization = field(default_factory=Regularization)


class Trainer(TrainingState):
    """Training loop of a network on a data set.

    Args:
        net: the network to train.
        optimizer: the optimizer; the schedule scales its `lr`, which it has again after the training.
        schedule: the learning rate schedule.
        data: training, validation and test splits.
        options: batch size and when to stop.
        weight_decay: coefficient of weight decay, added to the weights' gradients.
        seed: seed of the batch order, of augmentation and of mixup.
        callbacks: called on steps, epochs and the end.
        checkpoints: where to save the training, None to save nothing.

    Attributes:
        epoch_batches: number and size of an epoch's batches and steps.

    Raises:
        ShapeError: if batch norm cannot normalise any batch.
    """

    def __init__(
        self,
        net: Network,
        optimizer: Optimizer,
        schedule: Schedule,
        data: Dataset,
        options: TrainOptions | None = None,
        weight_decay: float = 0.0,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.options = options = options or TrainOptions()
        self.schedule, self.base_lr = schedule, optimizer.lr
        self.checkpoints = checkpoints
        self.epoch_batches = EpochBatches.of(net, len(data.train), options.batch_size, options.accumulate)
        self.steps_per_epoch = self.epoch_batches.count
        steps = options.epochs * self.steps_per_epoch
        total_steps = min(steps, options.max_steps or steps)
        super().__init__(net, optimizer, data, options.batch_size, total_steps, seed, callbacks, options.accumulate)
        self.regularization = regularization = options.regularization
        if regularization.ema is not None:
            self.average = WeightAverage(net, regularization.ema)
        self._augment = Augmentation(regularization.augment, data, seed)
        reads = any(c.reads_network for c in callbacks if type(c).on_step is not Callback.on_step)
        ahead = not reads and self.average is None
        size = options.batch_size if options.accumulate > 1 else None
        self._steps = steps_of(net, optimizer, weight_decay, ahead, size, regularization.clip_norm)
        splits = {"train": data.train, "val": data.validation, "test": data.test}
        self._splits = {name: self._steps.split(split) for name, split in splits.items() if split is not None}

    def run(self) -> Result:
        """Train from the start, or from a restored snapshot, to the end and return the result.

        Raises:
            Diverged: if the loss or a gradient is not finite and `on_nan` is "stop".
            TimeLimit: if `max_seconds` is reached before the last step.
        """
        self.started = perf_counter() - self.progress.seconds
        for callback in self.callbacks:
            callback.on_start(self)
        freezes = not gc.get_freeze_count()  # else the program itself has, and objects of its own
        if freezes:
            gc.collect()
            gc.freeze()  # a collection over all modules takes 0.2 s, and a training makes little garbage
        try:
            if not self.progress.ended:
                self._train()
        finally:
            if freezes:
                gc.unfreeze()
            self.optimizer.lr = self.base_lr
        result = self._result()
        for callback in self.callbacks:
            callback.on_end(self, result)
        return result

    def _train(self) -> None:
        p = self.progress
        while not self._ended:
            self._save_or_stop(due=False)  # the time may be over before a resumed training's first step
            self._epoch(len(p.history) + 1)
        if self.average is not None:
            p.average = self._measured(self.average.net, "test")
        p.seconds, p.ended = self.seconds, True
        result = self._result()
        for callback in self.callbacks:
            callback.on_result(result)
        self._save(wait=True)

    @property
    def _ended(self) -> bool:
        """Whether the steps are done, the target is reached, or the patience has run out."""
        p, patience = self.progress, self.options.patience
        if p.position:
            return False
        tired = patience is not None and len(p.history) - p.best[1] >= patience
        return p.step >= self.total_steps or p.target is not None or tired

    def _epoch(self, epoch: int) -> None:
        p = self.progress
        order = epoch_order(len(self.data.train), self.seed, epoch)[: self.epoch_batches.images]
        end = p.position + max(self.total_steps - p.step, 0)
        size = self.epoch_batches.step_size
        steps = enumerate(batches(self._splits["train"], size, order))
        for number, (x, t) in islice(steps, p.position, end):
            x = self._augment(x, order[number * size :][:size], epoch)
            if alpha := self.options.regularization.mixup:
                x, t = mixup(x, t, alpha, self.net.classes, self.seed, epoch, number)
            self._enqueue(x, t)
            if self._steps.full:
                self._report()
            step = p.step + len(self._steps)
            self._save_or_stop(self.checkpoints is not None and self.checkpoints.due(step))
        self._report()
        best = self._evaluate(epoch)
        self._save_or_stop(best, best)

    def _enqueue(self, x: Any, t: Any) -> None:
        """Begin the next step, with its learning rate."""
        step = self.step + len(self._steps)
        progress, span = step / self.steps_per_epoch, self.total_steps / self.steps_per_epoch
        self.optimizer.lr = self.base_lr * self.schedule.factor(progress, span, self._losses)
        for callback in self.callbacks:
            callback.on_batch(self, step + 1, x, t)
        self._steps.enqueue(Batch(x, t, self.optimizer.lr))

    @property
    def _losses(self) -> list[float]:
        """The validation loss after each epoch; its mean training loss without a validation split."""
        each = (epoch.metrics for epoch in self.progress.history)
        return [metrics.get("val/loss", metrics.get("train/epoch_loss", inf)) for metrics in each]

    def _report(self) -> None:
        """Count the steps taken and report them; a step that is not finite ends the training or is left out."""
        p = self.progress
        epoch = len(p.history) + 1
        for taken in self._steps.results():
            batch, images = taken.batch, len(taken.batch.t)
            if taken.hits is None and self.options.on_nan == "stop":
                raise self._diverged(taken)
            p.step += 1
            p.position += 1
            if taken.hits is None:
                continue
            p.loss += taken.loss * images
            p.hits += taken.hits
            p.images += images
            if self.average is not None:
                self.average.update()
            rate = taken.hits / images
            report = StepReport(p.step, epoch, taken.loss, rate, batch.lr, images, taken.seconds, taken.norm)
            for callback in self.callbacks:
                callback.on_step(report)

    def _diverged(self, taken: Taken) -> Diverged:
        """Return the error that names the first node; the weights are not saved, so that good checkpoints stay."""
        finite = isfinite(taken.loss)
        what = "a gradient became infinite or no number" if finite else f"the loss became {taken.loss}"
        where = first_not_finite(self.net, taken.batch.x, taken.batch.t)
        self._collect(wait=True)
        kept = self.checkpoints.paths() if self.checkpoints else []
        stays = f"; the last checkpoint is {kept[-1]}" if kept else ""
        scheduled = "" if taken.batch.lr == self.base_lr else f", {taken.batch.lr:g} by the schedule"
        return Diverged(
            f"{what} at step {self.step + 1}: lower optimizer.lr (now {self.base_lr:g}{scheduled}); "
            f"first in {where}{stays}"
        )

    def _save_or_stop(self, due: bool, best: bool = False) -> None:
        """Between two steps: save if a checkpoint is due, stop if a callback requests it."""
        error = next((error for o in self.callbacks if (error := o.stop_request()) is not None), self._time_limit())
        self._collect()
        if due or error is not None:
            self._report()
            self._save(best, wait=error is not None)
        if error is not None:
            raise error

    def _time_limit(self) -> TimeLimit | None:
        limit = self.options.max_seconds
        if limit is None or self.seconds < limit or self._ended:
            return None
        return TimeLimit(f"trainer.max_seconds={limit:g} is reached in epoch {len(self.progress.history) + 1}")

    def _save(self, best: bool = False, wait: bool = False) -> None:
        """Save a checkpoint; without `wait`, skip it while the last one is still being written.

        Weights that are not finite are not saved: they would replace good ones.
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
        """Evaluate after an epoch; return whether the weights are the best so far."""
        p = self.progress
        metrics = {"train/epoch_loss": p.loss / p.images, "train/epoch_acc": p.hits / p.images} if p.images else {}
        for name in (name for name in self._splits if name != "train"):
            metrics[f"{name}/loss"], metrics[f"{name}/acc"] = self._measured(self.net, name)
            if not isfinite(loss := metrics[f"{name}/loss"]) and self.options.on_nan == "stop":
                images = f"{SPLIT_NAMES.get(name, name)} images"
                raise Diverged(
                    f"the loss on {images} is {loss} after step {p.step}: lower optimizer.lr (now {self.base_lr:g})"
                )
        if self.average is not None and "val" in self._splits:
            metrics["val/loss_ema"], metrics["val/acc_ema"] = self._measured(self.average.net, "val")
        best = "val" not in self._splits or metrics["val/acc"] > p.best[0]
        if best:
            p.best = (metrics.get("val/acc", 0.0), epoch)
            self.best_state = self.net.state_dict()
        report = EpochReport(epoch, p.step, metrics, best, self.seconds)
        p.history.append(report)
        p.position, p.images, p.loss, p.hits = 0, 0.0, 0.0, 0.0
        target = self.options.target_accuracy
        if target is not None and metrics["test/acc"] >= target and p.target is None:
            p.target = (p.step, report.seconds)
        for callback in self.callbacks:
            callback.on_epoch(report)
        return best

    def _measured(self, net: Network, name: str) -> tuple[float, float]:
        """Return mean loss and accuracy of a network on a split."""
        split = self._splits[name]
        for callback in self.callbacks:
            callback.on_evaluate(SPLIT_NAMES.get(name, name), len(split))
        return net.evaluate(split.x[:], split.t)

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
            target_accuracy=self.options.target_accuracy,
            steps_to_target=steps,
            seconds_to_target=seconds,
            history=tuple(p.history),
            average=p.average,
        )
