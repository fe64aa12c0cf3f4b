"""Deferred signals: a section of code that no signal handler cuts in two."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its conversion to enums, which takes ten times as long
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, ClassVar

SIGNALS = tuple(
    int(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGBREAK")
    if hasattr(signal, name)
)
"""The signals whose handlers may raise an exception, as far as they are there."""

Handler = Callable[[int, FrameType | None], Any]


class DeferSignals:
    """A `with` block after which Python's signal handlers run, instead of inside it.

    So Ctrl-C finds the block's work finished or, where it comes before, not begun. Python runs handlers in the main
    thread alone; in other threads, and inside another such block, this does nothing.

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
        # Last: a signal that comes earlier ends the entering, and the handlers left behind do what the originals do.
        DeferSignals.active = bool(self._handlers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handlers:
            DeferSignals.active = False
            try:
                for number, handler in self._handlers.items():
                    _signal.signal(number, handler)
            finally:
                _run_pending()


class _Deferrable:
    """A signal handler that waits while signals are deferred, and does what the original does at any other time."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if DeferSignals.active:
            DeferSignals.pending[number] = self.handler, frame
        else:
            self.handler(number, frame)


def _run_pending() -> None:
    """Run the handlers of all signals that came, also where one of them raises."""
    if DeferSignals.pending:
        number, (handler, frame) = DeferSignals.pending.popitem()
        try:
            handler(number, frame)
        finally:
            _run_pending()


def _run_handlers_again() -> None:
    """In a forked child: the thread that deferred signals is not here."""
    DeferSignals.active = False
    DeferSignals.pending.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_run_handlers_again)
