"""Interrupts a network at random moments and compares it with an uninterrupted copy."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from nl_models import Network, build
from nl_nodes import Device

EXECUTORS: dict[str, dict[str, Any]] = {
    "one worker": {"threads": 1},
    "threads": {"workers": "threads", "threads": 2},
    "processes": {"workers": "processes", "threads": 2},
    "reference": {"compile": False},
}
BATCH, IMAGE = 6, (1, 12, 12)


def network(**device: Any) -> Network:
    """Return a network with convolutions, batch norm and dropout."""
    form = {"width": 4, "input_shape": IMAGE, "batch_norm": True, "dropout": 0.3, "seed": 3}
    return build("cnn3", device=Device(dtype="float64", **device), **form)


def interrupt(net: Network, count: int, seed: int = 0) -> int:
    """Interrupt training passes and predictions; return the number of calls cut short.

    After each interrupt the network and a copy that made only the completed calls must agree in passes, running
    statistics, gradients and predictions.
    """
    rng, twin = random.Random(seed), network(compile=False)
    x = np.random.default_rng(seed).standard_normal((BATCH, *IMAGE))
    t = np.arange(BATCH) % 10
    net.step(x, t), twin.step(x, t), net.predict(x)
    cut = 0
    for _ in range(count):
        begun = net.passes
        try:
            with alarm(rng.uniform(1e-4, 8e-3)):
                while True:
                    net.predict(x)
                    net.step(x, t)
        except KeyboardInterrupt:
            cut += 1
        for _ in range(net.passes - begun):
            twin.step(x, t)
        expected, found = twin.state_dict(), net.state_dict()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(net.predict(x), twin.predict(x), rtol=1e-9, atol=1e-12)
        gradients = twin.gradient(x, t)
        for name, grad in net.gradient(x, t).items():
            largest = np.abs(gradients[name]).max()
            np.testing.assert_allclose(grad, gradients[name], rtol=0, atol=1e-9 * max(largest, 1e-3), err_msg=name)
    return cut


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread after `seconds`, as Ctrl-C does."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # the signal may come before the next line
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
