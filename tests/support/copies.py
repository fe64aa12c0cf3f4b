"""Ways to copy networks and layers."""

from __future__ import annotations

import pickle
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
