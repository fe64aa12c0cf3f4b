"""Queries of the operating system: cores, memory, locks, folders.

Where a system lacks a call (macOS, Windows), the nearest substitute is used, or the call has no effect.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from functools import cache
from pathlib import Path, PurePosixPath

from nl_nodes.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ROOT = Path("/")
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def cache_folder() -> Path:
    """Return this project's folder in the user's cache (`$XDG_CACHE_HOME/node-layer-network`); it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "node-layer-network"


def cores() -> list[int]:
    """Return the cores on which this process may run; empty where the system has no CPU affinity."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(numbers: Sequence[int]) -> None:
    """Pin this thread to these cores, where the system has CPU affinity."""
    if numbers and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # the cores may have been taken away since
            os.sched_setaffinity(0, numbers)


def yield_core() -> None:
    """Let other threads that wait for this thread's core run."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()
    else:
        time.sleep(0)


def cpu_count(root: Path = ROOT) -> int:
    """Return the number of cores of this process: those it may run on, limited by its container's CPU quota.

    A fraction of a core is rounded down: a worker on it would be throttled while the others wait.

    Args:
        root: the folder that contains `proc` and the control groups.
    """
    quotas = [quota for folder in _control_groups(root, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, int(min([len(cores()) or os.cpu_count() or 1, *quotas])))


def processor_name(root: Path = ROOT) -> str:
    """Return the processor's name, with family and model where known: virtual machines shorten names.

    Args:
        root: the folder that contains `proc`.
    """
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in _lines(root / "proc/cpuinfo"))}
    name = fields.get("model name") or platform.processor() or platform.machine()
    return f"{name} (family {fields['cpu family']}, model {fields.get('model')})" if "cpu family" in fields else name


@cache
def memory(root: Path = ROOT) -> int | None:
    """Return the bytes of memory of this machine or its container's limit; None where unknown."""
    limits = [limit for folder in _control_groups(root, "memory") if (limit := _memory_limit(folder)) is not None]
    with suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def refuse_beyond_memory(needed: int, what: str, fix: str) -> None:
    """Raise a `UserError` that names `what` and `fix` where `needed` bytes exceed this process's memory."""
    available = memory()
    if available is not None and needed > available:
        raise UserError(
            f"{what} needs {format_bytes(needed)} of memory, of which there are {format_bytes(available)}: {fix}"
        )


def format_bytes(count: int) -> str:
    """Format a number of bytes in the largest fitting unit.

    >>> format_bytes(3 * 2**39)
    '1.5 TiB'
    """
    power = min(max(count.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    return f"{Decimal(count) / 1024**power:.4g} {UNITS[power]}"


def can_share_memory() -> bool:
    """Return whether processes can share memory by sending its file descriptor over a socket."""
    if not (hasattr(os, "memfd_create") and hasattr(socket, "send_fds") and hasattr(socket, "AF_UNIX")):
        return False
    try:
        os.close(os.memfd_create("nl-nodes"))
    except OSError:  # as in a sandbox that refuses the call
        return False
    return True


@contextmanager
def locked(folder: Path, wait: bool) -> Iterator[None]:
    """Lock a folder against other processes that use this function; no effect on systems without file locks.

    Raises:
        BlockingIOError: where another process holds the lock and `wait` is false.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system can open folders."""
    if fcntl is None:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups and their ancestors, of cgroup versions 1 and 2.

    Source: the Linux manual, cgroups(7) and proc_pid_mountinfo(5).
    """
    own: dict[str, str] = {}  # the group's path by controller; version 2 has a single hierarchy, ""
    for line in _lines(root / "proc/self/cgroup"):
        controllers, _, path = line.partition(":")[2].partition(":")
        own.update(dict.fromkeys(controllers.split(","), path))
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, system = line.partition(" - ")
        fields = [re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), field) for field in mount.split(" ")]
        of = {"cgroup2": "", "cgroup": controller}.get(system.split(" ")[0])
        if of not in own or (of and of not in system.split(" ")[-1].split(",")) or len(fields) < 5:
            continue
        top, mounted = fields[3], root / fields[4].lstrip("/")
        # A container that sees its host's paths may lack the group's below the mount: then the mount is the group.
        group = PurePosixPath(own[of])
        inside = group.relative_to(top) if group.is_relative_to(top) else PurePosixPath()
        yield from (mounted / step for step in (inside, *inside.parents) if ".." not in step.parts)


def _quota(folder: Path) -> float | None:
    """Return the CPU quota of a control group in cores, None for no limit."""
    found = _numbers(folder / "cpu.max") or [
        *_numbers(folder / "cpu.cfs_quota_us"),
        *_numbers(folder / "cpu.cfs_period_us"),
    ]
    return found[0] / found[1] if len(found) == 2 and min(found) > 0 else None


def _memory_limit(folder: Path) -> int | None:
    found = _numbers(folder / "memory.max") or _numbers(folder / "memory.limit_in_bytes")
    return found[0] if found else None


def _numbers(path: Path) -> list[int]:
    """Return the integers in a file; none where it is missing or says "max"."""
    words = " ".join(_lines(path)).split()
    return [int(word) for word in words] if all(re.fullmatch(r"-?\d+", word) for word in words) else []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
