"""What saving costs a training of VGG16 at full width with Adam: `python scripts/bench_checkpoint.py --data PATH`.

The time of all steps, saving as it goes, against as many median steps; whatever else slows a step counts too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from nl_layers.optimizers import Adam
from nl_layers.schedules import Constant
from nl_models import build
from nl_nodes import Device
from nl_training.checkpoint import Checkpoints
from nl_training.data import load
from nl_training.observer import Observer, StepReport
from nl_training.paths import ROOT
from nl_training.trainer import Limits, Trainer

WARM = 5  # steps that are not counted


class Clock(Observer):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, report: StepReport) -> None:
        """Note it."""
        self.times.append(time.perf_counter())


def main() -> None:
    """Train, and print the share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None, help="folder with the four MNIST files; fetched without")
    parser.add_argument("--seconds", type=float, default=15.0, help="between two checkpoints")
    parser.add_argument("--steps", type=int, default=120)
    options = parser.parse_args()
    clock, data = Clock(), load("mnist", root=options.data)
    net = build("vgg16", input_shape=(1, 28, 28), device=Device())
    output = ROOT / "outputs"
    output.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as folder, Checkpoints(Path(folder), None, options.seconds) as kept:
        limits = Limits(epochs=1, batch_size=128, max_steps=options.steps)
        Trainer(net, Adam(0.001), Constant(), data, limits, 0.0, 0, [clock], kept).run()
    steps = np.diff(clock.times)[WARM:]
    median = float(np.median(steps))
    print(f"{len(steps)} steps, median {median * 1e3:.0f} ms, slowest {steps.max() * 1e3:.0f} ms")
    print(f"saving every {options.seconds:g} s costs at most {steps.sum() / (median * len(steps)) - 1:.1%}")


if __name__ == "__main__":
    main()
