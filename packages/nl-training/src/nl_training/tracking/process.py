"""Identity of the process that trains a run, to find out whether it is still alive."""

from __future__ import annotations

import platform

import psutil

PROCESS = "resume.process"  # the run's tag with the value of `this_process`

# Tolerance in seconds: setting the clock moves start times, and no process ID is reused so soon.
SLACK = 2.0


def this_process() -> str:
    """Return the machine, ID and start time of this process."""
    process = psutil.Process()
    return f"{platform.node()} {process.pid} {process.create_time():.3f}"


def is_here(process: str) -> bool:
    """Return whether a value of `this_process` is from this machine."""
    return process.rpartition(" ")[0].rpartition(" ")[0] == platform.node()


def is_alive(process: str) -> bool:
    """Return whether that process is still alive on this machine."""
    _, pid, started = process.rsplit(" ", 2)
    try:
        found = psutil.Process(int(pid))
        alive = found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - float(started)) < SLACK
    except psutil.NoSuchProcess:
        return False
    return is_here(process) and alive
