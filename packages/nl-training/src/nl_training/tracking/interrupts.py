"""SIGINT and SIGTERM as exceptions, so that whoever is interrupted can still close what it opened."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Terminated(SystemExit):
    """The process was asked to end by SIGTERM; its exit code is the shell's for that signal."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Interrupts:
    """While entered, SIGINT raises `KeyboardInterrupt` and SIGTERM raises `Terminated`.

    `hold()` keeps signals back, so that opening and closing are never cut in two; `release()` raises what came in
    between. Python hears signals in the main thread alone: elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._held = False
        self._pending: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if self._pending is not None and error is None:
            os.kill(os.getpid(), self._pending)

    def hold(self) -> None:
        """Keep signals back from here on."""
        self._held = True

    def release(self) -> None:
        """Raise what was kept back, and raise at once from here on."""
        self._held = False
        if self._pending is not None:
            number, self._pending = self._pending, None
            self._raise(number)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._pending = number
        else:
            self._raise(number)

    @staticmethod
    def _raise(number: int) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated()


def status_of(error: BaseException | None) -> str:
    """The status of a run that ended with this error, in MLflow's words."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt | Terminated) else "FAILED"
