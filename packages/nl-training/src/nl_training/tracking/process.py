"""Which process trains a run, so that one that is gone is told from one that still trains."""

from __future__ import annotations

import platform

import psutil

PROCESS = "resume.process"  # the tag of a run that holds what `this_process` gave

# A clock that is set moves the times at which processes began; no number is used again so soon.
SLACK = 2.0


def this_process() -> str:
    """The machine, this process's number and when it began."""
    process = psutil.Process()
    return f"{platform.node()} {process.pid} {process.create_time():.3f}"


def is_here(process: str) -> bool:
    """Whether what `this_process` gave was on this machine."""
    return process.rpartition(" ")[0].rpartition(" ")[0] == platform.node()


def is_alive(process: str) -> bool:
    """Whether that process is still there, on this machine."""
    _, number, began = process.rsplit(" ", 2)
    try:
        found = psutil.Process(int(number))
        there = found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - float(began)) < SLACK
    except psutil.NoSuchProcess:
        return False
    return is_here(process) and there
