"""Who runs a plan's calls: exchangeable, since each worker has a list of its own and all meet where it says so."""

import os
from threading import Lock
from weakref import WeakValueDictionary

from nl_nodes.compiler.workers.processes import Processes
from nl_nodes.compiler.workers.team import Team
from nl_nodes.compiler.workers.threads import Threads
from nl_nodes.signals import DeferSignals

__all__ = ["Processes", "Team", "Threads", "team"]

_TEAMS: WeakValueDictionary[tuple[str, int], Team] = WeakValueDictionary()
_LOCK = Lock()


def team(kind: str, count: int) -> Team:
    """The team of so many "threads" or "processes"; whoever asks for the same while one is complete shares it."""
    if count == 1:
        return Team()
    with _LOCK, DeferSignals():
        found = _TEAMS.get((kind, count))
        if found is None or not found.complete:
            found = _TEAMS[kind, count] = {"threads": Threads, "processes": Processes}[kind](count)
        return found


def _abandon_teams() -> None:
    """In a forked child: the teams are the parent's, and so may be the thread that holds the lock."""
    global _LOCK
    _LOCK = Lock()
    for found in list(_TEAMS.values()):
        found.abandon()
    _TEAMS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_teams)
