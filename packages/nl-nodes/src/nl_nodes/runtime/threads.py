"""Worker threads, which run in parallel where NumPy and BLAS release the interpreter lock."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any
from weakref import finalize

from nl_nodes.runtime.call import BoundCall, Call
from nl_nodes.runtime.cut import ProductCut
from nl_nodes.runtime.executor import Executor, execute, merge_calls, parallel_workers


class Threads(Executor):
    """The executor on the calling thread and further threads."""

    def __init__(self, count: int, product_cut: ProductCut | None = None) -> None:
        super().__init__(product_cut)
        self.count, threads = count, parallel_workers(count)
        self._shared = _Shared(threads)
        self.close = finalize(self, self._shared.gate.abort)  # type: ignore[method-assign]
        for number in range(1, threads):
            Thread(target=_work, args=(self._shared, number), daemon=True).start()

    def load(self, calls: Sequence[Sequence[Call]]) -> Any:
        """Bind each thread's calls; return the argument of `run`."""
        return super().load(merge_calls(calls, parallel_workers(self.count)))

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run loaded calls once, the first worker's on this thread."""
        if len(loaded) == 1:
            super().run(loaded, pass_index)
            return
        shared = self._shared
        self.pass_index, shared.loaded, shared.failure = pass_index, loaded, None
        shared.gate.wait()
        shared.run(0)
        shared.gate.wait()
        shared.loaded = ()  # or a dropped plan would stay until the next pass
        if shared.failure is not None:
            shared.barrier.reset()
            raise shared.failure

    @property
    def complete(self) -> bool:
        """Whether all threads are running."""
        return not self._shared.gate.broken

    def abandon(self) -> None:
        """Leave the workers to the parent, in a forked process, which has no copies of these threads."""
        self.close.detach()  # type: ignore[attr-defined]

    def barrier(self) -> None:
        """Wait until all workers have reached this call."""
        self._shared.barrier.wait()


class _Shared:
    """State shared by the threads, apart from the executor, which they must not keep alive.

    Attributes:
        gate: the barrier before and after a pass.
        barrier: the barrier within a pass, broken where a thread fails.
        loaded: each thread's calls.
        failure: the exception of a failed thread.
    """

    def __init__(self, count: int) -> None:
        self.gate, self.barrier = Barrier(count), Barrier(count)
        self.loaded: Sequence[Sequence[BoundCall]] = ()
        self.failure: BaseException | None = None

    def run(self, number: int) -> None:
        """Run one worker's calls; where they fail, break the barrier so that the others leave the pass too."""
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
