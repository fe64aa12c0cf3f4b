"""What belongs to a network: the layers, which no second one may take, and the arrays of their parameters."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import ReferenceType, WeakKeyDictionary, ref

from nl_layers.module import Module
from nl_nodes import Leaf, UserError
from nl_nodes.typing import Array

if TYPE_CHECKING:
    from nl_models.network import Network

_OWNERS: WeakKeyDictionary[Leaf, ReferenceType[Network]] = WeakKeyDictionary()


def own(net: Network, layers: Iterable[Module]) -> None:
    """Note that parameters and buffers of these layers are this network's."""
    for layer in layers:
        for leaf in _leaves(layer):
            _OWNERS[leaf] = ref(net)


def is_in_a_network(layer: Module) -> bool:
    """Return whether a network that is still in use has the layer's parameters or buffers."""
    if _is_owned(layer):
        gc.collect()  # a network that nothing uses may be in a cycle
    return _is_owned(layer)


def _is_owned(layer: Module) -> bool:
    return any(_OWNERS[leaf]() is not None for leaf in _leaves(layer) if leaf in _OWNERS)


def _leaves(layer: Module) -> list[Leaf]:
    return [*layer.parameters.values(), *layer.buffers.values()]


def refuse_new_leaves(name: str, layers: Iterable[Module], leaves: Iterable[Leaf]) -> None:
    """Refuse layers of a network that have other parameters or buffers than these, which it trains and saves."""
    known = set(leaves)
    for layer in layers:
        if not known.issuperset(_leaves(layer)):
            kind = type(layer).__name__
            raise UserError(f"{name}: {kind} has a new Parameter: set its values, or build a new network")


def refuse_new_arrays(name: str, values: Iterable[tuple[Leaf, Array]]) -> None:
    """Refuse a parameter or buffer with another array than the one that a network trains and saves."""
    for leaf, array in values:
        if leaf.value is not array:
            raise UserError(f"{name}: {leaf.name} has another array: copy values into it, by params[name] = values")
