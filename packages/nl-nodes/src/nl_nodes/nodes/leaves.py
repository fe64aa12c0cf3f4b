"""Leaves: the inputs, parameters, buffers and constants of a graph."""

from __future__ import annotations

from typing import Any

from nl_nodes.device.backend import backend_of
from nl_nodes.node import Node
from nl_nodes.typing import Array, Shape


class Leaf(Node, abstract=True):
    """Base class of nodes without inputs, whose array is fed by name or is their own `value`.

    Attributes:
        name: the key of its array in feeds and of its gradient.
        value: its array, or None where it must be fed.
        trainable: whether a gradient is wanted.
    """

    def __init__(self, name: str, value: Array = None, *, trainable: bool, shape: Shape | None = None) -> None:
        super().__init__()
        self.name = name
        # A NumPy scalar has a shape too, but could not be changed in place.
        is_array = hasattr(value, "shape") and hasattr(value, "__setitem__")
        self.value = value if value is None or is_array else backend_of(()).array(value)
        self.trainable = trainable
        self.shape = shape if self.value is None else tuple(self.value.shape)

    @property
    def attributes(self) -> dict[str, Any]:
        """The settings by name, without the array."""
        return {name: value for name, value in super().attributes.items() if name != "value"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class Input(Leaf, abstract=True):
    """An array fed in each pass.

    Args:
        name: the keyword under which `Graph.forward` takes it.
        shape: its shape, if known; then shapes are inferred as nodes are created.
        gradient: whether `Graph.backward` returns its gradient.
    """

    def __init__(self, name: str, shape: Shape | None = None, *, gradient: bool = True) -> None:
        super().__init__(name, shape=shape, trainable=gradient)


class Parameter(Leaf, abstract=True):
    """A trainable array, held by reference: in-place changes of `value` take effect in the next pass.

    Args:
        value: the array.
        name: the key of its gradient.
    """

    def __init__(self, value: Array, name: str = "parameter") -> None:
        super().__init__(name, value, trainable=True)


class Buffer(Leaf, abstract=True):
    """An array without gradient that a pass may update, such as a running mean.

    Args:
        value: the array, updated in place.
        name: the key under which it is saved.
    """

    def __init__(self, value: Array, name: str) -> None:
        super().__init__(name, value, trainable=False)

    @classmethod
    def filled(cls, number: float, like: Array, name: str) -> Buffer:
        """Return a buffer filled with `number`, with the shape, dtype and device of `like`."""
        return cls(backend_of([like]).xp.full_like(like, number), name)


class Constant(Leaf, abstract=True):
    """An array without gradient that never changes.

    Args:
        value: the array.
    """

    def __init__(self, value: Array) -> None:
        super().__init__("constant", value, trainable=False)
