"""Optimizers that follow the gradient, its moving average, or the sign of it."""

from __future__ import annotations

from nl_layers.optimizers.base import Optimizer
from nl_nodes import backend_of
from nl_nodes.arguments import NOT_NEGATIVE, SHARE
from nl_nodes.typing import Array


class SGD(Optimizer):
    """p <- p - lr g.

    Source: Robbins and Monro (1951); Deep Learning from Scratch, 6.1.2.

    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> SGD(lr=0.1).update(params, {"W": np.array([2.0])})
    >>> params["W"].tolist()
    [0.8]
    """

    def update_array(self, param: Array, grad: Array, **state: Array) -> None:
        param -= self.now["lr"] * grad


class Momentum(Optimizer):
    """v <- m v - lr g; p <- p + v.

    Source: Polyak (1964); Deep Learning from Scratch, 6.1.4.
    """

    slots = ("velocity",)

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(lr)
        SHARE.check(type(self).__name__, momentum=momentum)
        self.momentum = momentum

    def update_array(self, param: Array, grad: Array, **state: Array) -> None:
        v = state["velocity"]
        v *= self.momentum
        v -= self.now["lr"] * grad
        param += v


class Nesterov(Momentum):
    """p <- p + m^2 v - (1 + m) lr g; v <- m v - lr g: Nesterov's momentum, with p the look-ahead point.

    Source: Sutskever et al., On the Importance of Initialization and Momentum (2013); Bengio et al., Advances in
    Optimizing Recurrent Networks (2013), equation 7.
    """

    def numbers(self) -> dict[str, float]:
        """Return the numbers that change from step to step, by name."""
        return {"lr": self.lr, "ahead": (1 + self.momentum) * self.lr}

    def update_array(self, param: Array, grad: Array, **state: Array) -> None:
        v, m = state["velocity"], self.momentum
        param += m * m * v - self.now["ahead"] * grad
        v *= m
        v -= self.now["lr"] * grad


class Lion(Optimizer):
    """p <- p - lr (sign(b1 m + (1 - b1) g) + wd p); m <- b2 m + (1 - b2) g.

    Every element moves by lr, so its rate is three to ten times below Adam's. Weights decay decoupled, as in `AdamW`;
    biases, gammas and betas do not.

    Source: Chen et al., Symbolic Discovery of Optimization Algorithms (2023), algorithm 2.

    >>> import numpy as np
    >>> params = {"b": np.array([1.0, 1.0])}
    >>> Lion(lr=0.25).update(params, {"b": np.array([0.001, -5.0])})
    >>> params["b"].tolist()
    [0.75, 1.25]
    """

    slots = ("mean",)

    def __init__(self, lr: float = 1e-4, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.01) -> None:
        super().__init__(lr)
        SHARE.check(type(self).__name__, beta1=beta1, beta2=beta2)
        NOT_NEGATIVE.check(type(self).__name__, weight_decay=weight_decay)
        self.beta1, self.beta2, self.weight_decay = beta1, beta2, weight_decay

    def numbers(self) -> dict[str, float]:
        """Return the numbers that change from step to step, by name."""
        return {"lr": self.lr, "kept": 1 - self.lr * self.weight_decay}

    def shrink(self, weights: Array) -> None:
        """Decay the weights."""
        weights *= self.now["kept"]

    def update_array(self, param: Array, grad: Array, **state: Array) -> None:
        m = state["mean"]
        c = self.beta1 * m + (1 - self.beta1) * grad
        param -= self.now["lr"] * backend_of([param]).xp.sign(c)
        m *= self.beta2
        m += (1 - self.beta2) * grad
