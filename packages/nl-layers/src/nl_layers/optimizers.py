"""Optimizers, which update parameters in place from their gradients.

Each keeps its state by parameter name and takes any dictionaries of arrays; with those of a network it updates the
whole buffer at once. `lr` may be changed between steps, as schedules do.

Formulas take the numbers that change from step to step from `now`, so that a GPU's update can be recorded once: there
they are arrays without axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from nl_layers.flat import blocks, decayed, paired
from nl_nodes import UserError, backend_of
from nl_nodes.arguments import NOT_NEGATIVE, POSITIVE, SHARE, check_init, checked
from nl_nodes.typing import Array

Arrays = Mapping[str, Array]


class Optimizer:
    """Base of optimizers: calls `update_array` on each parameter, or on blocks of it, with its gradient and state.

    Args:
        lr: the learning rate, above 0.

    Attributes:
        state: the arrays named by `slots`, by parameter.
        steps: number of updates so far.
        now: the numbers of the current step by name, see `numbers`.

    Raises:
        UserError: for an unknown argument, or a number out of its range.
    """

    slots: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        """Refuse unknown keywords in one line."""
        check_init(cls)

    @checked
    def __init__(self, lr: float = 0.01) -> None:
        POSITIVE.check(type(self).__name__, lr=lr)
        self.lr = lr
        self.state: dict[str, dict[str, Array]] = {}
        self.steps = 0
        self.now: Mapping[str, Any] = {}

    def numbers(self) -> dict[str, float]:
        """Return the numbers that change from step to step, by name."""
        return {"lr": self.lr}

    def shrink(self, weights: Array) -> None:
        """Change the weights in place before the step, without biases, gammas and betas; here they stay as they are."""

    def update(self, params: Arrays, grads: Arrays) -> None:
        """Update every array of `params` in place from its gradient in `grads`."""
        self.begin(params, grads)
        for weights in decayed(params):
            self.shrink(weights)
        for name, (param, grad) in paired(params, grads).items():
            slots = (self.state[name][slot] for slot in self.slots)  # by name: a loaded state may have any order
            for block, block_grad, *state in blocks(param, grad, *slots):
                self.update_array(block, block_grad, **dict(zip(self.slots, state, strict=True)))

    def step(self, params: Arrays, grads: Arrays) -> None:
        """Call `update`, by PyTorch's name."""
        self.update(params, grads)

    def begin(self, params: Arrays, grads: Arrays) -> None:
        """Begin a step: count it, set `now`, and create the state of parameters that have none yet."""
        self.steps += 1
        self.now = self.numbers()
        for name, (param, _) in paired(params, grads).items():
            if name not in self.state:
                zeros = backend_of([param]).xp.zeros_like
                self.state[name] = {slot: zeros(param) for slot in self.slots}

    @property
    def settings(self) -> dict[str, Any]:
        """Class and settings, without what changes from step to step."""
        changing = ("lr", "state", "steps", "now")
        return {"class": type(self), **{name: value for name, value in vars(self).items() if name not in changing}}

    def update_array(self, param: Array, grad: Array, **state: Array) -> None:
        """Update a parameter and its state in place, elementwise."""
        raise NotImplementedError

    def __repr__(self) -> str:
        numbers = {name: value for name, value in self.settings.items() if name != "class"}
        listed = ", ".join(f"{name}={value!r}" for name, value in {"lr": self.lr, **numbers}.items())
        return f"{type(self).__name__}({listed})"

    def __copy__(self) -> Optimizer:
        return deepcopy(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Unpickled arrays may be read-only, or views of borrowed memory.
        self.state = {name: {slot: array.copy() for slot, array in slots.items()} for name, slots in self.state.items()}

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the arrays of `state`, keyed `parameter/slot`; `steps` is saved separately."""
        arrays = ((f"{name}/{slot}", array) for name, slots in self.state.items() for slot, array in slots.items())
        return {key: array.copy() for key, array in arrays}

    def load_state_dict(self, state: Arrays, steps: int) -> None:
        """Restore the result of `state_dict`, as arrays on the parameters' device, and the number of steps.

        Raises:
            UserError: for the state of another optimizer; nothing is changed then.
        """
        loaded: dict[str, dict[str, Array]] = {}
        for key, array in state.items():
            name, _, slot = key.rpartition("/")
            loaded.setdefault(name, {})[slot] = array.copy()
        for name, slots in loaded.items():
            if slots.keys() != set(self.slots):
                raise UserError(
                    f"{type(self).__name__} keeps {', '.join(self.slots) or 'nothing'} of each parameter; "
                    f"this state has {', '.join(sorted(slots))} of {name!r}"
                )
        self.state, self.steps = loaded, steps


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
        m, v = state["mean"], state["square_mean"]
        m *= self.beta1
        m += (1 - self.beta1) * grad
        v *= self.beta2
        v += (1 - self.beta2) * grad * grad
        root = backend_of([param]).xp.sqrt(v / self.now["correction"])
        param -= self.now["rate"] * m / (root + self.eps)


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
