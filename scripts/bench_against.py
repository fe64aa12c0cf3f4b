"""Compare the training steps of two checkouts of this project, in alternating pairs.

Each checkout's step runs in a process of its own, which waits while the other's runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BENCH = Path(__file__).with_name("bench.py")


class Checkout:
    """A process that runs a step with one checkout's packages, and times it whenever it is asked to."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        packages = sorted(str(path) for path in folder.resolve().glob("packages/*/src"))
        if not packages:
            raise SystemExit(f"{folder} is no checkout of this project: it has no packages/*/src")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(packages)}
        command = [sys.executable, str(BENCH), *options]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Checkout:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()

    def milliseconds(self) -> float:
        """Return the mean time of consecutive steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # there is no answer then
            print(file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(map(str, self._process.args))} ended")  # type: ignore[arg-type]
        return float(answer)


def serve(sample: Callable[[], float]) -> None:
    """Print a sample for each line of the standard input."""
    for _ in sys.stdin:
        print(sample(), flush=True)


def pairs(other: Path, options: Sequence[str], repeats: int) -> np.ndarray:
    """Return `repeats` pairs of milliseconds (repeats, 2), of this checkout and another; each is first in turn."""
    with ExitStack() as running:
        both = [running.enter_context(Checkout(folder, options)) for folder in (ROOT, other)]
        for checkout in both:
            checkout.milliseconds()
        times = np.empty((repeats, 2))
        for number, pair in enumerate(times):
            for which in (0, 1) if number % 2 else (1, 0):
                pair[which] = both[which].milliseconds()
    return times


def summary(times: np.ndarray) -> tuple[float, float, tuple[float, float, float]]:
    """Return the medians of both, and the quartiles of the other's time divided by this one's."""
    here, other = (float(ms) for ms in np.median(times, axis=0))
    low, middle, high = (float(ratio) for ratio in np.percentile(times[:, 1] / times[:, 0], (25, 50, 75)))
    return here, other, (low, middle, high)
