"""The bench command: the time of a config's training step, and of each node in it."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from nl_training.config import build, cli
from nl_training.paths import optional_output
from nl_training.training.steps import Batch, Steps, steps_of
from nl_training.viz.profile import artifacts

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from nl_training.config.schema import Config

SECONDS = 3.0
"""How long steps are timed, after a warm-up."""


def main() -> None:
    """Measure the training step of the command line's config."""
    cli.main(bench)


def bench(config: Config, cfg: DictConfig) -> None:
    """Print the milliseconds of a training step and, on a CPU, the cost of each node, with a figure of it.

    A step is that of a training: forward, loss, backward, weight decay and the optimizer's update.
    """
    device, data = build.device(config), build.dataset(config)
    net, optimizer = build.network(config, data, device), build.optimizer(cfg)
    size, accumulate = config.trainer.batch_size, config.trainer.accumulate
    count = min(size * accumulate, len(data.train))
    x, t = data.train.x[:count], data.train.t[:count]
    accumulated = size if accumulate > 1 else None
    steps = steps_of(net, optimizer, build.weight_decay(config, optimizer), ahead=True, accumulated=accumulated)
    times = 1e3 * np.array(step_seconds(steps, Batch(x, t, config.optimizer.lr)))
    low, middle, high = np.percentile(times, (25, 50, 75))
    print(f"{net!r} on {device!r}")
    print(f"{middle:.2f} ms a step of {count} images (quartiles {low:.2f} and {high:.2f}), {len(times)} steps")
    print(f"{count / middle * 1e3:,.0f} images/s")
    if config.device.name == "cpu":
        found = artifacts(net, x[:size], t[:size])
        print(found["profile/profile.txt"])
        with optional_output("table and figure", "bench", net.name) as folder:
            for name, content in found.items():
                path = folder / Path(name).name
                if isinstance(content, str):
                    path.write_text(content, encoding="utf-8")
                else:
                    content.savefig(path)


def step_seconds(steps: Steps, batch: Batch) -> list[float]:
    """Return the seconds of each step on a batch, after a warm-up; on a GPU their mean, as it works ahead."""
    _take(steps, batch)
    times: list[float] = []
    begun = perf_counter()
    while perf_counter() - begun < SECONDS:
        times += _take(steps, batch)
    return times


def _take(steps: Steps, batch: Batch) -> list[float]:
    while not steps.full:
        steps.enqueue(batch)
    return [taken.seconds for taken in steps.results()]
