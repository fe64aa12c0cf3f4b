"""Initial weights: normally distributed, with a standard deviation chosen for the layer."""

from __future__ import annotations

from math import sqrt
from typing import Protocol

from nl_nodes import UserError
from nl_nodes.typing import Array, Shape


class Generator(Protocol):
    """A random generator such as `numpy.random.Generator`."""

    def standard_normal(self, size: Shape) -> Array:
        """Return standard normal values."""


def std(init: str | float, fan_in: int) -> float:
    """Return the standard deviation of a layer's initial weights.

    Args:
        init: "he" (sqrt(2 / fan_in), for ReLU), "xavier" (sqrt(1 / fan_in), for sigmoid and tanh), or the number.
        fan_in: number of inputs of each output.

    Raises:
        UserError: for another name or a number that is not above 0.

    Source: He et al., Delving Deep into Rectifiers (2015), section 2.2; Glorot and Bengio (2010); Deep Learning from
    Scratch, 6.2.

    >>> std("he", 50)
    0.2
    """
    if init == "he":
        return sqrt(2 / fan_in)
    if init == "xavier":
        return sqrt(1 / fan_in)
    if isinstance(init, str) or not init > 0:
        raise UserError(f"init={init}: use he, xavier or a standard deviation above 0")
    return float(init)


def normal(rng: Generator, shape: Shape, fan_in: int, init: str | float = "he") -> Array:
    """Return normal float64 values with standard deviation `std(init, fan_in)`."""
    return rng.standard_normal(shape) * std(init, fan_in)
