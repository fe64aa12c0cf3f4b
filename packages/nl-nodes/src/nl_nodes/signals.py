"""Deferral of signal handlers over a section of code."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its conversion to enums, ten times as fast
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar

SIGNALS = tuple(
    int(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGBREAK")
    if hasattr(signal, name)
)
"""The signals of this system whose handlers may raise an exception."""

Handler = Callable[[int, FrameType | None], Any]


class DeferSignals:
    """A `with` block that defers Python's signal handlers to its end.

    Ctrl-C can therefore not interrupt the block half-way. Python runs handlers only in the main thread; in other
    threads, and inside another such block, this does nothing.

    >>> import signal
    >>> try:
    ...     with DeferSignals():
    ...         signal.raise_signal(signal.SIGINT)
    ...         done = True
    ... except KeyboardInterrupt:
    ...     print(done)
    True
    """

    active: ClassVar[bool] = False
    pending: ClassVar[dict[int, tuple[Handler, FrameType | None]]] = {}

    def __enter__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        if DeferSignals.active or threading.get_ident() != threading.main_thread().ident:
            return
        for number in SIGNALS:
            handler = _signal.getsignal(number)
            if callable(handler):
                original = handler.handler if isinstance(handler, _Deferrable) else handler
                _signal.signal(number, _Deferrable(original))
                self._handlers[number] = original
        # Last: a signal before this line aborts `__enter__`, and the installed handlers then act as the originals.
        DeferSignals.active = bool(self._handlers)

    def __exit__(self, *error: object) -> None:
        if self._handlers:
            DeferSignals.active = False
            try:
                for number, handler in self._handlers.items():
                    _signal.signal(number, handler)
            finally:
                _run_pending()


class _Deferrable:
    """A signal handler that is deferred inside the block and calls the original outside of it."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if DeferSignals.active:
            DeferSignals.pending[number] = self.handler, frame
        else:
            self.handler(number, frame)


def _run_pending() -> None:
    """Run the handlers of all deferred signals, even if one of them raises."""
    if DeferSignals.pending:
        number, (handler, frame) = DeferSignals.pending.popitem()
        try:
            handler(number, frame)
        finally:
            _run_pending()


def _reset_after_fork() -> None:
    """Stop deferring in a forked child, which lacks the thread that deferred the signals."""
    DeferSignals.active = False
    DeferSignals.pending.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
