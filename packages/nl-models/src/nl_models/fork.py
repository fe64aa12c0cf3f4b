"""Gives networks in a forked child their own memory, with the values at the fork.

A network's arrays may be in memory shared with worker processes, and a child would share it too. They are copied before
the fork, because parent and workers may change them right after it.
"""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from nl_models.network import Network

_NETWORKS: WeakSet[Network] = WeakSet()
_COPIES: list[tuple[Network, list[Any]]] = []
_FORKING = Lock()  # one fork at a time


def prepare_for_forks(net: Network) -> None:
    """Register a network, so that every later fork gives the child an independent copy."""
    _NETWORKS.add(net)


def _before() -> None:
    _FORKING.acquire()
    _COPIES.extend((net, net.copies_for_fork()) for net in list(_NETWORKS))


def _after() -> None:
    _COPIES.clear()
    _FORKING.release()


def _after_in_child() -> None:
    for net, arrays in _COPIES:
        net.leave_parent(arrays)
    _after()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
