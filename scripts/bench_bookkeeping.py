"""Overhead of an epoch beside computing: `python scripts/bench_bookkeeping.py model=cnn8 data=mnist data.root=PATH`.

The options are those of `train.py`. Loading batches, forward and backward, the optimizer and the evaluation count as
computing; all else is overhead, including a logged run and its progress bar: metrics, checks, logging, best weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from nl_training.config.cli import main
from nl_training.data import batches
from nl_training.training import trainer as training
from nl_training.training.callbacks import Callback, EpochReport


class Meter(Callback):
    """Measures the time of computing, and prints the share of the overhead in each epoch."""

    def __init__(self) -> None:
        self.computing = 0.0
        self.start = 0.0

    def on_start(self, trainer: Any) -> None:
        """Time every function that computes."""
        for owner, name in ((trainer.net, "step"), (trainer.net, "evaluate"), (trainer.optimizer, "update")):
            setattr(owner, name, self._timed(getattr(owner, name)))
        training.batches = self._timed_batches(batches)  # type: ignore[attr-defined]  # the trainer's own name
        self.start = time.perf_counter()

    def _timed(self, function: Any) -> Any:
        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            result = function(*args)
            self.computing += time.perf_counter() - start
            return result

        return timed

    def _timed_batches(self, function: Any) -> Any:
        def timed(*args: Any) -> Iterator[Any]:
            next_batch = self._timed(iter(function(*args)).__next__)
            while True:
                try:
                    yield next_batch()
                except StopIteration:
                    return

        return timed

    def on_epoch(self, report: EpochReport) -> None:
        """Print the epoch's times and reset them."""
        now = time.perf_counter()
        total = now - self.start
        print(f"\nepoch {report.epoch}: {total:.2f} s, of which {1 - self.computing / total:.2%} are not computing")
        self.start, self.computing = now, 0.0


def task(config: Any, cfg: Any) -> Any:
    """Train with the meter."""
    from nl_training.commands.train import train

    return train(config, cfg, extra_callbacks=[Meter()])


if __name__ == "__main__":
    main(task)
