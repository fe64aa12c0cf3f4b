"""Cases: the inputs on which a node, layer or loss is verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nl_nodes.node import Node
from nl_nodes.typing import Shape


@dataclass(frozen=True)
class Draw:
    """How to draw one input: its shape and the values on which the operation is smooth.

    `domain` is one of "real" (standard normal), "positive" (0.5 to 2), "distinct" (all values at least 0.1 apart, so
    that no maximum is nearly tied), "away" (at least 0.1 from `point`, where there may be a kink), "labels" (integers
    below `classes`), "unit" (0.1 to 0.9).
    """

    shape: Shape
    domain: str = "real"
    point: float = 0.0
    classes: int = 0


@dataclass(frozen=True)
class Case:
    """One verification case.

    Attributes:
        label: a short description.
        build: returns the output node for the input nodes.
        draws: how to draw each input; "labels" inputs have no gradient.
        linear: whether the output is linear in all inputs jointly, so that the adjoint test is exact.
        zero: indices of the inputs whose gradient is zero by construction.
        surrogate: whether the gradient is deliberately not the derivative, so that finite differences cannot check it.
    """

    label: str
    build: Callable[..., Node]
    draws: tuple[Draw, ...]
    linear: bool = False
    zero: tuple[int, ...] = ()
    surrogate: bool = False


def real(*shape: int) -> Draw:
    """Draw standard normal values."""
    return Draw(shape)


def positive(*shape: int) -> Draw:
    """Draw values from 0.5 to 2."""
    return Draw(shape, "positive")


def distinct(*shape: int) -> Draw:
    """Draw values that differ by at least 0.1."""
    return Draw(shape, "distinct")


def away(*shape: int, point: float = 0.0) -> Draw:
    """Draw normal values at least 0.1 from `point`."""
    return Draw(shape, "away", point=point)


def unit(*shape: int) -> Draw:
    """Draw values from 0.1 to 0.9, such as probabilities."""
    return Draw(shape, "unit")


def labels(*shape: int, classes: int) -> Draw:
    """Draw integer labels from 0 to `classes - 1`, which have no gradient."""
    return Draw(shape, "labels", classes=classes)
