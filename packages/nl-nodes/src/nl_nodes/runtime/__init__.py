"""Executors, which run a plan's calls: on the calling thread, on threads, or on processes with shared memory."""

import os
from threading import Lock
from weakref import WeakValueDictionary

from nl_nodes.runtime.cut import ProductCut
from nl_nodes.runtime.executor import Executor
from nl_nodes.runtime.processes import Processes
from nl_nodes.runtime.threads import Threads
from nl_nodes.signals import DeferSignals

__all__ = ["Executor", "Processes", "Threads", "executor"]

# Shared, as workers take cores and memory; weak, so that they end with the last plan and device.
_EXECUTORS: WeakValueDictionary[tuple[str, int], Executor] = WeakValueDictionary()
_LOCK = Lock()


def executor(kind: str, count: int, product_cut: ProductCut | None = None) -> Executor:
    """Return an executor of `count` "threads" or "processes", shared with other callers while all its workers run."""
    if count == 1:
        return Executor(product_cut)
    with _LOCK, DeferSignals():
        found = _EXECUTORS.get((kind, count))
        if found is None or not found.complete:
            found = _EXECUTORS[kind, count] = {"threads": Threads, "processes": Processes}[kind](count, product_cut)
        return found


def _reset_after_fork() -> None:
    """Forget the parent's executors in a forked child, and the lock that one of its threads may hold."""
    global _LOCK
    _LOCK = Lock()
    for found in list(_EXECUTORS.values()):
        found.abandon()
    _EXECUTORS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
