"""Ways to copy networks and layers, and to run functions in forked processes."""

from __future__ import annotations

import json
import os
import pickle
import select
import warnings
from collections.abc import Callable
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from nl_layers.optimizers import Optimizer

if TYPE_CHECKING:
    from nl_models import Network


def through_pickle(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))  # noqa: S301 - these bytes were made on the same line


def through_read_only_memory(thing: Any) -> Any:
    """Copy with arrays as views of read-only memory, like joblib for large arrays."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])  # noqa: S301 - made a line above


COPIES = {"copy": copy, "deepcopy": deepcopy, "pickle": through_pickle, "read-only": through_read_only_memory}


def train(net: Network, optimizer: Optimizer, x: Any, t: Any, steps: int = 2) -> dict[str, Any]:
    """Return the state after some steps, with the last loss and the number of passes."""
    for _ in range(steps):
        done = net.step(x, t)
        optimizer.update(net.params, done.grads)
    return {**net.state_dict(), "loss": np.array(done.loss), "passes": np.array(net.passes)}


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
