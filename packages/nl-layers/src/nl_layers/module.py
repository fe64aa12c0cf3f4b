"""The base class of layers and losses, which runs the graph that they wire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from nl_layers.params import Params
from nl_nodes import Buffer, Graph, Input, Leaf, Node, Parameter, UserError, backend_of
from nl_nodes.arguments import check_init, checked
from nl_nodes.cases import Draw
from nl_nodes.node import assign_scope
from nl_nodes.typing import Array, Shape


@dataclass
class Mode:
    """Wiring mode: training or inference, and the updates of buffers that training wiring collects.

    Attributes:
        train: training or inference wiring.
        updates: the nodes that give buffers their new values.
        paths: the layers' paths in a network, such as "Relu 1".
        uses: how often each layer has been wired before.
    """

    train: bool
    updates: dict[Buffer, Node] = field(default_factory=dict)
    paths: Mapping[Module, str] = field(default_factory=dict)
    uses: Counter[Module] = field(default_factory=Counter)

    def wire(self, layer: Module, *inputs: Node) -> Node:
        """Return a layer's output node; its nodes get the layer's path.

        Raises:
            UserError: where `wire` returns anything else.
        """
        y = layer.wire(*inputs, mode=self)
        self.uses[layer] += 1
        if not isinstance(y, Node):
            raise UserError(f"{type(layer).__name__}.wire must return a node, got {y!r:.40}")
        assign_scope([y, *self.updates.values()], self.paths.get(layer, ""))
        return y


Drawing = Callable[[Draw], Array]
L = TypeVar("L", bound=Leaf)


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

    A subclass defines no formula of its own. Layers in attributes, or in a tuple `layers`, are its children, which its
    `wire` wires by `mode.wire`; their parameters and buffers are also its own, named "branch.weight" by the attribute,
    or "0.weight" by the place in the tuple. Setting an attribute that holds a parameter or a running statistic
    (`layer.weight = array`) copies the values into it, as `params` does. Other attributes are settings: setting one
    wires the layer anew, unless its name begins with an underscore; a list or array that is changed in place is not
    noticed. Copies and unpickled layers are independent; they have the weights, settings, running statistics and number
    of passes, but not the last pass, so `backward` needs a `forward` first.

    Attributes:
        feeds: names of the inputs.
        grads: gradients of the last backward by parameter.
    """

    registry: ClassVar[dict[str, type[Module]]] = {}
    # Another object after each changed setting of any layer.
    latest_change: ClassVar[object] = None
    feeds: ClassVar[tuple[str, ...]] = ("x",)

    _graph: tuple[Any, Graph] | None = None
    _passes = 0
    _changes = 0

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        """Register the subclass for verification, and refuse unknown keywords in one line."""
        check_init(cls)
        if not abstract:
            Module.registry[cls.__name__] = cls

    @checked
    def __init__(self) -> None:
        self.grads: dict[str, Array] = {}

    def wire(self, *inputs: Node, mode: Mode) -> Node:
        """Return the output node for input nodes of known shapes."""
        raise NotImplementedError(f"{type(self).__name__} does not define wire")

    @classmethod
    def cases(cls) -> Iterator[LayerCase]:
        """Yield the cases on which the gradient is verified; a layer without cases fails the tests."""
        return iter(())

    @property
    def children(self) -> dict[str, Module]:
        """The layers that this one consists of: attributes by name, and those in the tuple `layers` by place."""
        return {name: child for item in vars(self).items() for name, child in _children(*item).items()}

    def tree(self) -> Iterator[Module]:
        """Yield this layer and all inside it, each after the one that it is in."""
        yield self
        for child in self.children.values():
            yield from child.tree()

    @property
    def changes(self) -> int:
        """Number of changed settings, here and in the children; a graph wired at another number is stale."""
        return self._changes + sum(child.changes for child in self.children.values())

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameter leaves by attribute."""
        return self._leaves(Parameter)

    @property
    def buffers(self) -> dict[str, Buffer]:
        """The buffer leaves by attribute."""
        return self._leaves(Buffer)

    def _leaves(self, kind: type[L]) -> dict[str, L]:
        own = {name: leaf for name, leaf in vars(self).items() if isinstance(leaf, kind)}
        for child, layer in self.children.items():
            own |= {f"{child}.{name}": leaf for name, leaf in layer._leaves(kind).items()}
        return own

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
        children = _children(name, value)
        counts = bool(children) or not (name.startswith("_") or name == "grads")
        changes = self.changes if counts else 0
        super().__setattr__(name, value)
        if isinstance(value, Leaf) and value.name == "parameter":  # not named: its attribute's name is unique here
            value.name = name
        if counts:
            self._changes += changes + 1 - self.changes  # those of a replaced child still count
            Module.latest_change = object()
        for child, layer in children.items():
            for part in layer.tree():
                if sum(part is other for other in self.tree()) > 1:  # an optimizer would update it twice
                    raise UserError(f"{type(self).__name__}: {part!r:.60} is in it twice: make a new one")
            refuse_shared_leaves(self._leaves(Leaf).values())
            for inner, leaf in layer._leaves(Leaf).items():
                leaf.name = f"{child}.{inner}"  # unique in a graph of this layer alone

    def __repr__(self) -> str:
        shapes = {n: tuple(leaf.value.shape) for n, leaf in vars(self).items() if isinstance(leaf, Parameter)}
        hidden = (*shapes, *self.buffers, "grads")
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
        graph = Graph(mode.wire(self, *inputs), updates=mode.updates)
        refuse_unknown_leaves(graph, [self])
        return graph

    @property
    def last_graph(self) -> Graph | None:
        """The graph of the last forward, None before one."""
        return None if self._graph is None else self._graph[1]

    def _forward(self, arrays: tuple[Any, ...], train: bool) -> Array:
        backend = backend_of(arrays)
        arrays = tuple(a if backend.owns(a) else backend.array(a) for a in arrays)
        arrays = tuple(_fractional(a, name) for a, name in zip(arrays, self.feeds, strict=True))
        shapes = tuple(tuple(a.shape) for a in arrays)
        key = (shapes, train, self.changes)
        if self._graph is None or self._graph[0] != key:
            self._graph = (key, self.graph(shapes, train))
        graph = self._graph[1]
        graph.passes = self._passes
        self._passes += train
        return graph.forward(**dict(zip(self.feeds, arrays, strict=True)))

    def _backward(self, dy: Any) -> Array:
        if self._graph is None or self._graph[0][-1] != self.changes:
            raise UserError(f"{type(self).__name__}.backward: run forward first")
        graph = self._graph[1]
        grads, used = graph.backward(dy), set(graph.leaves.values())
        zeros_like = backend_of([dy]).xp.zeros_like
        self.grads = {
            name: grads[leaf.name] if leaf in used else zeros_like(leaf.value) for name, leaf in self.parameters.items()
        }
        return grads[self.feeds[0]]


def _fractional(array: Array, name: str) -> Array:
    """Return an input as it is, but whole numbers and booleans as float64, unless they are labels."""
    return array.astype("float64") if name != "t" and array.dtype.kind in "biu" else array


def _children(name: str, value: Any) -> dict[str, Module]:
    """Return the layers in an attribute of this name and value by their names."""
    if name == "layers" and isinstance(value, tuple):
        return {str(place): layer for place, layer in enumerate(value)}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if any(isinstance(part, Module) for part in parts):
        raise UserError(f"{name}: a layer has the layers inside it in attributes, or in a tuple named layers")
    if any(isinstance(part, Leaf) for part in parts):
        raise UserError(f"{name}: a layer has its parameters and buffers in attributes, each in its own")
    return {name: value} if isinstance(value, Module) else {}


def refuse_shared_leaves(leaves: Iterable[Leaf]) -> None:
    """Refuse a parameter that two layers have: an optimizer would update it twice."""
    seen = set[Leaf]()
    for leaf in leaves:
        if leaf in seen:
            raise UserError(f"{leaf!r} is in two layers: give each its own, or wire one layer twice")
        seen.add(leaf)


def refuse_unknown_leaves(graph: Graph, layers: Iterable[Module]) -> None:
    """Refuse parameters and buffers that `wire` made: nothing would train, save or copy them."""
    known = {leaf for layer in layers for leaf in layer._leaves(Leaf).values()}
    for leaf in graph.order:
        if isinstance(leaf, Parameter | Buffer) and leaf not in known:
            raise UserError(f"wire uses {leaf!r:.60}, which is no attribute of a layer: make it in __init__")


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
