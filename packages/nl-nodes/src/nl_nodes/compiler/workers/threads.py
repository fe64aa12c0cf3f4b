"""Threads: NumPy and BLAS let go of the interpreter, so several run at once."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any
from weakref import finalize

import numpy as np

from nl_nodes.compiler.workers.team import Step, Team


class Threads(Team):
    """The calling thread and others beside it."""

    blas_threads = 1

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self._shared = _Shared(count)
        self.close = finalize(self, self._shared.barrier.abort)  # type: ignore[method-assign]
        for number in range(1, count):
            Thread(target=_work, args=(self._shared, number), daemon=True).start()

    def run(self, loaded: Any, pass_index: int) -> None:
        """Run what was loaded, the first list on this thread."""
        if len(loaded) == 1:
            super().run(loaded, pass_index)
            return
        self.pass_index = pass_index
        self._shared.loaded = loaded
        self.meet()
        try:
            super().run(loaded, pass_index)
            self.meet()
        except BrokenBarrierError:
            raise self._shared.failure or RuntimeError("the workers were closed") from None

    def meet(self) -> None:
        """Wait for the others."""
        self._shared.barrier.wait()


class _Shared:
    """What the threads know; not the team itself, which they must not keep alive."""

    def __init__(self, count: int) -> None:
        self.barrier = Barrier(count)
        self.loaded: Sequence[Sequence[Step]] = ()
        self.failure: BaseException | None = None


def _work(shared: _Shared, number: int) -> None:
    np.seterr(all="ignore")  # for this thread; see Team.run
    try:
        while True:
            shared.barrier.wait()
            for function, args in shared.loaded[number]:
                function(*args)
            shared.barrier.wait()
    except BrokenBarrierError:
        return
    except BaseException as failure:
        shared.failure = failure
        shared.barrier.abort()
