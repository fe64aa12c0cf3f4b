"""Overhead of a sweep's jobs: `python scripts/bench_sweep.py`, with options of `train.py` to change the sweep.

The same sweep runs twice in a new store: without tracking, which times the trainings alone, and with it. The first job
is not counted: it imports, compiles and verifies. Results must be equal. Exit code 1 where a job costs over a second.
"""

from __future__ import annotations

import os
import sys
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from nl_training.config.cli import main
from nl_training.training.callbacks import Result

SWEEP = ["model=mlp", "trainer.epochs=1", "seed=0,1,2,3,4,5,6,7"]
LIMIT = 1.0  # seconds a job


def run(*options: str) -> tuple[list[Result], list[float]]:
    """Run the sweep; return its jobs' results, the times at which they ended, and the time of its own end."""
    from nl_training.commands.train import train
    from nl_training.tracking.sweep_run import sweep_run

    results, ends = [], []

    def task(config: Any, cfg: Any) -> Result | None:
        result = train(config, cfg)
        assert result is not None
        results.append(result)
        ends.append(perf_counter())
        return result

    sys.argv[1:] = ["-m", *options]
    main(task, sweep_run)
    return results, [*ends, perf_counter()]


def overhead(options: list[str]) -> bool:
    """Print the overhead of the jobs after the first; return whether it is within the limit."""
    alone, _ = run(*options, "tracking=off")
    tracked, (first, *_, last, end) = run(*options)
    assert [r.history[-1].metrics for r in alone] == [r.history[-1].metrics for r in tracked], "results differ"
    trainings, took, count = sum(r.seconds for r in alone[1:]), last - first, len(alone) - 1
    each = (took - trainings) / count
    print(f"\n{count} jobs after the first: {took:.2f} s; their trainings alone: {trainings:.2f} s")
    print(f"overhead of a job {each:.2f} s; pictures and model of a job, at the end {(end - last) / len(alone):.2f} s")
    return each <= LIMIT


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        os.environ["NL_OUTPUT"] = folder
        sys.exit(0 if overhead(sys.argv[1:] or SWEEP) else 1)
