"""Training steps of a real trainer, each beside the textbook's."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_models import Network
from nl_training.data import Dataset, Normalization, Split
from nl_training.observer import Observer, StepReport
from nl_training.trainer import Diverged, Limits, Trainer
from nl_training.verification.points import LOSS, NotComparable, Point, furthest
from nl_training.verification.textbook import Textbook, schedule_factor

if TYPE_CHECKING:
    from nl_training.verification.chain import Training

EPOCHS, BATCHES = 2, 2
# So small that steps of any optimizer stay where rounding is not amplified, whatever rate trains; a step is compared in
# units of its own length.
LR = 1e-5


def steps_beside_textbook(net: Network, reference: Network, training: Training, point: Point) -> tuple[str, float]:
    """What is furthest off after any of some steps, and how far: loss, parameters and running statistics.

    Args:
        net: a float64 network, which is trained.
        reference: the same, node by node.
        training: how they are trained.
        point: the images of a batch; the others are multiples of them.

    Raises:
        NotComparable: where there is no formula for what trains, or the loss is no finite number.
    """
    rng = np.random.default_rng(0)
    for value in net.params.values():  # away from biases of zero, on which no decay shows
        value += rng.uniform(0.05, 0.1, value.shape) * (value.ndim == 1)
    reference.load_state_dict(net.state_dict())
    optimizer = deepcopy(training.optimizer)
    optimizer.lr = LR
    watch = _Beside(Textbook(reference.on(reference.device), optimizer, training.weight_decay), training)
    x = np.concatenate([point.x * (1 + number) / BATCHES for number in range(BATCHES)])
    data = _dataset(net, x, np.concatenate([point.t] * BATCHES))
    limits = Limits(epochs=EPOCHS, batch_size=len(point.x))
    try:
        Trainer(net, optimizer, training.schedule, data, limits, training.weight_decay, observers=[watch]).run()
    except Diverged as error:
        raise NotComparable(str(error)) from None
    return watch.worst


class _Beside(Observer):
    """Lets the textbook make each step too, and keeps where the two are furthest apart."""

    def __init__(self, book: Textbook, training: Training) -> None:
        self.book, self.training = book, training
        self._start = dict(book.params)
        self.worst = ("", 0.0)

    def on_batch(self, trainer: Trainer, step: int, x: Any, t: Any) -> None:
        """The textbook's step, before the trainer's."""
        self._net = trainer.net
        lr = LR * schedule_factor(self.training.schedule, (step - 1) / BATCHES, EPOCHS)
        self._loss = self.book.step(np.asarray(x, dtype=np.float64), np.asarray(t), lr)

    def on_step(self, report: StepReport) -> None:
        """Compare."""
        found = self._net.state_dict()
        moved = {name: value - self._start[name] for name, value in self.book.params.items()}
        others = {**self.book.statistics, LOSS: np.float64(self._loss)}
        for expected, given in (
            (moved, {name: found[name] - self._start[name] for name in moved}),
            (others, {**found, LOSS: np.float64(report.loss)}),
        ):
            self.worst = max(self.worst, furthest(expected, given), key=lambda w: w[1])


def _dataset(net: Network, x: Any, t: Any) -> Dataset:
    """These images to train on, and the first of them to test."""
    normalization = Normalization.scaling(1.0, net.input_shape[0])
    classes = tuple(str(n) for n in range(net.classes))
    return Dataset("chain", Split(x, t), None, Split(x[:2], t[:2]), classes, normalization, "")
