"""Cost of checkpoints in a training of VGG16 at full width with Adam: `python scripts/bench_checkpoint.py --data PATH`.

The cost is the time of the steps during which a checkpoint is saved, beyond the median of the other steps.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nl_layers.optimizers import Adam
from nl_layers.schedules import Constant
from nl_models import build
from nl_nodes import Device
from nl_training.data import load
from nl_training.paths import output_folder
from nl_training.training.callbacks import Callback, StepReport
from nl_training.training.checkpoint import Checkpoints
from nl_training.training.trainer import Trainer, TrainOptions

WARM = 5  # steps that are not measured
DURING = 2  # steps that a save may slow down
EVERY = 30  # default seconds between two saves


class Clock(Callback):
    """Records the time of each step, and the steps after which a checkpoint was found on disk."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.saved: list[int] = []

    def on_step(self, report: StepReport) -> None:
        """Record the time."""
        self.times.append(time.perf_counter())

    def on_saved(self, facts: Mapping[str, Any]) -> None:
        """Record the step."""
        self.saved.append(len(self.times) - 1)


def main() -> None:
    """Train, and print the cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None, help="folder with the four MNIST files; default: download them")
    parser.add_argument("--seconds", type=float, default=10.0, help="between two checkpoints")
    parser.add_argument("--steps", type=int, default=120)
    options = parser.parse_args()
    clock, data = Clock(), load("mnist", root=options.data)
    net = build("vgg16", input_shape=(1, 28, 28), device=Device())
    output = output_folder("outputs")
    with tempfile.TemporaryDirectory(dir=output) as folder, Checkpoints(Path(folder), None, options.seconds) as saved:
        train_options = TrainOptions(epochs=1, batch_size=128, max_steps=options.steps)
        Trainer(net, Adam(0.001), Constant(), data, train_options, 0.0, 0, [clock], saved).run()
    steps = np.diff(clock.times)  # the first is from step 1 to step 2
    # A save starts between two steps, and is reported after the step in which it ends.
    slow = [place - before for place in clock.saved for before in range(1, DURING + 1) if WARM <= place < options.steps]
    others = np.delete(steps, [*range(WARM), *slow])
    saves = len(slow) // DURING
    median = float(np.median(others))
    cost = float((steps[slow] - median).sum()) / saves
    print(f"a step takes {median * 1e3:.0f} ms")
    print(f"{saves} saves cost {cost * 1e3:.0f} ms each, {cost / EVERY:.1%} of {EVERY} s")


if __name__ == "__main__":
    main()
