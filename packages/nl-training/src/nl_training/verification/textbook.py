"""A training step as the textbooks write it, apart from the code that trains: the reference for whole steps.

Parameters go by name, one after the other; nothing is flat, in place or shared with the code that is checked, but for
the gradient node by node, which the complex step verifies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import cos, floor, pi
from typing import Any

import numpy as np

from nl_layers import BatchNormalization, Mode
from nl_layers.optimizers import Optimizer
from nl_layers.schedules import Schedule
from nl_models import Network
from nl_nodes import Graph, Input, Pass
from nl_nodes.verify.rounding import rough_passes
from nl_training.verification.distance import LOGITS, LOSS, Arrays, arrays_of
from nl_training.verification.points import NotComparable

Rule = Callable[[Mapping[str, Any], Any, Any, Arrays, float, int], Any]
"""From settings, a parameter, its gradient, its state, the learning rate and the step's number to the new parameter."""


def sgd(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """p - lr g."""
    return p - lr * g


def momentum(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """v = m v - lr g; p + v."""
    s["v"] = h["momentum"] * s.get("v", 0.0) - lr * g
    return p + s["v"]


def nesterov(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """Of the point x that does not look ahead: v = m v - lr g; x + v; the parameter is x + m v."""
    m, v = h["momentum"], s.get("v", 0.0)
    x = p - m * v
    s["v"] = m * v - lr * g
    return x + s["v"] + m * s["v"]


def adagrad(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """h = h + g^2; p - lr g / (sqrt(h) + eps)."""
    s["h"] = s.get("h", 0.0) + g**2
    return p - lr * g / (np.sqrt(s["h"]) + h["eps"])


def rmsprop(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """h = d h + (1 - d) g^2; p - lr g / (sqrt(h) + eps)."""
    s["h"] = h["decay"] * s.get("h", 0.0) + (1 - h["decay"]) * g**2
    return p - lr * g / (np.sqrt(s["h"]) + h["eps"])


def adam(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """m and v follow g and g^2; p - lr m' / (sqrt(v') + eps), both corrected for their start at zero."""
    b1, b2 = h["beta1"], h["beta2"]
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g**2
    return p - lr * (s["m"] / (1 - b1**step)) / (np.sqrt(s["v"] / (1 - b2**step)) + h["eps"])


OPTIMIZERS: dict[str, Rule] = {
    "SGD": sgd,
    "Momentum": momentum,
    "Nesterov": nesterov,
    "AdaGrad": adagrad,
    "RMSprop": rmsprop,
    "Adam": adam,
    "AdamW": adam,
}


def schedule_factor(schedule: Schedule, epoch: float, epochs: float) -> float:
    """The learning rate's factor after `epoch` of `epochs` epochs; raises `NotComparable` for other schedules."""
    h = vars(schedule)
    match type(schedule).__name__:
        case "Constant":
            return 1.0
        case "Step":
            return float(h["gamma"] ** floor(epoch / h["every"]))
        case "Cosine":
            warmup = min(h["warmup"], epochs / 2)
            if epoch < warmup:
                return float(max(0.01, epoch / warmup))
            done = min(1.0, (epoch - warmup) / (epochs - warmup))
            return float(h["final"] + (1.0 - h["final"]) * (1.0 + cos(done * pi)) / 2.0)
    raise NotComparable(f"no textbook's formula of {type(schedule).__name__}")


def shuffled(images: int, seed: int, epoch: int) -> Any:
    """The order in which an epoch, counted from 1, takes its images."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,))).permutation(images)


def logits_of(net: Network, x: Any, run: Callable[[Graph, Mapping[str, Any]], Pass] = Pass) -> Any:
    """The logits in inference, node by node: of each image alone, so that none can depend on the others."""
    graph = net.wire(1, train=False)
    return np.concatenate([run(graph, {"x": np.asarray(image[None], np.float64)}).results[0] for image in x])


def accuracy(logits: Any, t: Any) -> float:
    """The share of the images with label t whose largest logit is there; one logit is right on t's side of 0."""
    found = logits.argmax(axis=1) if logits.shape[1] > 1 else logits[:, 0] > 0
    return float(np.mean(found == t))


class Updates:
    """Parameters that are updated by the formulas above.

    Args:
        params: where they start.
        optimizer: whose kind and hyperparameters are followed.
        weight_decay: the penalty's rate.

    Raises:
        NotComparable: for an optimizer that no formula stands here for.
    """

    def __init__(self, params: Mapping[str, Any], optimizer: Optimizer, weight_decay: float) -> None:
        if type(optimizer).__name__ not in OPTIMIZERS:
            raise NotComparable(f"no textbook's formula of {type(optimizer).__name__}")
        self._rule, self._settings = OPTIMIZERS[type(optimizer).__name__], dict(vars(optimizer))
        self.params = {name: np.array(value, np.float64) for name, value in params.items()}
        self.weight_decay, self.made = weight_decay, 0
        self._states: dict[str, Arrays] = {name: {} for name in self.params}

    def update(self, grads: Mapping[str, Any], lr: float) -> None:
        """One update by the loss's gradients."""
        self.made += 1
        for name, p in self.params.items():
            weight, g = name.startswith("W"), np.asarray(grads[name], np.float64)
            if weight:
                g = g + self.weight_decay * p
                p = p - lr * self._settings.get("weight_decay", 0.0) * p
            self.params[name] = self._rule(self._settings, p, g, self._states[name], lr, self.made)


class Textbook(Updates):
    """Parameters and running statistics that go through training steps and evaluations.

    Each step begins where the network that trains stands, and follows its gradients, since an optimizer that divides
    by their size would make the rounding of tiny ones large.

    Args:
        trains: the network that trains.
        net: the same in float64, node by node; it is used up.
        optimizer: whose kind and hyperparameters are followed.
        weight_decay: the penalty's rate.

    Attributes:
        statistics: the running statistics.
        before: the parameters and running statistics before the last step.
        found: gradients, loss and logits of the last step of the network that trains.
    """

    def __init__(self, trains: Network, net: Network, optimizer: Optimizer, weight_decay: float) -> None:
        super().__init__(net.params, optimizer, weight_decay)
        self.trains, self.net = trains, net

    def step(self, x: Any, t: Any, lr: float) -> None:
        """One step on a batch."""
        net, state, passes = self.trains, self.trains.state_dict(), self.trains.passes
        done = net.step(x, t)
        grads = {name: np.array(net.device.host(grad), np.float64) for name, grad in done.grads.items()}
        self.found = {**grads, LOSS: float(done.loss), LOGITS: net.device.host(done.logits)}
        net.load_state_dict(state)
        net.passes = passes
        self.before = {name: np.asarray(value, np.float64) for name, value in state.items()}
        self.params = {name: self.before[name] for name in self.params}
        self.statistics = {name: value for name, value in self.before.items() if name not in self.params}
        self._load()
        self._follow_statistics(np.asarray(x, np.float64))
        self.update(grads, lr)

    def gradient(self, x: Any, t: Any) -> Arrays:
        """Gradients, loss and logits of the last step's batch, node by node."""
        self.net.load_state_dict(self.before)
        graph = self.net.wire(len(x), train=True)
        graph.passes = self.made - 1
        arrays = arrays_of(graph.run(x=np.asarray(x, np.float64), t=t))
        return {name: arrays[name] for name in self.found}

    def evaluate(self, x: Any, t: Any) -> tuple[float, float, list[float]]:
        """Mean loss and accuracy of images x with labels t, and the losses of rough passes."""
        self._load()
        logits, mode = logits_of(self.net, x), Mode(train=False)
        graph = Graph(self.net.loss_layer.wire(Input("x", logits.shape), Input("t", t.shape), mode=mode))
        losses = [graph.run(x=logits, t=t).results[0]]
        losses += [
            run(graph, {"x": logits_of(self.net, x, run), "t": t}).results[0]
            for run in rough_passes(self.trains.device.dtype)
        ]
        loss, *rough = map(float, losses)
        return loss, accuracy(logits, t), rough

    def _load(self) -> None:
        self.net.load_state_dict({**self.params, **self.statistics})

    def _follow_statistics(self, x: Any) -> None:
        """Each batch norm's running mean and variance, from what comes into it."""
        for number, layer in enumerate(self.net.layers):
            if isinstance(layer, BatchNormalization):
                before = self._before(number, x)
                if before.ndim == 4 and before.shape[1] != layer.gamma.value.size:
                    before = before.reshape(len(before), -1)
                axes = (0, 2, 3) if before.ndim == 4 else (0,)
                for leaf, batch in ((layer.running_mean, before.mean(axes)), (layer.running_var, before.var(axes))):
                    old = self.statistics[leaf.name]
                    self.statistics[leaf.name] = layer.momentum * old + (1 - layer.momentum) * batch

    def _before(self, number: int, x: Any) -> Any:
        """What comes into the layer of this number in training."""
        node, mode = Input("x", x.shape), Mode(train=True)
        last: Any = node
        for layer in self.net.layers[:number]:
            last = layer.wire(last, mode=mode)
        graph = Graph(last)
        graph.passes = self.made
        return graph.run(x=x).results[0]
