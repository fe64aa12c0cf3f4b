"""Training steps: taken one by one, or on a GPU enqueued ahead of their results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from typing import Any

from nl_layers import FlatDict, add_weight_decay, clip_norm
from nl_layers.flat import blocks
from nl_layers.optimizers import Optimizer
from nl_models import Network
from nl_training.data import Split
from nl_training.training.resident import resident

AHEAD = 32
"""Steps that a GPU is given before the results of the first are read."""


@dataclass(frozen=True)
class Batch:
    """The images of a step, or some of them.

    Attributes:
        x: images (N, C, H, W), of the host or of the GPU.
        t: their labels.
        lr: the learning rate of the step.
    """

    x: Any
    t: Any
    lr: float


@dataclass(frozen=True)
class Taken:
    """A step that was taken, or left out because its loss or gradient is not finite.

    Attributes:
        batch: its images and labels; where the step was left out, those of the pass that is not finite.
        loss: mean loss of the batch, without weight decay.
        hits: number of images classified correctly; None where the step was left out.
        seconds: the time that it took.
        norm: the gradient's norm, if it is limited.
    """

    batch: Batch
    loss: float
    hits: int | None
    seconds: float
    norm: float | None = None


class Steps:
    """Takes each step at once.

    Args:
        net: the network to train.
        optimizer: the optimizer of its parameters.
        weight_decay: coefficient of weight decay.
        clip_norm: the largest norm of the gradient, without weight decay; None for no limit.
    """

    ahead = 1

    def __init__(self, net: Network, optimizer: Optimizer, weight_decay: float, clip_norm: float | None = None) -> None:
        self.net, self.optimizer, self.weight_decay, self.clip_norm = net, optimizer, weight_decay, clip_norm
        self._batches: list[Batch] = []

    def __len__(self) -> int:
        """The number of steps whose results were not read yet."""
        return len(self._batches)

    @property
    def full(self) -> bool:
        """Whether results must be read before the next step."""
        return len(self) >= self.ahead

    def split(self, split: Split) -> Split:
        """Return a split whose images are on the GPU, if there is one and they fit."""
        return resident(self.net.device, split)

    def enqueue(self, batch: Batch) -> None:
        """Add a step; the optimizer has the batch's learning rate."""
        self._batches.append(batch)

    def results(self) -> Iterator[Taken]:
        """Yield the results of the enqueued steps, in order."""
        batches, self._batches = self._batches, []
        for batch in batches:
            yield self._take(batch)

    def _take(self, batch: Batch) -> Taken:
        """Take one step and wait for it."""
        begun, norm = perf_counter(), None
        batch, loss, hits, grads = self._pass(batch)
        if hits is not None:
            if self.clip_norm is not None:
                norm = clip_norm(grads, self.clip_norm)
            if self.weight_decay:
                add_weight_decay(self.net.params, grads, self.weight_decay)
            self.optimizer.update(self.net.params, grads)
        return Taken(batch, loss, hits, perf_counter() - begun, norm)

    def _pass(self, batch: Batch) -> tuple[Batch, float, int | None, FlatDict]:
        """Return a batch, its mean loss, hits (None where loss or gradient is not finite), and mean gradient."""
        output = self.net.step(batch.x, batch.t)
        loss = float(output.loss)
        finite = isfinite(loss) and self.net.device.finite(output.grads.flat)
        return batch, loss, self.net.count_correct(output.logits, batch.t) if finite else None, output.grads


class AccumulatedSteps(Steps):
    """Takes each step at once, in small batches whose gradients are averaged by their numbers of images.

    Where a small batch is not finite, the whole step is left out, with the changes of the running statistics.

    Args:
        net: the network to train.
        optimizer: the optimizer of its parameters.
        weight_decay: coefficient of weight decay.
        size: images per small batch.
        clip_norm: the largest norm of the mean gradient; see `Steps`.
    """

    def __init__(
        self, net: Network, optimizer: Optimizer, weight_decay: float, size: int, clip_norm: float | None = None
    ) -> None:
        super().__init__(net, optimizer, weight_decay, clip_norm)
        self.size = size
        self._mean = FlatDict(net.params.shapes(), net.device.zeros)

    def _pass(self, batch: Batch) -> tuple[Batch, float, int | None, FlatDict]:
        count, loss, hits = len(batch.t), 0.0, 0
        before = [(leaf, leaf.value.copy()) for layer in self.net.layers for leaf in layer.buffers.values()]
        self._mean.flat[...] = 0
        for start in range(0, count, self.size):
            span = slice(start, start + self.size)
            small, small_loss, small_hits, grads = super()._pass(Batch(batch.x[span], batch.t[span], batch.lr))
            if small_hits is None:
                for leaf, value in before:
                    leaf.value[...] = value
                return small, small_loss, None, grads
            share = len(small.t) / count
            loss, hits = loss + share * small_loss, hits + small_hits
            for mean, grad in blocks(self._mean.flat, grads.flat):
                mean += share * grad
        return batch, loss, hits, self._mean


class EnqueuedSteps(Steps):
    """Lets a GPU work ahead: results are read for many steps at once.

    From a step on whose pass is not finite nothing changes on the GPU. That step is then taken again by itself, as
    a pass node by node may be finite (see docs/decisions/0017-not-finite.md), and those after it are enqueued again.

    Args:
        net: the network to train.
        optimizer: the optimizer of its parameters.
        weight_decay: coefficient of weight decay.
        ahead: steps that are enqueued before results must be read.
    """

    def __init__(self, net: Network, optimizer: Optimizer, weight_decay: float, ahead: int = AHEAD) -> None:
        super().__init__(net, optimizer, weight_decay)
        self.ahead, self._begun = ahead, perf_counter()
        self._before: list[tuple[int, int]] = []  # the optimizer's steps and the network's passes before each step
        self._results = net.device.xp.zeros((ahead, 3), dtype="float64")

    def enqueue(self, batch: Batch) -> None:
        """Enqueue a step and the copies of its results."""
        if not self._batches:
            self._begun = perf_counter()
        row = self._results[len(self)]
        super().enqueue(batch)
        self._before.append((self.optimizer.steps, self.net.passes))
        done = self.net.enqueue(self.optimizer, batch.x, batch.t, self.weight_decay)
        for column, value in enumerate((done.loss, done.hits, done.finite)):
            row[column] = value

    def results(self) -> Iterator[Taken]:
        """Wait for the enqueued steps and yield their results, in order."""
        while self._batches:
            (batches, self._batches), (before, self._before) = (self._batches, []), (self._before, [])
            rows = self.net.device.host(self._results)[: len(batches)].tolist()
            seconds = (perf_counter() - self._begun) / len(batches)
            for number, (batch, (loss, hits, finite)) in enumerate(zip(batches, rows, strict=True)):
                if finite:
                    yield Taken(batch, loss, int(hits), seconds)
                    continue
                yield self._take_again(batch, *before[number])
                for later in batches[number + 1 :]:
                    self.optimizer.lr = later.lr
                    self.enqueue(later)
                break

    def _take_again(self, batch: Batch, steps: int, passes: int) -> Taken:
        self.optimizer.lr, self.optimizer.steps, self.net.passes = batch.lr, steps, passes
        self.net.finite_so_far[...] = 0
        return self._take(batch)


def steps_of(
    net: Network,
    optimizer: Optimizer,
    weight_decay: float,
    ahead: bool,
    accumulated: int | None = None,
    clip_norm: float | None = None,
) -> Steps:
    """Return the steps of a training on the network's device.

    Args:
        net: the network to train.
        optimizer: the optimizer of its parameters.
        weight_decay: coefficient of weight decay.
        ahead: whether a GPU may work ahead.
        accumulated: images per small batch; None where each step is one batch. A GPU takes accumulated steps at once,
            and those of optimizers that are not elementwise.
        clip_norm: the largest norm of the gradient, which a GPU's recorded steps don't compute: it takes them at once.
    """
    if accumulated is not None:
        return AccumulatedSteps(net, optimizer, weight_decay, accumulated, clip_norm)
    if net.device.card is None or clip_norm is not None or not optimizer.elementwise:
        return Steps(net, optimizer, weight_decay, clip_norm)
    return EnqueuedSteps(net, optimizer, weight_decay, AHEAD if ahead else 1)
