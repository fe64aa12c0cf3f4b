"""The base class of executors, which runs plans on the calling thread, and the functions that they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from threading import RLock
from time import perf_counter
from typing import Any

import numpy as np

from nl_nodes.philox import philox
from nl_nodes.platform import cpu_count, refuse_beyond_memory
from nl_nodes.runtime import shared_memory
from nl_nodes.runtime.call import BoundCall, Call
from nl_nodes.runtime.cut import ProductCut
from nl_nodes.typing import Shape

SMALLER = "give smaller batches, or make the network narrower"
"""The advice where a plan needs more memory than there is."""

BUFFER = 1024
"""Elements of NumPy's buffers within a pass: NumPy copies an array that is broadcast into one, unless it fills it."""


class Executor:
    """The executor of one worker, the calling thread.

    Attributes:
        count: the number of workers that plans are lowered for.
        chunked: whether fused nodes work in chunks that stay in the cache, or on the whole batch at once.
        fused: whether calls are fused into CUDA kernels.
        product_cut: how plans cut large matrix products; None to cut nothing.
        checks: whether a pass itself checks that its results are finite, and then stores the buffers' new values.
        lock: held by the thread that loads or runs a plan.
        process: the id of the process that owns it.
        pass_index: the index of the current pass, for random words.
    """

    count = 1
    chunked = True
    fused = False
    checks = False

    def __init__(self, product_cut: ProductCut | None = None) -> None:
        self.product_cut = product_cut
        self.lock, self.process = RLock(), os.getpid()
        self.pass_index = 0

    @property
    def panels(self) -> bool:
        """Whether fused nodes store right factors in panels of columns: where products are cut."""
        return self.product_cut is not None

    def memory(self, size: int) -> Any:
        """Allocate `size` zero bytes on pages of their own, shared by all workers and freed with the last reference."""
        return shared_memory.private(size)

    def view(self, memory: Any, shape: Shape, dtype: Any, offset: int, strides: tuple[int, ...]) -> Any:
        """Return an array over memory, `offset` bytes from its start."""
        return np.ndarray(shape, dtype, memory, offset, strides)

    def write(self, array: Any, value: Any) -> None:
        """Copy a value to an array of a plan."""
        np.copyto(array, value)

    def clocks(self, count: int) -> Any:
        """Return an array for `count` times, which calls named "clock" write."""
        return self.memory(8 * count).view(np.float64)

    def refuse_beyond_memory(self, size: int) -> None:
        """Raise an error that says how to need less where there is no memory for a plan."""
        refuse_beyond_memory(size, "the plan for this batch", SMALLER)

    def load(self, calls: Sequence[Sequence[Call]]) -> Any:
        """Bind each worker's calls; return the argument of `run`."""
        return [self.bind(worker_calls) for worker_calls in calls]

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run loaded calls once; the caller holds the lock."""
        self.pass_index = pass_index
        execute(loaded[0])

    def state(self) -> dict[str, object]:
        """Return what results depend on, bit by bit, besides the graph: plain data, for a checkpoint."""
        return {"product_cut": self.product_cut and list(self.product_cut)}

    def load_state(self, state: object) -> None:
        """Take what `state` returned on a machine of the same kind; ignore any other.

        The cut of products stays this machine's: that of another processor would make this one slower.
        """

    def barrier(self) -> None:
        """Wait until all workers have reached this call."""

    @property
    def complete(self) -> bool:
        """Whether all workers are running."""
        return True

    def close(self) -> None:
        """Stop the workers."""

    def abandon(self) -> None:
        """Leave the workers to the parent, in a forked process."""

    def bind(self, calls: Sequence[Call]) -> list[BoundCall]:
        """Resolve the names of the calls to functions."""
        special: dict[str, Callable[..., Any]] = {
            "barrier": self.barrier,
            "random_bits": self._random_bits,
            "clock": _clock,
        }
        return [(special.get(name) or function(name), args) for name, args in calls]

    def _random_bits(self, seed: int, stream: int, start: int, target: Any) -> None:
        target[...] = philox(seed, stream, self.pass_index, target.size, start)


def execute(calls: Sequence[BoundCall]) -> None:
    """Run calls in order, without NumPy's warnings: the reference repeats a pass that is not finite, and warns."""
    with np.errstate(all="ignore"):  # its end restores the size of the buffers too
        np.setbufsize(BUFFER)
        for function, args in calls:
            function(*args)


def parallel_workers(count: int) -> int:
    """Return the number of threads or processes for `count` workers: at most one for each core, but at least two.

    Spinning at a barrier on a shared core slows the other workers down.
    """
    return min(count, max(2, cpu_count()))


def merge_calls(calls: Sequence[Sequence[Call]], count: int) -> list[list[Call]]:
    """Merge several workers' calls into `count` lists; between two barriers one worker's calls follow another's."""
    return [_interleave(calls[number::count]) for number in range(min(count, len(calls)))]


def _interleave(calls: Sequence[Sequence[Call]]) -> list[Call]:
    merged: list[Call] = []
    remaining = [iter(worker_calls) for worker_calls in calls]
    while remaining:
        sections = [_until_barrier(one) for one in remaining]
        merged += [call for section, _ in sections for call in section]
        if not sections[0][1]:
            break
        merged.append(("barrier", ()))
    return merged


def _until_barrier(calls: Iterator[Call]) -> tuple[list[Call], bool]:
    """Return the calls up to the next barrier, and whether there is one; all workers have equally many."""
    section: list[Call] = []
    for call in calls:
        if call[0] == "barrier":
            return section, True
        section.append(call)
    return section, False


def _clock(out: Any) -> None:
    out[0] = perf_counter()


def function(name: str) -> Callable[..., Any]:
    """Return NumPy's function of this name, such as "multiply", "add.reduce", "copyto"."""
    if name == "maximum":
        return _maximum
    found: Any = np
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _maximum(a: Any, b: Any, out: Any) -> None:
    np.maximum(a, b, out=out)  # NumPy warns where this function's output is positional
