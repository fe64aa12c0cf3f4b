"""The base of every layer: it runs the graph that the layer wires."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nl_nodes import Buffer, Graph, Input, Node, Parameter, UserError
from nl_nodes.cases import Draw
from nl_nodes.typing import Array, Shape


@dataclass
class Mode:
    """How a graph is wired: to train or to infer, and which buffers it updates when it trains."""

    train: bool
    updates: dict[Buffer, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerCase:
    """One verification case of a layer or loss.

    Attributes:
        label: what is special about it.
        make: makes the layer; it is given a function that draws an array.
        draws: how to draw each input.
        train: which wiring.
        zero: names of the inputs and parameters whose gradient is zero by construction.
    """

    label: str
    make: Callable[[Callable[[Draw], Array]], Layer]
    draws: tuple[Draw, ...]
    train: bool = True
    zero: tuple[str, ...] = ()


class Layer:
    """A layer wires nodes; this base runs them.

    A subclass holds its parameters and buffers as attributes and gives `wire`. It defines no formula of its own.

    Attributes:
        feeds: the names of its inputs.
        grads: the gradients of the last backward by parameter.
    """

    registry: ClassVar[dict[str, type[Layer]]] = {}
    feeds: ClassVar[tuple[str, ...]] = ("x",)

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        """Enrol the subclass, so that verification finds it."""
        if not abstract:
            Layer.registry[cls.__name__] = cls

    def __init__(self) -> None:
        self.grads: dict[str, Array] = {}
        self._graph: tuple[Any, Graph] | None = None
        self._passes = 0

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """The output node for these input nodes, whose shapes are known."""
        raise NotImplementedError

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """The inputs on which this layer's gradient is verified; a layer without any fails the tests."""
        return iter(())

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameter leaves by attribute."""
        return {name: leaf for name, leaf in vars(self).items() if isinstance(leaf, Parameter)}

    @property
    def buffers(self) -> dict[str, Buffer]:
        """The buffer leaves by attribute."""
        return {name: leaf for name, leaf in vars(self).items() if isinstance(leaf, Buffer)}

    @property
    def params(self) -> dict[str, Array]:
        """The parameters' arrays by attribute: weight, bias, gamma, beta."""
        return {name: leaf.value for name, leaf in self.parameters.items()}

    def graph(self, shapes: tuple[Shape, ...], train: bool = True) -> Graph:
        """A new graph of this layer alone, on inputs of these shapes."""
        mode = Mode(train)
        inputs = [Input(name, shape) for name, shape in zip(self.feeds, shapes, strict=True)]
        return Graph(self.wire(*inputs, mode=mode), updates=mode.updates)

    def forward(self, x: Array, train: bool = True) -> Array:
        """The layer's output.

        Args:
            x: the input, NCHW or (N, features).
            train: the training wiring (batch statistics, dropout) or that of inference.
        """
        return self._run((x,), train)

    def backward(self, dy: Array) -> Array:
        """The input's gradient from the output's; the parameters' are then in `grads`."""
        if self._graph is None:
            raise UserError(f"{type(self).__name__}.backward: run forward first")
        found = self._graph[1].backward(dy)
        self.grads = {name: found[leaf.name] for name, leaf in self.parameters.items()}
        return found[self.feeds[0]]

    def _run(self, arrays: tuple[Any, ...], train: bool) -> Array:
        shapes = tuple(tuple(a.shape) if hasattr(a, "shape") else _shape(a) for a in arrays)
        if self._graph is None or self._graph[0] != (shapes, train):
            self._graph = ((shapes, train), self.graph(shapes, train))
        graph = self._graph[1]
        graph.passes = self._passes
        self._passes += train
        return graph.forward(**dict(zip(self.feeds, arrays, strict=True)))


def _shape(value: Any) -> Shape:
    """The shape of nested lists."""
    return (len(value), *_shape(value[0])) if isinstance(value, list | tuple) and len(value) else ()
