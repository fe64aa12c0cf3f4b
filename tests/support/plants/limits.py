"""Errors that `verify=strict` accepts, one for each limit of a certificate."""

from __future__ import annotations

from threading import current_thread, main_thread

import numpy as np

from nl_layers import dropout, optimizers
from nl_models import Network
from nl_nodes import Device, Dot
from nl_nodes.compiler import Plan
from nl_training.training.trainer import Trainer
from support.plants.registry import NORMALISED, ROWS, plant, scaled, wrap


@plant("", NORMALISED)
def another_definition() -> None:
    """Dropout scales by another factor, forward and backward."""
    wrap(dropout.Dropout, "wire", lambda right, self, x, mode: right(self, x, mode=mode) * (1.1 if mode.train else 1))


@plant("", ROWS, images=lambda x: x[::-1])
def labels_of_other_images() -> None:
    """The data set has its images in another order than its labels."""


@plant("", ROWS)
def labels_as_rows() -> None:
    """The gradient is wrong for labels in rows (N, classes)."""

    def change(right, self, x, t):
        done = right(self, x, t)
        if np.ndim(t) == 2:
            done.grads.flat *= 1.01
        return done

    wrap(Network, "step", change)


@plant("", ROWS)
def weights_further_out() -> None:
    """The gradient of a product is wrong where a weight is above 100."""

    def change(right, self, ctx, dy):
        return scaled(right(self, ctx, dy), ctx.xp.where(ctx.inputs[1].real > 100, 1.001, 1).max())

    wrap(Dot, "backward", change)


@plant("", ROWS)
def after_many_passes() -> None:
    """Gradients are wrong after a plan has run 1,000 times."""
    runs: dict[Plan, int] = {}

    def change(right, self, *given):
        found = right(self, *given)
        runs[self] = runs.get(self, 0) + 1
        if runs[self] > 1000:
            for grad in self.grads.values():
                grad *= 1.001
        return found

    wrap(Plan, "run", change)


@plant("", ROWS)
def values_that_are_not_finite() -> None:
    """NaN is taken for finite."""
    Device.finite = lambda self, *arrays: True


@plant("", ROWS, optimizer="SGD")
def less_than_rounding() -> None:
    """SGD's steps are 0.001 % too long in float32."""

    def change(right, self, param, grad):
        right(self, param, grad * np.float32(1.00001) if param.dtype == np.float32 else grad)

    wrap(optimizers.SGD, "update_array", change)


@plant("", ROWS)
def large_evaluations() -> None:
    """The loss of an evaluation is wrong above 10 images."""

    def change(right, self, x, t):
        loss, accuracy = right(self, x, t)
        return loss * (1.01 if len(x) > 10 else 1), accuracy

    wrap(Network, "evaluate", change)


@plant("", ROWS)
def trainings_cut_short() -> None:
    """The schedule ignores `max_steps`."""

    def change(right, self, x, t):
        total, self.total_steps = self.total_steps, self.options.epochs * self.steps_per_epoch
        right(self, x, t)
        self.total_steps = total

    wrap(Trainer, "_enqueue", change)


@plant("", ROWS)
def resumed_trainings() -> None:
    """After `resume`, the optimizer counts its steps from 0."""
    wrap(optimizers.Optimizer, "load_state_dict", lambda right, self, state, steps: right(self, state, 0))


@plant("", ROWS)
def other_threads() -> None:
    """`Network.step` returns a wrong gradient in other threads than the main one."""

    def change(right, self, x, t):
        done = right(self, x, t)
        if current_thread() is not main_thread():
            done.grads.flat *= 1.01
        return done

    wrap(Network, "step", change)
