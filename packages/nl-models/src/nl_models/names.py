"""Numbers and paths of layers, and names of parameters and buffers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from nl_layers import Layer, Sequential
from nl_layers.module import Module, refuse_shared_leaves
from nl_nodes import Buffer, Leaf, Parameter

L = TypeVar("L", bound=Leaf)
Numbered = Iterable[tuple[Layer, int]]


class Numbering:
    """Numbers layers in the order of wiring: one more where a second weight would get the first one's name.

    A layer with layers inside always begins a new number, so that its own determines theirs.

    Args:
        number: the first number.
    """

    def __init__(self, number: int = 1) -> None:
        self._number, self._taken = number, set[str]()

    def next(self, layer: Module) -> int:
        """Return the number of the next layer, without those inside it."""
        names = set(map(_short, {**_own(layer, layer.parameters), **_own(layer, layer.buffers)}))
        if self._taken and (layer.children or names & self._taken):
            self._number, self._taken = self._number + 1, set()
        self._taken |= names
        return self._number


def all_layers(layers: Numbered) -> Iterator[tuple[Module, int, Module | None]]:
    """Yield each layer with its number, then those inside it with theirs and the layer that they are in."""
    seen = set[Module]()

    def inside(outer: Module, numbering: Numbering) -> Iterator[tuple[Module, int, Module]]:
        for layer in outer.children.values():
            if layer not in seen:
                seen.add(layer)
                yield layer, numbering.next(layer), outer
                yield from inside(layer, numbering)

    for layer, number in layers:
        numbering = Numbering(number)
        numbering.next(layer)
        yield layer, number, None
        yield from inside(layer, numbering)


def layer_paths(layers: Numbered) -> dict[Module, str]:
    """Return the layers' paths, such as "Relu 1" and, inside another layer, "Residual 2/Relu 2".

    A second one of the same class and number is "Relu 1.2". A `Sequential` inside another layer has that one's path.
    """
    paths: dict[Module, str] = {}
    counts = Counter[str]()
    for layer, number, outer in all_layers(layers):
        if outer is not None and isinstance(layer, Sequential):
            paths[layer] = paths[outer]
            continue
        name = f"{type(layer).__name__} {number}"
        name = name if outer is None else f"{paths[outer]}/{name}"
        counts[name] += 1
        paths[layer] = name if counts[name] == 1 else f"{name}.{counts[name]}"
    return paths


def name_leaves(layers: Numbered) -> tuple[dict[str, Parameter], dict[str, Buffer]]:
    """Name the layers' leaves W1, b1, gamma1, ... by the layers' numbers; return parameters and buffers by name."""
    parameters: dict[str, Parameter] = {}
    buffers: dict[str, Buffer] = {}
    for layer, number, _ in all_layers(layers):
        for attribute, parameter in _own(layer, layer.parameters).items():
            parameter.name = f"{_short(attribute)}{number}"
            parameters[parameter.name] = parameter
        for attribute, buffer in _own(layer, layer.buffers).items():
            buffer.name = f"{attribute}{number}"
            buffers[buffer.name] = buffer
    refuse_shared_leaves([*parameters.values(), *buffers.values()])
    return parameters, buffers


def _short(attribute: str) -> str:
    return {"weight": "W", "bias": "b"}.get(attribute, attribute)


def _own(layer: Module, leaves: Mapping[str, L]) -> dict[str, L]:
    """Return the leaves without those of the layers inside."""
    return {name: leaf for name, leaf in leaves.items() if name.partition(".")[0] not in layer.children}
