"""Errors in optimizers, schedules, weight decay and the training loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nl_layers import flat, optimizers, schedules
from nl_layers.schedules import Cosine, OneCycle, ReduceOnPlateau
from nl_models import Network
from nl_nodes.device.cpu import NumpyBackend
from nl_training.training import steps as taking
from nl_training.training import trainer
from nl_training.training.trainer import Trainer
from nl_training.verification import steps
from support.plants.registry import ROWS, plant, wrap


@plant("step", ROWS, weight_decay=1e-3)
def weight_decay_on_biases() -> None:
    """Weight decay acts on biases too."""
    flat.decays = lambda name: True


@plant("step", ROWS, weight_decay=1e-3)
def weight_decay_doubled() -> None:
    """Weight decay has twice its rate."""
    wrap(taking, "add_weight_decay", lambda right, params, grads, rate: right(params, grads, 2 * rate))


@plant("step", ROWS, weight_decay=1e-3, optimizer="SGD")
def weight_decay_forgotten() -> None:
    """Weight decay does nothing."""
    taking.add_weight_decay = lambda params, grads, rate: None


@plant("trainer", ROWS, weight_decay=1e-3)
def weight_decay_doubled_in_float32() -> None:
    """Weight decay has twice its rate in float32."""

    def change(right, params, grads, rate):
        right(params, grads, 2 * rate if params.flat.dtype == np.float32 else rate)

    wrap(taking, "add_weight_decay", change)


@plant("step", ROWS, optimizer="AdamW")
def decoupled_decay_on_biases() -> None:
    """AdamW's decay acts on biases too."""
    optimizers.base.decayed = lambda params: [params.flat]


@plant("step", ROWS)
def eps_inside_the_root() -> None:
    """Adam adds eps before it takes the root."""

    def update_array(self, param, grad, mean, square_mean):
        mean += (1 - self.beta1) * (grad - mean)
        square_mean += (1 - self.beta2) * (grad * grad - square_mean)
        root = np.sqrt(square_mean / (1 - self.beta2**self.steps) + self.eps)
        param -= self.lr / (1 - self.beta1**self.steps) * mean / root

    optimizers.Adam.update_array = update_array


def steps_counted(count: Callable[[int], int]) -> None:
    """Let Adam use another number of steps for its bias correction."""

    def change(right, self):
        made, self.steps = self.steps, count(self.steps)
        numbers = right(self)
        self.steps = made
        return numbers

    wrap(optimizers.Adam, "numbers", change)


@plant("step", ROWS)
def steps_not_counted() -> None:
    """Adam's bias correction is that of step 1."""
    steps_counted(lambda made: 1)


@plant("step", ROWS)
def steps_counted_to_a_hundred() -> None:
    """Adam's bias correction is that of step 100 from then on."""
    steps_counted(lambda made: min(made, 100))


@plant("step", ROWS, optimizer="Momentum")
def velocity_forgotten() -> None:
    """Momentum sets its velocity to 0 before each step."""

    def change(right, self, param, grad, velocity):
        velocity[...] = 0
        right(self, param, grad, velocity=velocity)

    wrap(optimizers.Momentum, "update_array", change)


@plant("step", ROWS, optimizer="Nesterov")
def nesterov_without_looking_ahead() -> None:
    """Nesterov's step is that of momentum."""
    optimizers.Nesterov.update_array = optimizers.Momentum.update_array


@plant("step", ROWS, optimizer="AdaGrad")
def squares_not_summed() -> None:
    """AdaGrad forgets 0.1 % of its sum at each step."""

    def change(right, self, param, grad, square_sum):
        square_sum *= 0.999
        right(self, param, grad, square_sum=square_sum)

    wrap(optimizers.AdaGrad, "update_array", change)


@plant("step", ROWS, optimizer="RMSprop")
def rmsprop_decay_inverted() -> None:
    """RMSprop keeps 1 % of its mean at each step, not 99 %."""

    def change(right, self, param, grad, square_mean):
        self.decay = 1 - self.decay
        right(self, param, grad, square_mean=square_mean)
        self.decay = 1 - self.decay

    wrap(optimizers.RMSprop, "update_array", change)


@plant("step", ROWS, optimizer="Lion")
def lion_rates_exchanged() -> None:
    """Lion uses the rate of its mean in the step, and that of the step in its mean."""

    def change(right, self, param, grad, mean):
        self.beta1, self.beta2 = self.beta2, self.beta1
        right(self, param, grad, mean=mean)
        self.beta1, self.beta2 = self.beta2, self.beta1

    wrap(optimizers.Lion, "update_array", change)


@plant("step", ROWS, optimizer="LAMB")
def trust_ratio_forgotten() -> None:
    """LAMB's steps are not scaled by the norms of weights."""
    wrap(optimizers.layerwise, "_norms", lambda right, weight, step: (1.0, 1.0))


@plant("step", ROWS, optimizer="LAMB")
def trust_ratio_of_the_gradient() -> None:
    """LAMB scales by the norm of its step without weight decay."""

    def change(right, weight, step):
        return right(weight, step - 0.01 * weight)

    wrap(optimizers.layerwise, "_norms", change)


@plant("step", ROWS, optimizer="Muon")
def wrong_coefficient() -> None:
    """Muon's last coefficient is 2.03, not 2.0315."""
    optimizers.layerwise.COEFFICIENTS = (3.4445, -4.7750, 2.03)


@plant("step", ROWS, optimizer="Muon")
def wide_weights_not_scaled() -> None:
    """Muon's steps of weights with more columns than rows have the factor of a square."""

    def change(right, matrix):
        rows, columns = matrix.shape
        return right(matrix) * min(1.0, rows / columns) ** 0.5

    wrap(optimizers.layerwise, "orthogonalized", change)


@plant("step", ROWS, optimizer="Muon")
def first_and_last_weights_orthogonalized() -> None:
    """Muon treats the first and the last weight like hidden ones."""

    def change(right, self, params):
        return {name: ("momentum",) if param.ndim > 1 else self.slots for name, param in params.items()}

    wrap(optimizers.Muon, "slots_of", change)


@plant("trainer", ROWS, optimizer="Muon")
def four_newton_schulz_steps_in_float32() -> None:
    """Muon takes four Newton-Schulz steps in float32, not five."""

    def change(right, matrix):
        optimizers.layerwise.NEWTON_SCHULZ_STEPS = 4 if matrix.dtype == np.float32 else 5
        return right(matrix)

    wrap(optimizers.layerwise, "orthogonalized", change)


@plant("step", ROWS, optimizer="SGD")
def second_block_off() -> None:
    """An optimizer scales the gradient in all blocks of memory but the first."""
    NumpyBackend.block = 32

    def change(right, param, grad):
        for number, (part, part_grad) in enumerate(right(param, grad)):
            yield part, part_grad * 1.001 if number else part_grad

    wrap(optimizers.base, "blocks", change)


@plant("trainer", ROWS, optimizer="SGD")
def optimizer_off_in_float32() -> None:
    """SGD's steps are 1 % too long in float32."""

    def change(right, self, param, grad):
        right(self, param, grad * np.float32(1.01) if param.dtype == np.float32 else grad)

    wrap(optimizers.SGD, "update_array", change)


@plant("trainer", ROWS)
def learning_rate_capped() -> None:
    """The trainer caps the learning rate at 0.0001."""

    def change(right, self, net, optimizer, *others):
        optimizer.lr = min(optimizer.lr, 1e-4)
        right(self, net, optimizer, *others)

    wrap(Trainer, "__init__", change)


@plant("step", ROWS)
def schedule_a_step_late() -> None:
    """The schedule is half an epoch late."""
    wrap(Cosine, "factor", lambda right, self, epoch, *others: right(self, max(epoch - 0.5, 0), *others))


@plant("step", ROWS)
def schedule_stops_after_three_epochs() -> None:
    """The learning rate stays constant after epoch 3."""
    wrap(Cosine, "factor", lambda right, self, epoch, *others: right(self, min(epoch, 3), *others))


@plant("step", ROWS)
def schedule_ignored() -> None:
    """The learning rate stays constant."""
    Cosine.factor = lambda self, epoch, epochs, losses: 1.0


@plant("step", ROWS, schedule=OneCycle())
def one_cycle_in_straight_lines() -> None:
    """One cycle rises and falls in straight lines."""
    schedules._half_cosine = lambda start, end, progress: start + (end - start) * progress


@plant("step", ROWS, schedule=ReduceOnPlateau(0.5, patience=1))
def plateaus_an_epoch_late() -> None:
    """A plateau counts one epoch later."""
    wrap(ReduceOnPlateau, "factor", lambda right, self, *time: right(self, *time[:2], time[2][:-1]))


@plant("step", ROWS, schedule=ReduceOnPlateau(0.5, patience=0))
def losses_kept_from_the_schedule() -> None:
    """The schedule never gets the validation losses."""
    Trainer._losses = property(lambda self: [])


@plant("trainer", ROWS)
def images_reversed_in_float32() -> None:
    """In float32, the trainer reverses the images of a batch, but not their labels."""

    def change(right, self, x, t):
        right(self, x[::-1] if self.net.device.dtype == "float32" else x, t)

    wrap(Trainer, "_enqueue", change)


@plant("step", ROWS)
def labels_shifted() -> None:
    """Each image of a batch has the label of the previous one."""
    wrap(trainer, "batches", lambda right, *given: ((x, np.roll(t, 1)) for x, t in right(*given)))


@plant("step", ROWS)
def last_batch_left_out() -> None:
    """Epochs leave out a smaller last batch."""

    def change(right, split, size, order):
        return ((x, t) for x, t in right(split, size, order) if len(t) == size)

    wrap(trainer, "batches", change)


@plant("step", ROWS)
def images_never_shuffled() -> None:
    """Each epoch takes the images in the order of the data set."""
    trainer.epoch_order = lambda images, seed, epoch: np.arange(images)


@plant("step", ROWS)
def image_taken_twice() -> None:
    """Each epoch takes one image twice and leaves another one out."""

    def change(right, images, seed, epoch):
        order = right(images, seed, epoch)
        order[1] = order[0]
        return order

    wrap(trainer, "epoch_order", change)


@plant("step", ROWS)
def image_left_out_of_many() -> None:
    """Epochs of more than 8 images leave one out."""
    for module in (trainer, steps):
        wrap(module, "epoch_order", lambda right, images, *which: right(images, *which)[: images - (images > 8)])


@plant("step", ROWS)
def best_weights_not_copied() -> None:
    """The best weights are views of the weights that train."""
    wrap(Network, "state_dict", lambda right, self: {**right(self), **self.params})


@plant("step", ROWS)
def best_weights_are_the_last() -> None:
    """The best weights are those of the last epoch."""

    def change(right, self, epoch):
        best = right(self, epoch)
        self.best_state = self.net.state_dict()
        return best

    wrap(Trainer, "_evaluate", change)


@plant("step", ROWS)
def unweighted_mean_of_batches() -> None:
    """An epoch's mean loss gives a smaller last batch the same weight."""

    def change(right, self, epoch):
        p = self.progress
        p.loss, ctx = len(self.losses) and p.images * sum(self.losses) / len(self.losses), self.losses
        ctx.clear()
        return right(self, epoch)

    def take(right, self, batch):
        taken = right(self, batch)
        Trainer.losses.append(taken.loss)
        return taken

    Trainer.losses = []
    wrap(Trainer, "_evaluate", change)
    wrap(taking.Steps, "_take", take)
