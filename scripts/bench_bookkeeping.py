"""What else than computing an epoch takes: `python scripts/bench_bookkeeping.py model=cnn8 data=mnist data.root=PATH`.

The options are those of `train.py`. Computing is taking a batch, the network's passes, the optimizer's updates and the
evaluation; all else counts, with a logged run and its progress bar: metrics, checks, logging, the best weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from nl_training.config.cli import main
from nl_training.training import trainer as training
from nl_training.training.callbacks import Callback, EpochReport


class Meter(Callback):
    """Measures both, and prints the rest's share of each epoch."""

    def __init__(self) -> None:
        self.computing = 0.0
        self.began = 0.0

    def on_start(self, trainer: Any) -> None:
        """Put a clock around everything that computes."""
        for owner, name in ((trainer.net, "step"), (trainer.net, "evaluate"), (trainer.optimizer, "update")):
            setattr(owner, name, self._timed(getattr(owner, name)))
        training.batches = self._each(training.batches)
        self.began = time.perf_counter()

    def _timed(self, function: Any) -> Any:
        def timed(*args: Any) -> Any:
            begun = time.perf_counter()
            result = function(*args)
            self.computing += time.perf_counter() - begun
            return result

        return timed

    def _each(self, function: Any) -> Any:
        def each(*args: Any) -> Iterator[Any]:
            following = self._timed(iter(function(*args)).__next__)
            while True:
                try:
                    yield following()
                except StopIteration:
                    return

        return each

    def on_epoch(self, report: EpochReport) -> None:
        """Print the epoch's figures and begin anew."""
        now = time.perf_counter()
        whole = now - self.began
        print(f"\nepoch {report.epoch}: {whole:.2f} s, of which {1 - self.computing / whole:.2%} are not computing")
        self.began, self.computing = now, 0.0


def task(config: Any, cfg: Any) -> Any:
    """Train with the clocks."""
    from nl_training.commands.train import train

    return train(config, cfg, watching=[Meter()])


if __name__ == "__main__":
    main(task, lambda config, overrides: None)
