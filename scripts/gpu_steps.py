"""Two training steps of a model on a GPU and nothing else, for a checker of kernels.

`compute-sanitizer --tool racecheck python scripts/gpu_steps.py cnn3`: few images, as it makes kernels much slower.
"""

from __future__ import annotations

import argparse

import numpy as np

import nl_models
from nl_layers.optimizers import Adam
from nl_nodes import Device, UserError
from nl_training.training.steps import Batch, steps_of

BATCH, STEPS = 8, 2


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="mlp, cnn3, cnn8, vgg11 or vgg16")
    parser.add_argument("--device", default="gpu")
    options = parser.parse_args()
    try:
        net = nl_models.build(options.model, batch_norm=True, dropout=0.3, device=Device(options.device))
    except UserError as error:
        parser.exit(1, f"{error}\n")
    optimizer, rng = Adam(), np.random.default_rng(0)
    steps = steps_of(net, optimizer, weight_decay=0.0, ahead=False)
    for _ in range(STEPS):
        x, t = rng.standard_normal((BATCH, *net.input_shape)), rng.integers(0, net.classes, BATCH)
        steps.enqueue(Batch(x, t, optimizer.lr))
        for taken in steps.results():
            print(f"loss {taken.loss:.4f}")


if __name__ == "__main__":
    main()
