"""The number of BLAS threads, which is one setting of the whole process."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, ClassVar

from threadpoolctl import ThreadpoolController


class BlasThreads:
    """A `with` block in which BLAS uses `limit` threads at most.

    Of the limits that several threads hold at once the smallest counts; when the last is released, BLAS has the number
    of threads that it had before the first.
    """

    _lock: ClassVar[Lock] = Lock()
    _limits: ClassVar[list[int]] = []
    _before: ClassVar[list[int]] = []

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __enter__(self) -> None:
        with self._lock:
            if not self._limits:
                self._before[:] = [library.num_threads for library in _libraries()]
            self._limits.append(self.limit)
            self._set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._limits.remove(self.limit)
            self._set()

    @classmethod
    def _set(cls) -> None:
        for library, before in zip(_libraries(), cls._before, strict=True):
            library.set_num_threads(min([before, *cls._limits]))


def _release_all() -> None:
    """In a forked child: whoever holds a limit, or the lock, is not here."""
    BlasThreads._lock = Lock()
    if BlasThreads._limits:
        BlasThreads._limits.clear()
        BlasThreads._set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_all)


@cache
def _libraries() -> list[Any]:
    """The BLAS libraries of the process; finding them takes milliseconds."""
    found: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found


def blas_versions() -> list[str]:
    """Name, version and kernel of NumPy's own BLAS, such as "openblas 0.3.30 SkylakeX"; others may be loaded or not."""
    own = [lib for lib in _libraries() if any(part.startswith("numpy") for part in Path(lib.filepath).parts)]
    return [f"{lib.internal_api} {lib.version} {getattr(lib, 'architecture', None)}" for lib in own]
