"""Threads: NumPy and BLAS let go of the interpreter, so several run at once."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any
from weakref import finalize

from nl_nodes.compiler.lower.trace import Call
from nl_nodes.runtime.executor import BoundCall, Executor, execute, merge_calls, parallel_workers


class Threads(Executor):
    """The calling thread and others beside it."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, threads = count, parallel_workers(count)
        self._shared = _Shared(threads)
        self.close = finalize(self, self._shared.gate.abort)  # type: ignore[method-assign]
        for number in range(1, threads):
            Thread(target=_work, args=(self._shared, number), daemon=True).start()

    def load(self, calls: Sequence[Sequence[Call]]) -> Any:
        """Make each thread's calls ready to run."""
        return super().load(merge_calls(calls, parallel_workers(self.count)))

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run what was loaded, the first list on this thread."""
        if len(loaded) == 1:
            super().run(loaded, pass_index)
            return
        shared = self._shared
        self.pass_index, shared.loaded, shared.failure = pass_index, loaded, None
        shared.gate.wait()
        shared.run(0)
        shared.gate.wait()
        if shared.failure is not None:
            shared.barrier.reset()
            raise shared.failure

    @property
    def complete(self) -> bool:
        """Whether all threads wait for the next pass."""
        return not self._shared.gate.broken

    def abandon(self) -> None:
        """Leave the workers to the process that has forked this one; here there are no such threads."""
        self.close.detach()  # type: ignore[attr-defined]

    def barrier(self) -> None:
        """Wait for the others."""
        self._shared.barrier.wait()


class _Shared:
    """What the threads know; not the team itself, which they must not keep alive.

    Attributes:
        gate: where all wait between two passes.
        barrier: where they wait within one; broken when one of them fails.
        failure: what one of them failed with.
    """

    def __init__(self, count: int) -> None:
        self.gate, self.barrier = Barrier(count), Barrier(count)
        self.loaded: Sequence[Sequence[BoundCall]] = ()
        self.failure: BaseException | None = None

    def run(self, number: int) -> None:
        """Run one worker's list; where it fails, let the others leave the pass too."""
        try:
            execute(self.loaded[number])
        except BrokenBarrierError:
            return
        except BaseException as failure:
            self.failure = failure
            self.barrier.abort()


def _work(shared: _Shared, number: int) -> None:
    try:
        while True:
            shared.gate.wait()
            shared.run(number)
            shared.gate.wait()
    except BrokenBarrierError:
        return
