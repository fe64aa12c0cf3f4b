"""The network that a layer is in: a second one would take its parameters out of the buffer that the first trains."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import ReferenceType, WeakKeyDictionary, ref

from nl_layers.module import Module
from nl_nodes import Leaf

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
