"""A training step as the textbooks write it, apart from the code that trains: the reference for whole steps.

Parameters go by name, one after the other; nothing is flat, in place or shared with the code that is checked, but for
the gradient node by node, which the complex step verifies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import cos, pi
from typing import Any

import numpy as np

from nl_layers import BatchNormalization, Mode
from nl_layers.optimizers import Optimizer
from nl_layers.schedules import Schedule
from nl_models import Network
from nl_nodes import Graph, Input
from nl_training.verification.points import NotComparable

Arrays = dict[str, Any]
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
            return float(h["gamma"] ** (epoch // h["every"]))
        case "Cosine":
            warmup = min(h["warmup"], epochs / 2)
            if epoch < warmup:
                return float(max(0.01, epoch / warmup))
            done = min(1.0, (epoch - warmup) / (epochs - warmup))
            return float(h["final"] + (1.0 - h["final"]) * (1.0 + cos(done * pi)) / 2.0)
    raise NotComparable(f"no textbook's formula of {type(schedule).__name__}")


class Textbook:
    """Parameters, optimizer state and running statistics that go through training steps.

    Args:
        net: a float64 network that runs node by node; it is used up.
        optimizer: whose kind and hyperparameters are followed.
        weight_decay: the penalty's rate.

    Raises:
        NotComparable: for an optimizer that no formula stands here for.
    """

    def __init__(self, net: Network, optimizer: Optimizer, weight_decay: float) -> None:
        if type(optimizer).__name__ not in OPTIMIZERS:
            raise NotComparable(f"no textbook's formula of {type(optimizer).__name__}")
        self.net, self.weight_decay = net, weight_decay
        self._rule, self._settings = OPTIMIZERS[type(optimizer).__name__], dict(vars(optimizer))
        self.params = {name: np.array(value) for name, value in net.params.items()}
        self.statistics = {name: value for name, value in net.state_dict().items() if name not in self.params}
        self._states: dict[str, Arrays] = {name: {} for name in self.params}
        self._steps = 0

    def step(self, x: Any, t: Any, lr: float) -> float:
        """One step on a batch; the loss before it."""
        self.net.load_state_dict({**self.params, **self.statistics})
        graph = self.net.wire(len(x), train=True)
        graph.passes = self._steps
        done = graph.run(x=x, t=t)
        self._follow_statistics(x)
        grads = done.backward(np.float64(1.0))
        self._steps += 1
        for name, p in self.params.items():
            weight = name.startswith("W")
            g = grads[name] + self.weight_decay * p if weight else grads[name]
            if weight and "weight_decay" in self._settings:
                p = p - lr * self._settings["weight_decay"] * p
            self.params[name] = self._rule(self._settings, p, g, self._states[name], lr, self._steps)
        return float(done.results[0])

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
        graph.passes = self._steps
        return graph.run(x=x).results[0]
