"""Optimizers whose step of a weight depends on the whole weight."""

from __future__ import annotations

from math import sqrt

from nl_layers.optimizers.adaptive import Adam, AdamW
from nl_layers.optimizers.base import Arrays
from nl_nodes import backend_of
from nl_nodes.arguments import NOT_NEGATIVE, SHARE
from nl_nodes.typing import Array

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of a Newton-Schulz step x <- a x + b x^3 + c x^5, which takes small singular values up fast."""

NEWTON_SCHULZ_STEPS = 5

SMALLEST_NORM = 1e-7
"""Gradients of a smaller norm are not scaled up to 1."""

ADAM_RMS = 0.2
"""The usual root mean square of AdamW's steps, in units of lr."""


class LAMB(Adam):
    """W <- W - lr (|W| / |u|) u with u = m' / (sqrt(v') + eps) + weight_decay W, and m', v' of Adam.

    So each weight W moves by lr times its own norm. The ratio is 1 where a norm is 0. Biases, gammas and betas take
    Adam's step, as in the authors' code: they start at 0 or 1, and a bias of a tiny norm would stay tiny.

    Source: You et al., Large Batch Optimization for Deep Learning (2020), algorithm 2, with phi(z) = z.
    """

    elementwise = False

    def __init__(
        self, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-6, weight_decay: float = 0.01
    ) -> None:
        super().__init__(lr, beta1, beta2, eps)
        NOT_NEGATIVE.check(type(self).__name__, weight_decay=weight_decay)
        self.weight_decay = weight_decay

    def numbers(self) -> dict[str, float]:
        """Return the numbers that change from step to step, by name."""
        return {**super().numbers(), "lr": self.lr, "bias": 1 - self.beta1**self.steps}

    def update_array(self, param: Array, grad: Array, **state: Array) -> None:
        if param.ndim < 2:
            super().update_array(param, grad, **state)
            return
        m, scale = self.moments(grad, **state)
        u = m / (self.now["bias"] * scale) + self.weight_decay * param
        weight_norm, step_norm = _norms(param, u)
        param -= self.now["lr"] * weight_norm * (u / step_norm)  # the ratio of the norms may be too large for float32


def _norms(weight: Array, step: Array) -> tuple[Array, Array]:
    """Return |weight| and |step| as arrays without axes, both 1 where either is 0."""
    xp = backend_of([weight]).xp
    norms = _norm(weight), _norm(step)
    known = (norms[0] > 0) & (norms[1] > 0)
    return xp.where(known, norms[0], 1), xp.where(known, norms[1], 1)


class Muon(AdamW):
    """B <- m B + (1 - m) G; W <- (1 - lr wd) W - lr 0.2 sqrt(max(rows, columns)) O, with O near the closest
    semi-orthogonal matrix to m B + (1 - m) G: momentum whose singular values are all about 1.

    O's singular values are those of the matrix, divided by its norm, after five steps x <- a x + b x^3 + c x^5; they
    come out between 0.7 and 1.2. Kernels (K, C, FH, FW) count as matrices (K, C FH FW).

    This is the rule of hidden weights. All other parameters take AdamW's step: the first and the last weight, in the
    order of `params`, and biases, gammas and betas. The factor of O gives it the size of AdamW's step, so that one
    `lr` fits both.

    Source: Jordan et al., Muon (2024); Liu et al., Muon Is Scalable for LLM Training (2025), section 2.2: the
    factor.
    """

    elementwise = False
    hidden_slots = ("momentum",)

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.95,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(lr, beta1, beta2, eps, weight_decay)
        SHARE.check(type(self).__name__, momentum=momentum)
        self.momentum = momentum

    def numbers(self) -> dict[str, float]:
        """Return the numbers that change from step to step, by name."""
        return {**super().numbers(), "lr": self.lr}

    def slots_of(self, params: Arrays) -> dict[str, tuple[str, ...]]:
        """Return the names of the state arrays of each parameter: hidden weights have a momentum."""
        hidden = [name for name, param in params.items() if param.ndim > 1][1:-1]
        return {**super().slots_of(params), **dict.fromkeys(hidden, self.hidden_slots)}

    @property
    def layouts(self) -> tuple[tuple[str, ...], ...]:
        """The names of the state arrays that a parameter may have."""
        return (*super().layouts, self.hidden_slots)

    def update_array(self, param: Array, grad: Array, **state: Array) -> None:
        if "momentum" not in state:
            super().update_array(param, grad, **state)
            return
        buffer, m = state["momentum"], self.momentum
        buffer *= m
        buffer += (1 - m) * grad
        matrix = (m * buffer + (1 - m) * grad).reshape(len(param), -1)
        rate = self.now["lr"] * ADAM_RMS * sqrt(max(matrix.shape))
        param -= rate * orthogonalized(matrix).reshape(param.shape)


def orthogonalized(matrix: Array) -> Array:
    """Return U S' V^T of a matrix U S V^T, with S' the result of the Newton-Schulz steps on S / |S|.

    Products are of the matrix's dtype, and with the smaller of its two Gram matrices.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / backend_of([x]).xp.maximum(_norm(x), SMALLEST_NORM)
    a, b, c = COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x


def _norm(array: Array) -> Array:
    """Return the 2-norm of all elements as a scalar, from squares in float64: in float32 they may underflow."""
    xp, flat = backend_of([array]).xp, array.ravel()
    return xp.sqrt(xp.einsum("i,i->", flat, flat, dtype="float64")).astype(array.dtype)
