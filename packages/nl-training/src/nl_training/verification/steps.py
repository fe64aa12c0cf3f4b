"""Short trainings by the real trainer, each step and evaluation compared with the textbook formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nl_layers import FlatDict, SoftmaxWithLoss, add_weight_decay, clip_norm
from nl_layers.optimizers import Optimizer
from nl_layers.schedules import Schedule
from nl_models import Network
from nl_nodes import backend_of
from nl_nodes.verify.rounding import length, rounding
from nl_training.data import Dataset, Normalization, Split, batches, epoch_order
from nl_training.training.callbacks import Callback, EpochReport, Result, StepReport, TrainingState
from nl_training.training.regularization import Regularization
from nl_training.training.trainer import Diverged, Trainer, TrainOptions
from nl_training.verification.distance import FAR, LOGITS, LOSS, Arrays, furthest
from nl_training.verification.inputs import expected_batch
from nl_training.verification.points import NotComparable, Point
from nl_training.verification.textbook import (
    Textbook,
    Updates,
    accuracy,
    cross_entropy,
    moving_average,
    schedule_factor,
    shuffled,
)
from nl_training.verification.twins import unchanged

EPOCHS, STEPS, SEED = 2, 2, 1
ACCUMULATED = 3
"""The most batches per step of a short training."""
EVALUATED = 2
UPDATES = 300
SHAPES = {"W1": (3, 2), "W2": (2, 4), "W3": (4, 3), "W4": (3, 1, 2, 2), "W5": (2, 2), "b1": (4,)}
"""Parameters of many updates: optimizers may treat the first and last weights, and wide and tall ones, otherwise."""
# Arrays smaller than this share of the largest one are compared relative to that share of it.
SMALL = 1e-3
# Of the short training, so that its few steps reach it.
EMA = 0.2
# Of the short training's pixels: black is not 0.
MEAN, STD = 0.25, 0.5

Noise = Callable[[Any, Any, int, Arrays], Callable[[str], float]]
"""From a step's images, labels, number and prior state to the rounding error of each array."""


@dataclass(frozen=True)
class Training:
    """The settings of the training about to start.

    Attributes:
        train: the training images.
        sizes: the batch sizes that occur.
        evaluated: the sizes of the evaluated splits.
        epochs: number of epochs; the last may be partial.
        optimizer: the optimizer, before its first step.
        schedule: the learning rate schedule.
        weight_decay: the L2 penalty's rate.
        accumulate: batches per step.
        regularization: augmentation, mixup, clipping and averaging of weights.
    """

    train: Split
    sizes: frozenset[int]
    evaluated: frozenset[int]
    epochs: float
    optimizer: Optimizer
    schedule: Schedule
    weight_decay: float
    accumulate: int = 1
    regularization: Regularization = field(default_factory=Regularization)

    @property
    def mixed(self) -> bool:
        """Whether the labels are rows, mixed from two."""
        return self.regularization.mixup > 0

    @property
    def accumulated(self) -> int:
        """Batches per step of a short training."""
        return min(self.accumulate, ACCUMULATED)

    @property
    def step(self) -> str:
        """The optimizer, schedule, weight decay, batches per step and regularization as text."""
        o = self.optimizer
        settings = ", ".join(f"{k}={v:g}" for k, v in sorted(vars(o).items()) if isinstance(v, float))
        text = f"{type(o).__name__}({settings}), {self.schedule}, weight decay {self.weight_decay:g}"
        parts = [text, f"{self.accumulate} batches per step" * (self.accumulate > 1), str(self.regularization)]
        return ", ".join(filter(None, parts))


def exercised(training: Training, net: Network, point: Point) -> Training:
    """Return the settings of a short training, whose gradients are clipped and whose average reaches its decay."""
    regularization = training.regularization
    if regularization.clip_norm is not None:
        with unchanged(net):
            norm = length(net.device.host(net.step(point.x, point.t).grads.flat))
        regularization = replace(regularization, clip_norm=norm / 2 or 1.0)
    if regularization.ema is not None:
        regularization = replace(regularization, ema=EMA)
    return replace(training, regularization=regularization)


def training_beside_textbook(
    net: Network,
    book: Textbook,
    optimizer: Optimizer,
    training: Training,
    point: Point,
    limit: float,
    noise: Noise,
) -> tuple[str, float]:
    """Return the name and distance of the largest difference in a short training.

    It compares batches, losses, parameters, running statistics, evaluations and the best weights.

    Args:
        net: the network to train.
        book: the textbook training, with the same initial parameters.
        optimizer: the optimizer; its state is changed.
        training: its schedule, weight decay and regularization are used.
        point: of its two steps' batches, only the very last is smaller.
        limit: the largest distance that passes; it is larger than two roundings of a parameter.
        noise: estimates the rounding errors of a step's arrays.

    Raises:
        NotComparable: if there is no formula for the optimizer or schedule, or the loss is not finite.
    """
    classes = tuple(str(n) for n in range(net.classes))
    channels = net.input_shape[0]
    scale = Normalization((MEAN,) * channels, (STD,) * channels)
    ends = Split(point.x[:EVALUATED], point.t[:EVALUATED]), Split(point.x[-EVALUATED:], point.t[-EVALUATED:])
    data = Dataset("chain", Split(point.x, point.t), *ends, classes, scale, "")
    watch = _Beside(book, optimizer.lr, training, data, limit, noise)
    how = training.regularization
    limits = TrainOptions(EPOCHS, watch.size, accumulate=training.accumulated, regularization=how)
    try:
        Trainer(net, optimizer, watch, data, limits, training.weight_decay, SEED, [watch]).run()
    except Diverged as error:
        raise NotComparable(str(error)) from None
    return watch.worst


def updates_beside_textbook(training: Training, limit: float) -> tuple[str, float]:
    """Return the parameter with the larger difference after many updates over all epochs, and that difference."""
    rng, optimizer = np.random.default_rng(0), deepcopy(training.optimizer)
    most = training.regularization.clip_norm
    params, grads = (FlatDict(SHAPES, np.zeros) for _ in range(2))
    size = 1.0 if most is None else most / params.flat.size**0.5  # the norms are on both sides of the limit
    params.flat = rng.standard_normal(params.flat.size)
    start = {name: value.copy() for name, value in params.items()}
    book = Updates(params, optimizer, training.weight_decay, most)
    losses = rng.uniform(1, 2, int(training.epochs)).tolist()
    for number in range(UPDATES):
        epoch = training.epochs * number / UPDATES
        grads.flat = size * rng.standard_normal(grads.flat.size)
        time = epoch, training.epochs, losses[: int(epoch)]
        book.update(grads, training.optimizer.lr * schedule_factor(training.schedule, *time))
        if most is not None:
            clip_norm(grads, most)
        if training.weight_decay:
            add_weight_decay(params, grads, training.weight_decay)
        optimizer.lr = training.optimizer.lr * training.schedule.factor(*time)
        optimizer.update(params, grads)
    expected, found = ({n: after[n] - start[n] for n in start} for after in (book.params, params))
    return furthest(expected, found, limit)


def batches_beside_textbook(training: Training) -> tuple[str, float]:
    """Compare the order of images in an epoch with the textbook's, by their indices."""
    numbers, size = np.arange(len(training.train)), max(training.sizes) * training.accumulate
    found = [x for x, _ in batches(Split(numbers, numbers), size, epoch_order(len(numbers), SEED, 1))]
    whole = all(len(x) == size for x in found[:-1])
    right = whole and np.array_equal(np.concatenate(found), shuffled(len(numbers), SEED, 1))
    return ("", 0.0) if right else ("an epoch", FAR)


class _Beside(Callback):
    """Runs the textbook training in step with a trainer, and records the largest difference.

    It is the trainer's schedule too, so that it sees the losses that a schedule gets.

    Args:
        book: the textbook training.
        lr: the learning rate before the schedule.
        training: its schedule and regularization are used.
        data: the training data.
        limit: the largest distance that passes.
        noise: estimates the rounding errors of a step's arrays.
    """

    def __init__(
        self, book: Textbook, lr: float, training: Training, data: Dataset, limit: float, noise: Noise
    ) -> None:
        self.book, self.lr, self.schedule, self.data = book, lr, training.schedule, data
        self.limit, self.noise = limit, noise
        self.eps = float(np.finfo(book.trains.device.dtype).eps)
        self.size = len(data.train) // (STEPS * training.accumulated) + 1
        self.step_size = self.size * training.accumulated
        self.worst = ("", 0.0)
        self.regularization = training.regularization
        self._start = {name: np.asarray(value, np.float64) for name, value in book.trains.state_dict().items()}
        self._average, self._steps = self._start, 0
        self._sums: dict[str, float] = {}
        self._losses: list[float] = []
        self._best: dict[str, Any] = {"val/acc": -1.0}

    def factor(self, epoch: float, epochs: float, losses: Sequence[float] = ()) -> float:
        """Return the schedule's factor; the losses must be the validation losses reported so far."""
        if list(losses) != self._losses:
            self.worst = ("the schedule's losses", FAR)
        return self.schedule.factor(epoch, epochs, losses)

    def on_batch(self, trainer: TrainingState, step: int, x: Any, t: Any) -> None:
        """Run the textbook's step, before the trainer's."""
        self._net, train = trainer.net, self.data.train
        epoch, position = divmod(step - 1, STEPS)
        index = shuffled(len(train), SEED, epoch + 1)[position * self.step_size :][: self.step_size]
        self._trainer, self._x, self._t = trainer, backend_of([x]).host(x), t
        black = [-MEAN / STD] * self._net.input_shape[0]
        how, classes = self.regularization, self._net.classes
        whole = expected_batch(train.x, train.t, index, how, black, classes, SEED, epoch + 1, position)
        for found, value in zip((self._x, t), whole, strict=True):
            slip = 4 * self.eps * float(np.abs(value).max()) if how.mixup else 0.0
            if found.shape != value.shape or not np.allclose(found, value, rtol=0, atol=slip):
                self.worst = ("the batch", FAR)
        self._lr = self.lr * schedule_factor(self.schedule, (step - 1) / STEPS, EPOCHS, self._losses)
        self.book.step(self._x, self._t, self._lr, self.size)
        self._compare_loss()
        if self.book.trains.device.dtype == "float64":
            expected = self.book.gradient()
            self._keep(furthest(expected, self.book.found, self.limit, self._noise()))

    def _compare_loss(self) -> None:
        """Compare the loss with its formula, if it is that of softmax."""
        loss = self._net.loss_layer
        if isinstance(loss, SoftmaxWithLoss) and loss.gradient == "stable":
            logits = np.asarray(self.book.found[LOGITS], np.float64)
            expected = {LOSS: cross_entropy(logits, self._t, loss.label_smoothing)}
            slip = 8 * self.eps * float(np.abs(logits).max())
            self._keep(furthest(expected, self.book.found, self.limit, lambda name: slip))

    def _noise(self) -> Callable[[str], float]:
        """Return an estimate of the rounding error of the step's arrays: at most the sum of its batches' errors."""
        each = [self.noise(x, t, number, self.book.before) for x, t, number in self.book.batches]
        return lambda name: sum(noise(name) for noise in each)

    def on_step(self, report: StepReport) -> None:
        """Compare the step's parameters, statistics, loss, accuracy and learning rate."""
        book, found = self.book, self._net.state_dict()
        moved = {name: value - book.before[name] for name, value in book.params.items()}
        self._compare(
            moved,
            {name: found[name] - book.before[name] for name in moved},
            lambda name: 2 * self.eps * length(book.before[name]) + book.jumps(name, book.trains.device.dtype),
        )
        expected = {"loss": book.found[LOSS], "acc": accuracy(book.found[LOGITS], self._t)}
        noise = self._noise()
        self._rounding: Callable[[str], float] = lambda name: noise(name) if name in book.statistics else 0.0
        self._compare(
            {**book.statistics, LOSS: expected["loss"], "the accuracy": expected["acc"], "the learning rate": self._lr},
            {**found, LOSS: report.loss, "the accuracy": report.accuracy, "the learning rate": report.lr},
            self._rounding,
        )
        if self.regularization.clip_norm is not None:
            self._compare(
                {"the gradient's norm": book.norm}, {"the gradient's norm": report.grad_norm}, lambda name: 0.0
            )
        self._compare_average(found)
        for name, value in expected.items():
            name = f"train/epoch_{name}"
            self._sums[name] = self._sums.get(name, 0.0) + value * len(self._t) / len(self.data.train)

    def _compare_average(self, found: Arrays) -> None:
        """Compare the averaged weights and statistics after a step with these values."""
        if self.regularization.ema is None:
            return
        assert self._trainer.average is not None
        self._average = {
            name: moving_average(value, found[name], self.regularization.ema, self._steps)
            for name, value in self._average.items()
        }
        self._steps += 1
        averages = self._trainer.average.net.state_dict()
        moved, theirs = (
            {name: state[name] - self._start[name] for name in self._start} for state in (self._average, averages)
        )
        self._compare(moved, theirs, lambda name: 4 * self.eps * length(self._start[name]))

    def on_epoch(self, report: EpochReport) -> None:
        """Compare the epoch's evaluation with that of the network's own state, which the steps have compared."""
        expected, self._sums, noise, rounded = self._sums, {}, dict[str, float](), self._rounding
        state = self._net.state_dict()
        for name, split in (("val", self.data.validation), ("test", self.data.test)):
            expected[f"{name}/loss"], expected[f"{name}/acc"], noise[f"{name}/loss"] = self._evaluated(split, state)
        self._losses.append(report.metrics["val/loss"])
        if self.regularization.ema is not None:
            averaged = self._evaluated(self.data.validation, self._average)
            expected["val/loss_ema"], expected["val/acc_ema"], noise["val/loss_ema"] = averaged

        def allowed(name: str) -> float:
            return noise[name] if name in noise else rounded(name)

        self._compare(expected, report.metrics, allowed)
        if expected["val/acc"] > self._best["val/acc"]:
            self._best = {**expected, **self.book.params, **self.book.statistics}
            self._best_noise = allowed

    def on_end(self, trainer: TrainingState, result: Result) -> None:
        """Compare the best weights and the test results."""
        reported = {"test/loss": result.test_loss, "test/acc": result.test_accuracy}
        found = {**trainer.best_state, **reported}
        self._compare({name: self._best[name] for name in found}, found, self._best_noise)
        if self.regularization.ema is not None:
            assert result.average is not None
            loss, acc, noise = self._evaluated(self.data.test, self._average)
            names = "the average's test/loss", "the average's test/acc"
            expected, averaged = (dict(zip(names, pair, strict=True)) for pair in ((loss, acc), result.average))
            self._compare(expected, averaged, lambda name: noise if name == names[0] else 0.0)

    def _evaluated(self, split: Split | None, state: Arrays) -> tuple[float, float, float]:
        """Return the textbook's loss and accuracy on a split, and the rounding error of the loss."""
        assert split is not None
        loss, acc, rough = self.book.evaluate(split.x, split.t, state)
        return loss, acc, rounding(np.float64(loss), *rough, dtype=self.book.trains.device.dtype)

    def _compare(self, expected: Mapping[str, Any], found: Mapping[str, Any], noise: Callable[[str], float]) -> None:
        """Compare arrays, small ones relative to the largest; `noise` estimates the rounding error of each."""
        roots = {name: np.sqrt(np.size(value)) for name, value in expected.items()}
        small = SMALL * max((length(value) / roots[name] for name, value in expected.items()), default=0.0)
        self._keep(furthest(expected, found, self.limit, lambda name: self.limit * small * roots[name] + noise(name)))

    def _keep(self, found: tuple[str, float]) -> None:
        self.worst = max(self.worst, found, key=lambda w: w[1])
