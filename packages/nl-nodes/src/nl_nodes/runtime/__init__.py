"""Who runs a plan's calls: exchangeable, since each worker has a list of its own and all meet where it says so."""

import os
from threading import Lock
from weakref import WeakValueDictionary

from nl_nodes.runtime.executor import Executor
from nl_nodes.runtime.processes import Processes
from nl_nodes.runtime.threads import Threads
from nl_nodes.signals import DeferSignals

__all__ = ["Executor", "Processes", "Threads", "executor"]

_EXECUTORS: WeakValueDictionary[tuple[str, int], Executor] = WeakValueDictionary()
_LOCK = Lock()


def executor(kind: str, count: int) -> Executor:
    """The team of so many "threads" or "processes"; whoever asks for the same while one is complete shares it."""
    if count == 1:
        return Executor()
    with _LOCK, DeferSignals():
        found = _EXECUTORS.get((kind, count))
        if found is None or not found.complete:
            found = _EXECUTORS[kind, count] = {"threads": Threads, "processes": Processes}[kind](count)
        return found


def _abandon_executors() -> None:
    """In a forked child: the teams are the parent's, and so may be the thread that holds the lock."""
    global _LOCK
    _LOCK = Lock()
    for found in list(_EXECUTORS.values()):
        found.abandon()
    _EXECUTORS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_executors)
