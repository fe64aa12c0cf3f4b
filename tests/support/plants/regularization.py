"""Errors in label smoothing, augmentation, mixup, clipping and averaging of weights."""

from __future__ import annotations

import numpy as np

from nl_layers import losses
from nl_training.data import augment
from nl_training.data.augment import Augmentation
from nl_training.training import steps as taking
from nl_training.training import trainer
from nl_training.training.average import WeightAverage
from nl_training.training.regularization import Regularization
from nl_training.training.trainer import Trainer
from support.plants.registry import ROWS, plant, wrap

SMOOTHED = {**ROWS, "label_smoothing": 0.1}
CROPPED = Regularization(augment=("crop_flip",))
MIXED = Regularization(mixup=0.4)
CLIPPED = Regularization(clip_norm=1.0)
AVERAGED = Regularization(ema=0.999)


@plant("step", SMOOTHED)
def smoothing_of_the_wrong_sign() -> None:
    """Label smoothing adds to the label what it takes from the other classes."""
    wrap(losses, "cross_entropy", lambda right, logs, t, smoothing: right(logs, t, -smoothing))


@plant("step", ROWS, regularization=CROPPED)
def border_of_zeros() -> None:
    """Crops show the mean pixel beyond the edges, not black."""
    wrap(augment, "background", lambda right, data: 0 * right(data))


@plant("step", ROWS, regularization=CROPPED)
def never_flipped() -> None:
    """Crops are never flipped."""
    wrap(augment, "_cropped", lambda right, *given, flip: right(*given, flip=False))


@plant("step", ROWS, regularization=CROPPED)
def crops_by_position_in_the_batch() -> None:
    """An image's crop depends on its position in the batch, not on its index."""
    wrap(Augmentation, "__call__", lambda right, self, x, index, epoch: right(self, x, np.arange(len(index)), epoch))


@plant("step", ROWS, regularization=MIXED)
def labels_of_other_pairs() -> None:
    """Mixup mixes the labels of other pairs than those of the images."""

    def change(right, x, t, *given):
        mixed, rows = right(x, t, *given)
        return mixed, rows[::-1]

    wrap(trainer, "mixup", change)


@plant("step", ROWS, regularization=CLIPPED)
def clipped_by_the_largest_value() -> None:
    """The gradient is clipped by its largest value, not by its norm."""

    def clip(grads, most):
        norm = float(np.abs(grads.flat).max())
        grads.flat *= min(1, most / norm)
        return norm

    taking.clip_norm = clip


@plant("step", ROWS, regularization=CLIPPED)
def clipped_parameter_by_parameter() -> None:
    """Each parameter's gradient is clipped by its own norm."""

    def clip(right, grads, most):
        norm = float(np.sqrt(np.square(grads.flat, dtype="float64").sum()))
        for grad in grads.values():
            grad *= min(1, most / (np.sqrt(np.square(grad).sum()) + 1e-6))
        return norm

    wrap(taking, "clip_norm", clip)


@plant("step", ROWS, regularization=AVERAGED)
def average_with_swapped_decay() -> None:
    """The average takes the decay's share of the new weights, not of the old average."""

    def update(self):
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.net.params.flat[...] += decay * (self.of.params.flat - self.net.params.flat)
        self.updates += 1

    WeightAverage.update = update


@plant("step", {**ROWS, "batch_norm": True}, regularization=AVERAGED)
def average_without_statistics() -> None:
    """The average leaves out the running statistics."""

    def change(right, self):
        before = {name: value for name, value in self.net.state_dict().items() if name not in self.net.params}
        right(self)
        self.net.load_state_dict({**self.net.state_dict(), **before})

    wrap(WeightAverage, "update", change)


@plant("step", ROWS, regularization=AVERAGED)
def last_weights_measured_for_the_average() -> None:
    """The test result of the average at the end is that of the last weights."""

    def change(right, self, net, name):
        return right(self, self.net if name == "test" else net, name)

    wrap(Trainer, "_measured", change)
