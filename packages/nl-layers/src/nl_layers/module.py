"""The base class of layers and losses, which runs the graph that they wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nl_layers.params import Params
from nl_nodes import Buffer, Graph, Input, Leaf, Node, Parameter, UserError, backend_of
from nl_nodes.arguments import check_init, checked
from nl_nodes.cases import Draw
from nl_nodes.typing import Array, Shape


@dataclass
class Mode:
    """Wiring mode: training or inference, and the updates of buffers that training wiring collects."""

    train: bool
    updates: dict[Buffer, Node] = field(default_factory=dict)


Drawing = Callable[[Draw], Array]


@dataclass(frozen=True)
class LayerCase:
    """One verification case of a layer or loss.

    Attributes:
        label: description.
        make: builds the layer, given a function that draws an array.
        draws: how to draw each input.
        train: training or inference wiring.
        zero: names of the inputs and parameters whose gradient is zero by construction.
        surrogate: whether the gradient is deliberately not that of the value, so that numerical differentiation of the
            value does not apply.
    """

    label: str
    make: Callable[[Drawing], Module]
    draws: tuple[Draw, ...]
    train: bool = True
    zero: tuple[str, ...] = ()
    surrogate: bool = False


class Module:
    """Base of layers and losses: parameters and buffers as attributes, and the graph that `wire` defines.

    A subclass defines no formula of its own. Setting an attribute that holds a parameter or a running statistic
    (`layer.weight = array`) copies the values into it, as `params` does. Copies and unpickled layers are independent;
    they have the weights, settings, running statistics and number of passes, but not the last pass, so `backward`
    needs a `forward` first.

    Attributes:
        feeds: names of the inputs.
        grads: gradients of the last backward by parameter.
        changes: number of changed settings; a graph wired at another number is stale.
    """

    registry: ClassVar[dict[str, type[Module]]] = {}
    feeds: ClassVar[tuple[str, ...]] = ("x",)

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        """Register the subclass for verification, and refuse unknown keywords in one line."""
        check_init(cls)
        if not abstract:
            Module.registry[cls.__name__] = cls

    @checked
    def __init__(self) -> None:
        self.grads: dict[str, Array] = {}
        self._graph: tuple[Any, Graph] | None = None
        self._passes = 0
        self.changes = 0

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """Return the output node for input nodes of known shapes."""
        raise NotImplementedError

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Yield the cases on which the gradient is verified; a layer without cases fails the tests."""
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
    def params(self) -> Params:
        """The parameters' arrays by attribute: weight, bias, gamma, beta. Setting one copies the values into it."""
        return Params({name: leaf.value for name, leaf in self.parameters.items()})

    @params.setter
    def params(self, values: Mapping[str, Any]) -> None:
        self.params.assign(values)

    def __setattr__(self, name: str, value: Any) -> None:
        current = vars(self).get(name)
        if isinstance(current, Parameter | Buffer) and not isinstance(value, Leaf):
            Params({name: current.value})[name] = value
            return
        if current is None and name in vars(self) and hasattr(value, "shape"):
            raise UserError(f"{type(self).__name__} was made without {name}: make a new one with it")
        if name in vars(self) and not (name.startswith("_") or name in ("grads", "changes")):
            self._graph = None  # wired with the previous value
            self.changes += 1
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        shapes = {name: tuple(leaf.value.shape) for name, leaf in self.parameters.items()}
        hidden = (*self.parameters, *self.buffers, "grads", "changes")
        settings = {name: value for name, value in vars(self).items() if name not in hidden and name[0] != "_"}
        listed = [f"{name} {shape}" for name, shape in shapes.items()]
        listed += [f"{name}={value!r}" for name, value in settings.items() if value is not None]
        return f"{type(self).__name__}({', '.join(listed)})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_graph": None}  # it holds the last pass

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for leaf in (*self.parameters.values(), *self.buffers.values()):
            # Unpickled arrays may be read-only, or views of borrowed memory.
            leaf.value = backend_of([leaf.value]).xp.array(leaf.value)

    def __copy__(self) -> Module:
        return deepcopy(self)

    def graph(self, shapes: tuple[Shape, ...], train: bool = True) -> Graph:
        """Return a new graph of this layer alone, on inputs of these shapes; labels (`t`) have no gradient."""
        mode = Mode(train)
        inputs = [Input(name, shape, gradient=name != "t") for name, shape in zip(self.feeds, shapes, strict=True)]
        return Graph(self.wire(*inputs, mode=mode), updates=mode.updates)

    @property
    def last_graph(self) -> Graph | None:
        """The graph of the last forward, None before one."""
        return None if self._graph is None else self._graph[1]

    def _forward(self, arrays: tuple[Any, ...], train: bool) -> Array:
        backend = backend_of(arrays)
        arrays = tuple(a if backend.owns(a) else backend.array(a) for a in arrays)
        shapes = tuple(tuple(a.shape) for a in arrays)
        if self._graph is None or self._graph[0] != (shapes, train):
            self._graph = ((shapes, train), self.graph(shapes, train))
        graph = self._graph[1]
        graph.passes = self._passes
        self._passes += train
        return graph.forward(**dict(zip(self.feeds, arrays, strict=True)))

    def _backward(self, dy: Any) -> Array:
        if self._graph is None:
            raise UserError(f"{type(self).__name__}.backward: run forward first")
        grads = self._graph[1].backward(dy)
        self.grads = {name: grads[leaf.name] for name, leaf in self.parameters.items()}
        return grads[self.feeds[0]]


class Layer(Module, abstract=True):
    """Base of layers, which wire one input to one output."""

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return the layer's output.

        Args:
            x: the input, NCHW or (N, features).
            train: use the training wiring (batch statistics, dropout), else that of inference.
        """
        return self._forward((x,), train)

    def backward(self, dy: Array) -> Array:
        """Return the input's gradient for the output's; store the parameters' gradients in `grads`."""
        return self._backward(dy)
