"""One worker, and what all kinds of workers share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from threading import RLock
from time import perf_counter
from typing import Any

import numpy as np

from nl_nodes.compiler.lower.trace import Call
from nl_nodes.device.cpu import philox
from nl_nodes.platform import cpu_count
from nl_nodes.runtime.shared_memory import open_memory

BoundCall = tuple[Callable[..., Any], tuple[Any, ...]]


class Executor:
    """The calling thread alone.

    Attributes:
        count: how many workers a plan is recorded for.
        lock: held while a plan runs or is loaded, by one thread at a time.
        process: the process that it belongs to.
    """

    count = 1

    def __init__(self) -> None:
        self.lock, self.process = RLock(), os.getpid()
        self.pass_index = 0

    def memory(self, size: int) -> Any:
        """So many bytes, cleared, that all workers see; pages of their own, which go back when they are let go."""
        return open_memory(-1, size)

    def load(self, calls: Sequence[Sequence[Call]]) -> Any:
        """Make each worker's calls ready to run."""
        return [self.steps(one) for one in calls]

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run what was loaded, once; the caller holds the lock."""
        self.pass_index = pass_index
        execute(loaded[0])

    def barrier(self) -> None:
        """Wait for the others."""

    @property
    def complete(self) -> bool:
        """Whether all workers are there."""
        return True

    def close(self) -> None:
        """Let the workers go."""

    def abandon(self) -> None:
        """Leave the workers to the process that has forked this one."""

    def steps(self, calls: Sequence[Call]) -> list[BoundCall]:
        """The functions behind the names."""
        own: dict[str, Callable[..., Any]] = {"barrier": self.barrier, "random_bits": self._words, "clock": _clock}
        return [(own.get(name) or function(name), args) for name, args in calls]

    def _words(self, seed: int, stream: int, start: int, target: Any) -> None:
        target[...] = philox(seed, stream, self.pass_index, target.size, start)


def execute(steps: Sequence[BoundCall]) -> None:
    """Run a list, without NumPy's warnings: in a network the reference computes what is not finite, and warns."""
    with np.errstate(all="ignore"):
        for call, args in steps:
            call(*args)


def parallel_workers(count: int) -> int:
    """The threads or processes for so many workers: no more than there are cores, as those that wait slow the others.

    Two where two are asked for, also on one core.
    """
    return min(count, max(2, cpu_count()))


def merge_calls(calls: Sequence[Sequence[Call]], count: int) -> list[list[Call]]:
    """The lists of several workers as those of fewer: up to each barrier one worker's calls, then the next one's."""
    return [_interleaved(calls[number::count]) for number in range(min(count, len(calls)))]


def _interleaved(calls: Sequence[Sequence[Call]]) -> list[Call]:
    found: list[Call] = []
    rest = [iter(one) for one in calls]
    while rest:
        rounds = [_until_barrier(one) for one in rest]
        found += [call for ours, _ in rounds for call in ours]
        if not rounds[0][1]:
            break
        found.append(("barrier", ()))
    return found


def _until_barrier(calls: Iterator[Call]) -> tuple[list[Call], bool]:
    """The calls up to the next barrier, and whether there is one; all workers have as many."""
    found: list[Call] = []
    for call in calls:
        if call[0] == "barrier":
            return found, True
        found.append(call)
    return found, False


def _clock(place: Any) -> None:
    place[0] = perf_counter()


def function(name: str) -> Callable[..., Any]:
    """The function of a call's name: "multiply", "add.reduce", "copyto"."""
    if name == "maximum":
        return _maximum
    found: Any = np
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _maximum(a: Any, b: Any, out: Any) -> None:
    np.maximum(a, b, out=out)  # of this function NumPy wants the output by name
