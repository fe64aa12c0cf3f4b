"""Errors planted in the training code, and the output of `verify=strict` for each.

Each is planted at run time, in a separate process: `python -c "from support.plants import main; main('NAME')"`.
"""

from __future__ import annotations

import numpy as np

from nl_layers import optimizers
from nl_models import Network, build
from nl_nodes import Device, UserError
from nl_training.data import Split
from nl_training.verification import Training, verify
from support.plants import compiled, limits, network, nodes, regularization, steps  # noqa: F401  (registers their errors)
from support.plants.registry import IMAGES, LIMITS, NORMALISED, PLANTS, ROWS, Plant

CLEAN = {
    name: Plant("", lambda: None, options)
    for name, options in {"images": IMAGES, "normalised": NORMALISED, "rows": ROWS}.items()
}


def training(planted: Plant, net: Network) -> Training:
    """Return the training settings: 9 images, batches of 12 and 5, evaluations in one and in two batches."""
    rng, optimizer = np.random.default_rng(1), getattr(optimizers, planted.optimizer)()
    x = planted.images(rng.standard_normal((9, *net.input_shape), dtype=np.float32))
    train = Split(x, rng.integers(0, net.classes, 9))
    sizes, evaluated, decay = frozenset({12, 5}), frozenset({6, 260}), planted.weight_decay
    schedule, how = planted.schedule, planted.regularization
    return Training(train, sizes, evaluated, 12.5, optimizer, schedule, decay, regularization=how)


def main(name: str) -> None:
    """Plant an error, or none if the name is in `CLEAN`, and verify; print whether it is accepted or refused."""
    planted = {**CLEAN, **PLANTS, **LIMITS}[name]
    planted.function()
    net = build(**{"device": Device(threads=2), **planted.network})
    try:
        print("accepted:", *verify(net, "strict", 1e6, training=training(planted, net)).lines())
    except UserError as error:
        print("refused:", error)
