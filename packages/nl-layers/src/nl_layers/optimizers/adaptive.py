"""Optimizers that divide each element of the gradient by its usual size."""

from __future__ import annotations

from nl_layers.optimizers.base import Optimizer
from nl_nodes import backend_of
from nl_nodes.arguments import NOT_NEGATIVE, POSITIVE, SHARE
from nl_nodes.typing import Array


class AdaGrad(Optimizer):
    """h <- h + g^2; p <- p - lr g / (sqrt(h) + eps).

    Source: Duchi, Hazan and Singer, Adaptive Subgradient Methods (2011); Deep Learning from Scratch, 6.1.5.
    """

    slots = ("square_sum",)

    def __init__(self, lr: float = 0.01, eps: float = 1e-8) -> None:
        super().__init__(lr)
        POSITIVE.check(type(self).__name__, eps=eps)
        self.eps = eps

    def update_array(self, param: Array, grad: Array, **state: Array) -> None:
        h = state["square_sum"]
        h += grad * grad
        param -= self.now["lr"] * grad / (backend_of([param]).xp.sqrt(h) + self.eps)


class RMSprop(Optimizer):
    """h <- d h + (1 - d) g^2; p <- p - lr g / (sqrt(h) + eps).

    Source: Tieleman and Hinton, Lecture 6.5 (2012).
    """

    slots = ("square_mean",)

    def __init__(self, lr: float = 0.01, decay: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(lr)
        SHARE.check(type(self).__name__, decay=decay)
        POSITIVE.check(type(self).__name__, eps=eps)
        self.decay, self.eps = decay, eps

    def update_array(self, param: Array, grad: Array, **state: Array) -> None:
        h = state["square_mean"]
        h *= self.decay
        h += (1 - self.decay) * grad * grad
        param -= self.now["lr"] * grad / (backend_of([param]).xp.sqrt(h) + self.eps)


class Adam(Optimizer):
    """m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; p <- p - lr m' / (sqrt(v') + eps).

    m' = m / (1 - b1^t) and v' = v / (1 - b2^t), with t the number of steps, correct the bias of the start at zero.

    Source: Kingma and Ba, Adam (2015), algorithm 1.
    """

    slots = ("mean", "square_mean")

    def __init__(self, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__(lr)
        SHARE.check(type(self).__name__, beta1=beta1, beta2=beta2)
        POSITIVE.check(type(self).__name__, eps=eps)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def numbers(self) -> dict[str, float]:
        """Return the numbers that change from step to step, by name."""
        return {"rate": self.lr / (1 - self.beta1**self.steps), "correction": 1 - self.beta2**self.steps}

    def update_array(self, param: Array, grad: Array, **state: Array) -> None:
        m, scale = self.moments(grad, **state)
        param -= self.now["rate"] * m / scale

    def moments(self, grad: Array, mean: Array, square_mean: Array) -> tuple[Array, Array]:
        """Update the moving averages m and v in place, and return m and sqrt(v') + eps."""
        mean *= self.beta1
        mean += (1 - self.beta1) * grad
        square_mean *= self.beta2
        square_mean += (1 - self.beta2) * grad * grad
        root = backend_of([square_mean]).xp.sqrt(square_mean / self.now["correction"])
        return mean, root + self.eps


class AdamW(Adam):
    """Adam with decoupled weight decay: weights W shrink by lr weight_decay W at each step.

    Biases, gammas and betas are not decayed.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019), algorithm 2.
    """

    def __init__(
        self, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01
    ) -> None:
        super().__init__(lr, beta1, beta2, eps)
        NOT_NEGATIVE.check(type(self).__name__, weight_decay=weight_decay)
        self.weight_decay = weight_decay

    def numbers(self) -> dict[str, float]:
        """Return the numbers that change from step to step, by name."""
        return {**super().numbers(), "kept": 1 - self.lr * self.weight_decay}

    def shrink(self, weights: Array) -> None:
        """Decay the weights."""
        weights *= self.now["kept"]
