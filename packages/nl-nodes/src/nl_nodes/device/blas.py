"""The number of BLAS threads, a setting of the whole process."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

from threadpoolctl import ThreadpoolController


class BlasThreads:
    """A `with` block in which BLAS uses at most `limit` threads.

    Of the limits of several threads at once the smallest applies; releasing the last restores the original number.
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

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._limits.remove(self.limit)
            self._set()

    @classmethod
    def _set(cls) -> None:
        for library, before in zip(_libraries(), cls._before, strict=True):
            library.set_num_threads(min([before, *cls._limits]))


def _reset_after_fork() -> None:
    """Reset the limits and the lock in a forked child, which lacks the threads that hold them."""
    BlasThreads._lock = Lock()
    if BlasThreads._limits:
        BlasThreads._limits.clear()
        BlasThreads._set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


@cache
def _libraries() -> list[Any]:
    """Return the BLAS libraries of the process; cached, as the search takes milliseconds."""
    found: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found


def blas_versions() -> list[str]:
    """Return name, version and kernel of NumPy's BLAS, such as "openblas 0.3.30 SkylakeX"."""
    own = [lib for lib in _libraries() if any(part.startswith("numpy") for part in Path(lib.filepath).parts)]
    return [f"{lib.internal_api} {lib.version} {getattr(lib, 'architecture', None)}" for lib in own]
