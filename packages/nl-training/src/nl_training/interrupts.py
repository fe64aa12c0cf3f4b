"""SIGINT and SIGTERM as exceptions, so that interrupted code can still close its resources."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from nl_training.training.callbacks import Pruned, TimeLimit

SHOW_CURSOR = b"\x1b[?25h"  # the progress bar hides it


class Terminated(SystemExit):
    """Raised on SIGTERM; the exit code is the shell's for that signal."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Interrupts:
    """Context in which SIGINT raises `KeyboardInterrupt` and SIGTERM `Terminated`; a second signal ends the process.

    Between `hold()` and `release()` the first signal is deferred, so that opening, a training step and closing are
    never interrupted halfway; `release()` raises it, `take_pending()` returns it. Python handles signals in the main
    thread only: in other threads this context does nothing.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._held = False
        self._received = False
        self._pending: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if self._pending is not None and error is None:
            signal.raise_signal(self._pending)

    def hold(self) -> None:
        """Defer signals from now on."""
        self._held = True

    def release(self) -> None:
        """Raise a deferred signal, and raise immediately from now on."""
        self._held = False
        error = self.take_pending()
        if error is not None:
            raise error

    def take_pending(self) -> BaseException | None:
        """Return the exception of a signal that was deferred, or whose exception was lost, for the caller to raise."""
        number, self._pending = self._pending, None
        return None if number is None else _error(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            # The user does not want to wait any longer, be it for a store that does not answer or for a disk.
            if sys.stdout.isatty():
                os.write(1, SHOW_CURSOR)
            os._exit(128 + number)
        self._received = True
        self._pending = number  # stored although raised: an exception in a destructor or weakref callback is lost
        if not self._held:
            raise _error(number)


def _error(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated()


def status_of(error: BaseException | None) -> str:
    """Return the MLflow status of a run that ended with this error."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt | Terminated | Pruned | TimeLimit) else "FAILED"
