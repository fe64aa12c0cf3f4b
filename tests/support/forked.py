"""Functions run in a fork of this process."""

from __future__ import annotations

import json
import os
import select
import warnings
from collections.abc import Callable
from typing import Any


class Forked:
    """A fork of this process that runs a function when `result` is called, and sends its result as JSON.

    Args:
        function: the function to run in the fork.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        begin, self._begin = os.pipe()
        self._answer, answer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # these tests fork with running threads on purpose
            self.pid = os.fork()
        if self.pid:
            os.close(begin)
            os.close(answer)
            return
        try:
            os.read(begin, 1)
            message = json.dumps(function())
        except BaseException as error:
            message = json.dumps(repr(error))
        with os.fdopen(answer, "w") as stream:
            stream.write(message)
        os._exit(0)

    def result(self, seconds: float = 60) -> Any:
        """Run the function in the fork and return its result; raises `TimeoutError` after `seconds`."""
        os.write(self._begin, b"1")
        try:
            if not select.select([self._answer], [], [], seconds)[0]:
                os.kill(self.pid, 9)
                raise TimeoutError("the fork hangs")
            with os.fdopen(self._answer) as stream:
                return json.loads(stream.read())
        finally:
            os.close(self._begin)
            os.waitpid(self.pid, 0)
