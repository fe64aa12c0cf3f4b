"""SIGINT and SIGTERM as exceptions, so that whoever is interrupted can still close what it opened."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from nl_training.training.callbacks import Pruned

SHOW_CURSOR = b"\x1b[?25h"  # the live bar hides it


class Terminated(SystemExit):
    """The process was asked to end by SIGTERM; its exit code is the shell's for that signal."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Interrupts:
    """While entered, SIGINT raises `KeyboardInterrupt` and SIGTERM raises `Terminated`; a second signal ends at once.

    `hold()` keeps the first back, so that opening, a training step and closing are never cut in two; `release()` raises
    what came in between, and `asked()` gives it. Python hears signals in the main thread alone: elsewhere this does
    nothing.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._held = False
        self._heard = False
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
            signal.raise_signal(self._pending)

    def hold(self) -> None:
        """Keep signals back from here on."""
        self._held = True

    def release(self) -> None:
        """Raise what was kept back, and raise at once from here on."""
        self._held = False
        error = self.asked()
        if error is not None:
            raise error

    def asked(self) -> BaseException | None:
        """What a signal that was kept back, or whose exception was lost, is to raise; whoever asks raises it."""
        number, self._pending = self._pending, None
        return None if number is None else _error(number)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._heard:
            # Whatever is being waited for, a store that does not answer or a disk: the user will not wait for it.
            if sys.stdout.isatty():
                os.write(1, SHOW_CURSOR)
            os._exit(128 + number)
        self._heard = True
        self._pending = number  # kept though it is raised: in a destructor or a weak reference's callback that is lost
        if not self._held:
            raise _error(number)


def _error(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated()


def status_of(error: BaseException | None) -> str:
    """The status of a run that ended with this error, in MLflow's words."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt | Terminated | Pruned) else "FAILED"
