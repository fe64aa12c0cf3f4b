"""A training step written as in textbooks, independent of the training code: the reference for whole steps.

Parameters are separate arrays by name, updated out of place. The only code shared with the code under test is the
gradient node by node, which the complex step verifies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import cos, floor, pi
from typing import Any, cast

import numpy as np

from nl_layers import BatchNormalization, Mode
from nl_layers.module import Module
from nl_layers.optimizers import Optimizer
from nl_layers.schedules import Schedule
from nl_models import Network
from nl_nodes import Graph, Input, Node, Pass
from nl_nodes.verify.rounding import rough_passes
from nl_training.verification.distance import LOGITS, LOSS, Arrays, arrays_of
from nl_training.verification.points import NotComparable

ROUNDINGS = 64
"""The most roundings in a sum of two terms: one smaller than that has either sign."""

Rule = Callable[[Mapping[str, Any], Any, Any, Arrays, float, int], Any]
"""From settings, a parameter, its gradient and state, the learning rate and the step's number to the new parameter."""


def sgd(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """Return `p - lr g`."""
    return p - lr * g


def momentum(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """Return `p + v` with `v = m v - lr g`."""
    s["v"] = h["momentum"] * s.get("v", 0.0) - lr * g
    return p + s["v"]


def nesterov(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """Return `x + m v`, the look-ahead point of `v = m v - lr g` and `x = x + v`."""
    m, v = h["momentum"], s.get("v", 0.0)
    x = p - m * v
    s["v"] = m * v - lr * g
    return x + s["v"] + m * s["v"]


def adagrad(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """Return `p - lr g / (sqrt(h) + eps)` with `h = h + g^2`."""
    s["h"] = s.get("h", 0.0) + g**2
    return p - lr * g / (np.sqrt(s["h"]) + h["eps"])


def rmsprop(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """Return `p - lr g / (sqrt(h) + eps)` with `h = d h + (1 - d) g^2`."""
    s["h"] = h["decay"] * s.get("h", 0.0) + (1 - h["decay"]) * g**2
    return p - lr * g / (np.sqrt(s["h"]) + h["eps"])


def adam(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """Return `p - lr u`, with Adam's direction `u`."""
    return p - lr * adams_direction(h, g, s, step)


def adams_direction(h: Mapping[str, Any], g: Any, s: Arrays, step: int) -> Any:
    """Return `m' / (sqrt(v') + eps)`, with bias-corrected moving averages `m'` of `g` and `v'` of `g^2`."""
    b1, b2 = h["beta1"], h["beta2"]
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g**2
    return (s["m"] / (1 - b1**step)) / (np.sqrt(s["v"] / (1 - b2**step)) + h["eps"])


def lion(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """Return `p - lr sign(c)` with `c = b1 m + (1 - b1) g`, and a moving average `m` of `g` up to the previous step."""
    b1, b2 = h["beta1"], h["beta2"]
    m, size = s.get("m", 0.0), s.get("size", 0.0)
    c, terms = b1 * m + (1 - b1) * g, b1 * size + (1 - b1) * np.abs(g)
    s["m"], s["size"] = b2 * m + (1 - b2) * g, b2 * size + (1 - b2) * np.abs(g)
    s["jump"] = 2 * lr, np.abs(c), terms
    return p - lr * np.sign(c)


def lamb(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """Return `p - lr |p| u / |u|` for a weight, with Adam's direction and decay in `u`; Adam's step for others."""
    u = adams_direction(h, g, s, step)
    if p.ndim < 2:
        return p - lr * u
    u = u + h["weight_decay"] * p
    norms = np.linalg.norm(p), np.linalg.norm(u)
    return p - lr * u * (norms[0] / norms[1] if all(norms) else 1.0)


def muon(h: Mapping[str, Any], p: Any, g: Any, s: Arrays, lr: float, step: int) -> Any:
    """Return `p - 0.2 sqrt(max(rows, columns)) lr U S V^T`, with the singular values S changed one by one."""
    m = h["momentum"]
    s["b"] = m * s.get("b", 0.0) + (1 - m) * g
    matrix = (m * s["b"] + (1 - m) * g).reshape(len(p), -1)
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    values = values / max(np.sqrt(np.sum(values**2)), 1e-7)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return p - 0.2 * np.sqrt(max(matrix.shape)) * lr * ((u * values) @ v).reshape(p.shape)


OPTIMIZERS: dict[str, Rule] = {
    "SGD": sgd,
    "Momentum": momentum,
    "Nesterov": nesterov,
    "AdaGrad": adagrad,
    "RMSprop": rmsprop,
    "Adam": adam,
    "AdamW": adam,
    "Lion": lion,
    "LAMB": lamb,
    "Muon": adam,  # hidden weights by `muon`
}


def schedule_factor(schedule: Schedule, epoch: float, epochs: float, losses: Sequence[float] = ()) -> float:
    """Return the learning rate's factor after `epoch` of `epochs` epochs with these validation losses.

    Raises:
        NotComparable: for a schedule without a formula here.
    """
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
        case "OneCycle":
            done, rise, low = min(1.0, epoch / epochs), h["pct_start"], 1 / h["div_factor"]
            if done < rise:
                return float(low + (1.0 - low) * (1.0 - cos(pi * done / rise)) / 2.0)
            low /= h["final_div_factor"]
            return float(low + (1.0 - low) * (1.0 + cos(pi * (done - rise) / (1.0 - rise))) / 2.0)
        case "Exponential":
            return float(np.exp(epoch * np.log(h["gamma"])))
        case "ReduceOnPlateau":
            return float(h["gamma"] ** plateaus(losses, h["patience"], 1.0 - h["threshold"]))
    raise NotComparable(f"no textbook formula for {type(schedule).__name__}")


def plateaus(losses: Sequence[float], patience: int, share: float) -> int:
    """Return the number of plateaus: runs of `patience + 1` losses, none below `share` times all better ones before."""
    found, last, best = 0, -1, float("inf")
    for epoch, loss in enumerate(losses):
        if loss < share * best:
            best, last = loss, epoch
        elif epoch - last == patience + 1:
            found, last = found + 1, epoch
    return found


def shuffled(images: int, seed: int, epoch: int) -> Any:
    """Return the order of images in an epoch; epochs count from 1."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,))).permutation(images)


def logits_of(net: Network, x: Any, run: Callable[[Graph, Mapping[str, Any]], Pass] = Pass) -> Any:
    """Return the logits in inference, node by node, for each image alone, so that images cannot affect each other."""
    graph = net.wire(1, train=False)
    return np.concatenate([run(graph, {"x": np.asarray(image[None], np.float64)}).results[0] for image in x])


def accuracy(logits: Any, t: Any) -> float:
    """Return the accuracy of logits for labels `t`; a single logit predicts label 1 if positive, else 0."""
    if t.ndim == 2:
        t = t.argmax(axis=1) if t.shape[1] > 1 else t[:, 0] > 0.5
    found = logits.argmax(axis=1) if logits.shape[1] > 1 else logits[:, 0] > 0
    return float(np.mean(found == t))


def cross_entropy(logits: Any, t: Any, smoothing: float) -> float:
    """Return the mean of `-sum over k of ((1 - e) t_k + e / K) log p_k` for labels or rows t and smoothing e."""
    classes = logits.shape[1]
    rows = t if t.ndim == 2 else np.eye(classes)[t]
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -float(
        np.mean([np.dot((1 - smoothing) * a + smoothing / classes, b) for a, b in zip(rows, logs, strict=True)])
    )


def moving_average(average: Any, value: Any, decay: float, step: int) -> Any:
    """Return `d e + (1 - d) w` after step n, from 0, with `d = min(decay, (1 + n) / (10 + n))`."""
    d = min(decay, (1 + step) / (10 + step))
    return d * average + (1 - d) * value


class Updates:
    """Parameters updated by the formulas above.

    Args:
        params: initial values.
        optimizer: its class and hyperparameters select the formula.
        weight_decay: the L2 penalty's rate.
        clip_norm: the largest norm of the gradient of all parameters, None for no limit.

    Attributes:
        norm: the norm of the last gradient, before it was clipped.

    Raises:
        NotComparable: for an optimizer without a formula here.
    """

    def __init__(
        self, params: Mapping[str, Any], optimizer: Optimizer, weight_decay: float, clip_norm: float | None = None
    ) -> None:
        if type(optimizer).__name__ not in OPTIMIZERS:
            raise NotComparable(f"no textbook formula for {type(optimizer).__name__}")
        self._settings = dict(vars(optimizer))
        self.params = {name: np.array(value, np.float64) for name, value in params.items()}
        self.weight_decay, self.clip_norm, self.made, self.norm = weight_decay, clip_norm, 0, 0.0
        # LAMB's is part of the step that it scales.
        self._decoupled = 0.0 if "LAMB" in type(optimizer).__name__ else self._settings.get("weight_decay", 0.0)
        self._states: dict[str, Arrays] = {name: {} for name in self.params}
        self._rules = dict.fromkeys(self.params, OPTIMIZERS[type(optimizer).__name__])
        if type(optimizer).__name__ == "Muon":
            self._rules |= dict.fromkeys([name for name in self.params if name.startswith("W")][1:-1], muon)

    def update(self, grads: Mapping[str, Any], lr: float) -> None:
        """Update all parameters by the gradients of the loss."""
        self.made += 1
        self.norm = float(np.sqrt(sum(np.square(np.asarray(grads[name], np.float64)).sum() for name in self.params)))
        scale = 1.0 if self.clip_norm is None else min(1.0, self.clip_norm / (self.norm + 1e-6))
        for name, p in self.params.items():
            weight, g = name.startswith("W"), scale * np.asarray(grads[name], np.float64)
            if weight:
                g = g + self.weight_decay * p
                p = p - lr * self._decoupled * p
            self.params[name] = self._rules[name](self._settings, p, g, self._states[name], lr, self.made)

    def jumps(self, name: str, dtype: str) -> float:
        """Return the length of what rounding to a dtype may change in a parameter's last step: signs of tiny sums."""
        size, total, terms = self._states[name].get("jump", (0.0, 0.0, 0.0))
        info = np.finfo(dtype)
        unknown = (terms > 0) & (total < ROUNDINGS * (info.eps * terms + info.smallest_subnormal))
        return float(size * np.sqrt(np.count_nonzero(unknown)))


class Textbook(Updates):
    """Parameters and running statistics over training steps and evaluations.

    Each step starts from the trained network's state and uses its gradients, since an optimizer that divides gradients
    by their size amplifies the rounding of tiny ones.

    Args:
        trains: the trained network.
        net: its float64 copy that runs node by node; its state is overwritten.
        optimizer: its class and hyperparameters select the formula.
        weight_decay: the L2 penalty's rate.
        clip_norm: the largest norm of the gradient.

    Attributes:
        statistics: the running statistics.
        before: parameters and running statistics before the last step.
        batches: images, labels and index of the pass of each batch of the last step.
        found: gradients, loss and logits of the trained network's last step.
    """

    def __init__(
        self,
        trains: Network,
        net: Network,
        optimizer: Optimizer,
        weight_decay: float,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(net.params, optimizer, weight_decay, clip_norm)
        self.trains, self.net, self.passes = trains, net, 0

    def step(self, x: Any, t: Any, lr: float, size: int) -> None:
        """Compute one step on batches of `size` images; the trained network's state is left unchanged."""
        net, state, passes = self.trains, self.trains.state_dict(), self.trains.passes
        starts = range(0, len(x), size)
        self.batches = [(x[i : i + size], t[i : i + size], self.passes + n) for n, i in enumerate(starts)]
        self.passes += len(starts)
        self.found = self._mean(self._found)
        net.load_state_dict(state)
        net.passes = passes
        self.before = {name: np.asarray(value, np.float64) for name, value in state.items()}
        self.params = {name: self.before[name] for name in self.params}
        self.statistics = {name: value for name, value in self.before.items() if name not in self.params}
        self._load()
        for images, _, number in self.batches:
            self._follow_statistics(np.asarray(images, np.float64), number)
        self.update(self.found, lr)

    def gradient(self) -> Arrays:
        """Return gradients, loss and logits of the last step, computed node by node."""
        self.net.load_state_dict(self.before)
        return self._mean(self._computed)

    def _mean(self, arrays: Callable[[Any, Any, int], Arrays]) -> Arrays:
        """Return the mean of the gradients and losses of the step's images, and all logits."""
        count, each = sum(len(t) for _, t, _ in self.batches), [(len(b[1]), arrays(*b)) for b in self.batches]
        mean = {n: sum(images / count * found[n] for images, found in each) for n in (*self.params, LOSS)}
        return {**mean, LOGITS: np.concatenate([found[LOGITS] for _, found in each])}

    def _found(self, x: Any, t: Any, number: int) -> Arrays:
        """Return gradients, loss and logits of the trained network's next pass."""
        done, host = self.trains.step(x, t), self.trains.device.host
        grads = {name: np.array(host(grad), np.float64) for name, grad in done.grads.items()}
        return {**grads, LOSS: float(done.loss), LOGITS: host(done.logits)}

    def _computed(self, x: Any, t: Any, number: int) -> Arrays:
        """Return gradients, loss and logits of a batch, computed node by node."""
        graph = self.net.wire(len(x), train=True, rows=t.ndim == 2)
        graph.passes = number
        return arrays_of(graph.run(x=np.asarray(x, np.float64), t=t))

    def evaluate(self, x: Any, t: Any, state: Arrays) -> tuple[float, float, list[float]]:
        """Return mean loss and accuracy of images `x` with labels `t`, and the losses of rough passes.

        They are of the weights and running statistics `state`.
        """
        self.net.load_state_dict(state)
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

    def _follow_statistics(self, x: Any, number: int) -> None:
        """Update the running mean and variance of each batch norm from its input in a pass."""
        mode, last = _Recording(train=True), cast(Node, Input("x", x.shape))
        for layer in self.net.layers:
            last = mode.wire(layer, last)
        for module, node in mode.inputs.items():
            if isinstance(module, BatchNormalization):
                graph = Graph(node)
                graph.passes = number
                before = graph.run(x=x).results[0]
                if before.ndim == 4 and before.shape[1] != module.gamma.value.size:
                    before = before.reshape(len(before), -1)
                axes = (0, 2, 3) if before.ndim == 4 else (0,)
                for leaf, batch in ((module.running_mean, before.mean(axes)), (module.running_var, before.var(axes))):
                    old = self.statistics[leaf.name]
                    self.statistics[leaf.name] = module.momentum * old + (1 - module.momentum) * batch


@dataclass
class _Recording(Mode):
    """Keeps the input of each layer, also of those inside others."""

    inputs: dict[Module, Node] = field(default_factory=dict)

    def wire(self, layer: Module, *inputs: Node) -> Node:
        self.inputs[layer] = inputs[0]
        return super().wire(layer, *inputs)
