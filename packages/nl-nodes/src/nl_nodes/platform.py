"""What this machine and its system offer: cores, memory, locks. The only place that asks.

A system that lacks a call (macOS, Windows) gets what is nearest, or nothing where nothing stands for it.
"""

from __future__ import annotations

import os
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


def cores() -> list[int]:
    """The numbers of the cores on which this process may run; empty where the system binds none."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def bind(numbers: Sequence[int]) -> None:
    """Let this thread run on these cores alone, where the system can."""
    if numbers and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, numbers)


def let_others_run() -> None:
    """Give this thread's core to others that wait for it."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()
    else:
        time.sleep(0)


def cpu_count(root: Path = ROOT) -> int:
    """How many cores this process has: those it may run on, as far as its container's CPU quota goes.

    A part of a core counts as none: a worker on it would be stopped while the others wait for it.

    Args:
        root: the folder under which `proc` and the control groups are found.
    """
    quotas = [quota for folder in _control_groups(root, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, int(min([len(cores()) or os.cpu_count() or 1, *quotas])))


@cache
def memory(root: Path = ROOT) -> int | None:
    """How many bytes this process can have: the machine's memory, or its container's limit; None where untold."""
    limits = [limit for folder in _control_groups(root, "memory") if (limit := _memory_limit(folder)) is not None]
    with suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def refuse_beyond_memory(needed: int, what: str, fix: str) -> None:
    """Raise a `UserError` where something needs more bytes than this process can have: `what` needs so many, `fix`."""
    most = memory()
    if most is not None and needed > most:
        raise UserError(f"{what} needs {told_bytes(needed)} of memory, of which there are {told_bytes(most)}: {fix}")


def told_bytes(count: int) -> str:
    """A number of bytes in the unit that suits it.

    >>> told_bytes(3 * 2**39)
    '1.5 TiB'
    """
    power = min(max(count.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    return f"{Decimal(count) / 1024**power:.4g} {UNITS[power]}"


def can_share_memory() -> bool:
    """Whether processes can see the same memory: behind a file descriptor, sent over a socket."""
    return hasattr(os, "memfd_create") and hasattr(socket, "send_fds") and hasattr(socket, "AF_UNIX")


@contextmanager
def locked(folder: Path, wait: bool) -> Iterator[None]:
    """Hold a folder that other processes hold by this function too; where there are no such locks, nobody is kept out.

    Raises:
        BlockingIOError: where another process has it and `wait` is false.
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
    """Bring a folder's names to the disk, where the system opens folders."""
    if fcntl is None:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups, of both versions, that this process is in, its own and those above it.

    Source: the Linux manual, cgroups(7) and proc_pid_mountinfo(5).
    """
    own: dict[str, str] = {}  # the group's path by controller; that of version 2, which has one tree, by ""
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
        # In a container that sees its host's paths, they may lead out of what is mounted there: then all is at its top.
        group = PurePosixPath(own[of])
        inside = group.relative_to(top) if group.is_relative_to(top) else PurePosixPath()
        yield from (mounted / step for step in (inside, *inside.parents) if ".." not in step.parts)


def _quota(folder: Path) -> float | None:
    """How many cores a control group may use, None for no limit."""
    found = _numbers(folder / "cpu.max") or [
        *_numbers(folder / "cpu.cfs_quota_us"),
        *_numbers(folder / "cpu.cfs_period_us"),
    ]
    return found[0] / found[1] if len(found) == 2 and min(found) > 0 else None


def _memory_limit(folder: Path) -> int | None:
    found = _numbers(folder / "memory.max") or _numbers(folder / "memory.limit_in_bytes")
    return found[0] if found else None


def _numbers(path: Path) -> list[int]:
    """The whole numbers in a file; none where there is no such file, or it says "max"."""
    words = " ".join(_lines(path)).split()
    return [int(word) for word in words] if all(re.fullmatch(r"-?\d+", word) for word in words) else []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
